"""Directory entries as getdents and getdents64 return them. Pure.

Layouts: `struct linux_dirent64` and `struct linux_dirent` of fs/readdir.c. A position is what
follows an entry: a reader that stops after an entry goes on at that entry's position.
"""

from __future__ import annotations

import struct
from _blake2 import blake2b  # which is hashlib.blake2b, without the OpenSSL that hashlib loads
from collections.abc import Iterable
from typing import Final, NamedTuple

_HEAD64: Final = struct.Struct("=QqHB")
_HEAD: Final = struct.Struct("=QQH")
_POSITION_BITS: Final = 42
"""ext4 without an index takes no position beyond the longest file, 16 TiB (44 bits)."""
_RESERVED: Final = 16


class DirectoryRecord(NamedTuple):
    """One entry of a directory.

    Attributes:
        inode: as stat says.
        after: the position behind it.
        kind: `DT_*` of dirent.h.
        name: without NUL.
    """

    inode: int
    after: int
    kind: int
    name: bytes


def pack64(record: DirectoryRecord) -> bytes:
    """The record as getdents64 returns it."""
    length = (19 + len(record.name) + 1 + 7) & ~7
    head = _HEAD64.pack(record.inode, record.after, length, record.kind)
    return (head + record.name).ljust(length, b"\0")


def pack(record: DirectoryRecord) -> bytes:
    """The record as the older getdents returns it: the kind is the last byte."""
    length = (18 + len(record.name) + 2 + 7) & ~7
    head = _HEAD.pack(record.inode, record.after, length)
    return (head + record.name).ljust(length - 1, b"\0") + bytes((record.kind,))


def fill(records: Iterable[DirectoryRecord], room: int, *, old: bool) -> tuple[bytes, int] | None:
    """As many records as fit into `room` bytes, and the position behind the last of them.

    Returns:
        Empty bytes where there are no records; None where not even the first fits (EINVAL).
    """
    packer = pack if old else pack64
    parts: list[bytes] = []
    used = 0
    position = 0
    for record in records:
        data = packer(record)
        if used + len(data) > room:
            if not parts:
                return None
            break
        parts.append(data)
        used += len(data)
        position = record.after
    return b"".join(parts), position


def parse64(data: bytes) -> list[tuple[int, int, bytes]]:
    """(inode, kind, name) of each record that the kernel's getdents64 returned."""
    found: list[tuple[int, int, bytes]] = []
    offset = 0
    while offset + 19 <= len(data):
        inode, _, length, kind = _HEAD64.unpack_from(data, offset)
        if length < 20:
            break
        name = data[offset + 19 : offset + length].split(b"\0", 1)[0]
        found.append((inode, kind, name))
        offset += length
    return found


def position_of(name: bytes) -> int:
    """A position for a name that depends on nothing else.

    So it keeps its meaning while other names come and go: who goes on from it neither misses nor
    repeats what was there all the time. At least 16, below 2**42.
    """
    digest = blake2b(name, digest_size=8).digest()
    number = int.from_bytes(digest, "little") & ((1 << _POSITION_BITS) - 1)
    return max(number, _RESERVED)


def number_of(path: bytes) -> int:
    """An inode number for a path that has none yet: stable, never 0, in the upper half."""
    digest = blake2b(path, digest_size=8).digest()
    return int.from_bytes(digest, "little") | 1 << 63
