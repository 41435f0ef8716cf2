"""Writes tar archives: the same members give the same bytes.

ustar where a member fits, otherwise with one extended header (POSIX.1-2001) of sorted records. No
names of users, no clock, no order but the caller's. Members of another archive are copied with
their own headers (`TarWriter.copy`).
"""

from __future__ import annotations

from collections.abc import Iterable

from crannog.oci.streams import Sink
from crannog.oci.tar import BLOCK, END, Member, Type

_KINDS = {
    Type.FILE: b"0",
    Type.HARD_LINK: b"1",
    Type.LINK: b"2",
    Type.DIRECTORY: b"5",
}
_MAX_OCTAL_SIZE = 8**11
_MAX_OCTAL_ID = 8**7


class TarWriter:
    """Appends members to `stream`; `close` ends the archive and leaves the stream open."""

    def __init__(self, stream: Sink) -> None:
        self._stream = stream
        self._left = 0
        self._padding = 0

    def add(
        self,
        name: bytes,
        kind: Type,
        *,
        mode: int,
        size: int = 0,
        target: bytes = b"",
        uid: int = 0,
        gid: int = 0,
        mtime: int = 0,
    ) -> None:
        """Begin a member; exactly `size` bytes have to follow by `write`.

        Args:
            name: relative, normalised; a directory's gets its slash here.
            kind: file, directory, symbolic or hard link.
            mode: permission bits.
            size: bytes of content.
            target: of a link.
            uid: owner.
            gid: group.
            mtime: seconds since 1970.
        """
        self._complete()
        if kind is Type.DIRECTORY:
            name += b"/"
        self._stream.write(_header(name, kind, mode, uid, gid, size, mtime, target))
        self._left, self._padding = size, -size % BLOCK

    def copy(self, member: Member, data: Iterable[bytes]) -> None:
        """Add a member of another archive as it was, with its data."""
        self._complete()
        self._stream.write(member.header)
        self._left, self._padding = member.size, -member.size % BLOCK
        for piece in data:
            self.write(piece)

    def write(self, data: bytes | memoryview) -> None:
        """The next bytes of the member's content."""
        if len(data) > self._left:
            raise ValueError(f"{len(data)} bytes for a member that lacks {self._left}")
        self._stream.write(data)
        self._left -= len(data)

    def close(self) -> None:
        """End the archive."""
        self._complete()
        self._stream.write(END)

    def _complete(self) -> None:
        if self._left:
            raise ValueError(f"the member lacks {self._left} bytes")
        self._stream.write(bytes(self._padding))
        self._padding = 0


def _header(
    name: bytes, kind: Type, mode: int, uid: int, gid: int, size: int, mtime: int, target: bytes
) -> bytes:
    records: dict[bytes, bytes] = {}
    if len(name) > 100 or not name.isascii():
        records[b"path"] = name
    if len(target) > 100 or not target.isascii():
        records[b"linkpath"] = target
    for key, value, limit in (
        (b"size", size, _MAX_OCTAL_SIZE),
        (b"uid", uid, _MAX_OCTAL_ID),
        (b"gid", gid, _MAX_OCTAL_ID),
    ):
        if value >= limit:
            records[key] = b"%d" % value
    main = _block(
        name[:100],
        _KINDS[kind],
        mode,
        uid if uid < _MAX_OCTAL_ID else 0,
        gid if gid < _MAX_OCTAL_ID else 0,
        size if size < _MAX_OCTAL_SIZE else 0,
        mtime,
        target[:100],
    )
    if not records:
        return main
    body = b"".join(_record(key, records[key]) for key in sorted(records))
    extension = _block(b"pax", b"x", 0o644, 0, 0, len(body), 0, b"")
    return extension + body + bytes(-len(body) % BLOCK) + main


def _record(key: bytes, value: bytes) -> bytes:
    rest = len(key) + len(value) + 3
    length = rest + len(b"%d" % rest)
    length = rest + len(b"%d" % length)
    return b"%d %s=%s\n" % (length, key, value)


def _block(
    name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, mtime: int, target: bytes
) -> bytes:
    fields = [
        name.ljust(100, b"\0"),
        b"%07o\0%07o\0%07o\0" % (mode, uid, gid),
        b"%011o\0%011o\0" % (size, max(0, min(mtime, 8**11 - 1))),
        b" " * 8,
        kind,
        target.ljust(100, b"\0"),
        b"ustar\x0000",
        bytes(64),
        b"0000000\x000000000\0",
    ]
    block = b"".join(fields).ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
