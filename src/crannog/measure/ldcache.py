"""`/etc/ld.so.cache`: which paths glibc takes for a library's name.

Decides only what the file says. Source: glibc's `sysdeps/generic/dl-cache.h`, the format written
since glibc 2.2 (`glibc-ld.so.cache1.1`), also where the older one stands before it.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from crannog.errors import FormatError
from crannog.measure.elf import MACHINE_AARCH64, MACHINE_X86_64

CACHE_PATH = "/etc/ld.so.cache"
CACHE_LIMIT = 64 << 20  # bytes; a full desktop has 200 KiB

_OLD_MAGIC = b"ld.so-1.7.0\0"
_NEW_MAGIC = b"glibc-ld.so.cache1.1"
_HEADER = struct.Struct("<20sIIB3xI12x")
_ENTRY = struct.Struct("<iIIIQ")
# FLAG_ELF_LIBC6 with the ABI bits of the machine.
_FLAGS = {MACHINE_X86_64: 0x0303, MACHINE_AARCH64: 0x0A03}


class CachedLibrary(NamedTuple):
    """One line of `ldconfig -p`. `variant` says it is for some processors only (glibc-hwcaps)."""

    path: str
    variant: bool


class LoaderCache:
    """The cache's entries for one machine, by name, in the file's order."""

    def __init__(self, data: bytes, entries: dict[bytes, list[tuple[int, bool]]]) -> None:
        self._data = data
        self._entries = entries

    def lookup(self, name: str) -> tuple[CachedLibrary, ...]:
        """Every path for `name`: which one is taken depends on the processor.

        Raises:
            FormatError: a path lies outside the file.
        """
        return tuple(
            CachedLibrary(os.fsdecode(_string(self._data, position)), variant)
            for position, variant in self._entries.get(os.fsencode(name), ())
        )

    def __len__(self) -> int:
        return len(self._entries)


EMPTY_CACHE = LoaderCache(b"", {})


def parse_cache(data: bytes, machine: int) -> LoaderCache:
    """Read the cache for programs of `machine` (an ELF machine number).

    Raises:
        FormatError: for anything that is not exactly such a file. (glibc would go on without the
            cache; what is measured then would be guesswork.)
    """
    start = 0
    if data.startswith(_OLD_MAGIC):
        if len(data) < 16:
            raise FormatError("ld.so.cache: cut short", offset=len(data))
        (count,) = struct.unpack_from("<I", data, 12)
        start = (16 + 12 * count + 7) & ~7  # ALIGN_CACHE
    if len(data) < start + _HEADER.size or not data.startswith(_NEW_MAGIC, start):
        raise FormatError("ld.so.cache: not in the format glibc-ld.so.cache1.1", offset=start)
    _, count, strings, order, _ = _HEADER.unpack_from(data, start)
    if order & 3 not in (0, 2):
        raise FormatError("ld.so.cache: big-endian", offset=start + 28)
    table = start + _HEADER.size
    if table + count * _ENTRY.size + strings > len(data):
        raise FormatError(
            f"ld.so.cache: {count} entries and {strings} bytes of strings in {len(data)} bytes",
            offset=start + 20,
        )
    wanted = _FLAGS.get(machine)
    found: dict[bytes, list[tuple[int, bool]]] = {}
    body = memoryview(data)[table : table + count * _ENTRY.size]
    for flags, key, value, _, hwcap in _ENTRY.iter_unpack(body):
        if flags == wanted:
            found.setdefault(_string(data, start + key), []).append((start + value, hwcap != 0))
    return LoaderCache(data, found)


def _string(data: bytes, position: int) -> bytes:
    end = data.find(b"\0", position, position + 4096)
    if end < 0 or position >= len(data):
        raise FormatError("ld.so.cache: a string outside the file", offset=position)
    return data[position:end]
