"""Reads tar archives strictly, member by member, and keeps each header as it was.

What a name means follows the readers that unpack images (Go's `archive/tar` in Docker, Podman and
containerd): POSIX.1-2001 with extended headers, ustar with prefixes, GNU long names, GNU sparse
files. Where readers could differ (two long names for one member, a name with `..`, an absolute one,
data after the end) the archive is refused. Nothing is unpacked here. Since the raw header blocks of
a member are kept, copying a member copies everything that it says, also what is not understood.

Format: POSIX.1-2017 `pax`, sections "ustar Interchange Format" and "pax Header Block"; the GNU tar
manual, appendix "Standard Format".
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from crannog.errors import FormatError, TooLarge
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.names import normal_name
from crannog.oci.streams import Source
from crannog.shield.paths import printable

BLOCK = 512
END = bytes(2 * BLOCK)
_PIECE = 1 << 20
_ZERO = bytes(BLOCK)
_PAX_LENGTH = re.compile(rb"([1-9]\d{0,9}) ")
_PAX_TIME = re.compile(rb"(-?\d{1,15})(?:\.(\d{1,20}))?\Z")
_PAX_NUMBER = re.compile(rb"\d{1,19}\Z")
_OCTAL = re.compile(rb"[0-7]*\Z")
_XATTRS = (b"SCHILY.xattr.", b"LIBARCHIVE.xattr.")
_MAX_EXTENT_BLOCKS = 10_000  # of an old GNU sparse file


class Type(enum.Enum):
    """What a member is."""

    FILE = "a file"
    HARD_LINK = "a hard link"
    LINK = "a symbolic link"
    CHARACTER = "a character device"
    BLOCK = "a block device"
    DIRECTORY = "a directory"
    FIFO = "a FIFO"
    COMMENT = "a global header"  # names nothing; `comment` as git writes it


_TYPES = {
    b"0": Type.FILE,
    b"\0": Type.FILE,
    b"S": Type.FILE,
    b"1": Type.HARD_LINK,
    b"2": Type.LINK,
    b"3": Type.CHARACTER,
    b"4": Type.BLOCK,
    b"5": Type.DIRECTORY,
    b"6": Type.FIFO,
    b"g": Type.COMMENT,
}


class Member(NamedTuple):
    """One member.

    Attributes:
        name: normalised, relative, without a slash at either end; empty for the root itself.
        aliases: further names that another reader might give it (sparse files of GNU tar).
        type: what it is.
        target: a link's: as it stands there for a symbolic one, normalised for a hard one.
        size: bytes of data that follow the header in the archive.
        mode: permission bits (0o7777).
        uid: owner.
        gid: group.
        mtime_ns: time of the last change, nanoseconds since 1970.
        sparse: whether the data is not simply the content.
        xattrs: names of extended attributes.
        header: every block before the data, as it was.
    """

    name: bytes
    aliases: tuple[bytes, ...]
    type: Type
    target: bytes
    size: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    sparse: bool
    xattrs: tuple[bytes, ...]
    header: bytes


class _Extensions(NamedTuple):
    pax: Mapping[bytes, bytes]
    long_name: bytes | None
    long_link: bytes | None


class TarReader:
    """The members of an archive in order; iterate, and take each one's data or leave it.

    Args:
        stream: gives the archive's bytes; nothing is sought.
        what: names the archive in errors.
        limits: bounds.

    Raises:
        FormatError, TooLarge: on iterating and reading; and what `stream` raises.
    """

    def __init__(self, stream: Source, what: str, limits: Limits = DEFAULT) -> None:
        self._stream = stream
        self._what = what
        self._limits = limits
        self._offset = 0
        self._left = 0  # of the current member's data
        self._padding = 0

    @property
    def offset(self) -> int:
        """Where in the archive the next byte to be read is: after a header, the data's begin."""
        return self._offset

    def __iter__(self) -> Iterator[Member]:
        while True:
            self._skip()
            member = self._next()
            if member is None:
                self._finish()
                return
            yield member

    def data(self) -> Iterator[bytes]:
        """The current member's data in pieces of at most 1 MiB."""
        while self._left:
            piece = self._exactly(min(_PIECE, self._left))
            self._left -= len(piece)
            yield piece

    def skip_by_seeking(self) -> None:
        """Pass over the current member's data where the stream can be moved on without reading."""
        move = getattr(self._stream, "skip", None)
        if self._left and move is not None:
            if not move(self._left):
                raise self._bad("the archive is cut off")
            self._offset += self._left
            self._left = 0

    def _skip(self) -> None:
        for _ in self.data():
            pass
        self._exactly(self._padding)
        self._padding = 0

    def _next(self) -> Member | None:
        header = b""
        pax: dict[bytes, bytes] = {}
        long_name: bytes | None = None
        long_link: bytes | None = None
        while True:
            block = self._block(begun=bool(header))
            if block is None:
                return None
            header += block
            if len(header) > self._limits.extension:
                raise TooLarge(
                    f"{self._what}: a header has more than {self._limits.extension} bytes"
                )
            kind = block[156:157]
            if kind not in b"xLK":
                return self._member(block, header, _Extensions(pax, long_name, long_link))
            size = self._number(block[124:136], "size")
            if size > self._limits.extension:
                raise TooLarge(
                    f"{self._what}: an extended header has {size} bytes,"
                    f" expected at most {self._limits.extension}"
                )
            body = self._exactly(size + -size % BLOCK)
            header += body
            if kind == b"x":
                if pax:
                    raise self._bad("two extended headers for one member")
                pax = self._records(body[:size])
            elif kind == b"L":
                long_name = _text(body[:size])
            else:
                long_link = _text(body[:size])

    def _member(self, block: bytes, header: bytes, found: _Extensions) -> Member:
        kind = _TYPES.get(block[156:157])
        if kind is None:
            raise self._bad(f"a member is of the unknown type {printable(block[156:157])}")
        pax = found.pax
        size = self._pax_number(pax, b"size", self._number(block[124:136], "size"))
        if size > self._limits.layer_bytes:
            raise TooLarge(
                f"{self._what}: a member has {size} bytes,"
                f" expected at most {self._limits.layer_bytes}"
            )
        if kind is Type.COMMENT:
            return self._comment(size, header)
        raw = self._name(block, found)
        if kind is Type.FILE and block[156:157] == b"\0" and raw.endswith(b"/"):
            kind = Type.DIRECTORY
        if kind is not Type.FILE:
            size = 0  # whatever it says: readers agree that no data follows
        sparse = block[156:157] == b"S"
        if sparse:
            header += self._extents(block)
        aliases: tuple[bytes, ...] = ()
        if any(key.startswith(b"GNU.sparse.") for key in pax):
            sparse = True
            if b"GNU.sparse.name" in pax:
                aliases = (normal_name(raw, self._what),)
                raw = pax[b"GNU.sparse.name"]
        name = normal_name(raw, self._what)
        if not name and kind is not Type.DIRECTORY:
            raise self._bad(f"{kind.value} has no name")
        self._left, self._padding = size, -size % BLOCK
        return Member(
            name,
            aliases,
            kind,
            self._target(kind, name, block, found),
            size,
            self._number(block[100:108], "mode") & 0o7777,
            self._pax_number(pax, b"uid", self._number(block[108:116], "uid")),
            self._pax_number(pax, b"gid", self._number(block[116:124], "gid")),
            self._time(pax, self._number(block[136:148], "mtime")),
            sparse,
            tuple(
                key[len(prefix) :] for key in pax for prefix in _XATTRS if key.startswith(prefix)
            ),
            header,
        )

    def _comment(self, size: int, header: bytes) -> Member:
        if size > self._limits.extension:
            raise TooLarge(f"{self._what}: a global header has {size} bytes")
        body = self._exactly(size + -size % BLOCK)
        # Some readers would apply them to everything that follows, others to nothing.
        if set(self._records(body[:size])) - {b"comment"}:
            raise self._bad("a global header sets more than a comment")
        return Member(b"", (), Type.COMMENT, b"", 0, 0, 0, 0, 0, False, (), header + body)

    def _name(self, block: bytes, found: _Extensions) -> bytes:
        if found.long_name is not None:
            if found.pax.get(b"path", found.long_name) != found.long_name:
                raise self._bad("a member has two long names")
            return found.long_name
        if b"path" in found.pax:
            return found.pax[b"path"]
        name = _text(block[:100])
        if block[257:263] == b"ustar\0":
            # The old `star` format has a shorter prefix, and marks itself at the end.
            prefix = _text(block[345:476] if block[508:512] == b"tar\0" else block[345:500])
            if prefix:
                return prefix + b"/" + name
        elif block[257:263] == b"ustar " and _text(block[345:357]).strip(b" 01234567"):
            raise self._bad("a GNU header has a prefix")
        return name

    def _target(self, kind: Type, name: bytes, block: bytes, found: _Extensions) -> bytes:
        if kind not in (Type.LINK, Type.HARD_LINK):
            return b""
        target = found.pax.get(b"linkpath", _text(block[157:257]))
        if found.long_link is not None:
            if found.pax.get(b"linkpath", found.long_link) != found.long_link:
                raise self._bad("a link has two long targets")
            target = found.long_link
        if not target:
            raise self._bad(f"link {printable(name)} has no target")
        if len(target) > 4095:
            raise self._bad(f"link {printable(name)} has a target of {len(target)} bytes")
        if kind is Type.HARD_LINK:
            return normal_name(target, self._what)
        return target

    def _extents(self, block: bytes) -> bytes:
        """The further headers of an old GNU sparse file."""
        more, extended = b"", block[482:483] not in (b"\0", b"")
        for _ in range(_MAX_EXTENT_BLOCKS):
            if not extended:
                return more
            extent = self._exactly(BLOCK)
            more += extent
            extended = extent[504:505] != b"\0"
        raise TooLarge(f"{self._what}: a sparse file has more than {_MAX_EXTENT_BLOCKS} headers")

    def _block(self, *, begun: bool) -> bytes | None:
        """The next header block, checked; None at the end of the archive."""
        block = self._read(BLOCK)
        if not block and not begun:
            return None
        if len(block) < BLOCK:
            raise self._bad("the archive is cut off")
        if block == _ZERO:
            if begun:
                raise self._bad("an extended header belongs to no member")
            second = self._read(BLOCK)
            if second.strip(b"\0"):
                raise self._bad("a member follows the end of the archive")
            return None
        told = self._number(block[148:156], "checksum")
        plain = sum(block) - sum(block[148:156]) + 8 * 32
        if told != plain:
            # Very old writers summed signed bytes.
            signed = plain - 256 * sum(byte > 127 for byte in block[:148] + block[156:])
            if told != signed:
                raise self._bad("a header's checksum is wrong")
        return block

    def _finish(self) -> None:
        """Refuse anything but zeros after the end: what nobody unpacks is shipped all the same."""
        while piece := self._read(_PIECE):
            if piece.strip(b"\0"):
                raise self._bad("data follows the end of the archive")

    def _records(self, body: bytes) -> dict[bytes, bytes]:
        records: dict[bytes, bytes] = {}
        position = 0
        while position < len(body):
            found = _PAX_LENGTH.match(body, position)
            end = position + int(found[1]) if found else 0
            if found is None or end > len(body) or end <= found.end():
                raise self._bad("an extended header is malformed")
            key, equals, value = body[found.end() : end].partition(b"=")
            if not equals or not key or not value.endswith(b"\n") or b"\0" in key:
                raise self._bad("an extended header is malformed")
            records[key] = value[:-1]
            position = end
        for key in (b"path", b"linkpath", b"GNU.sparse.name"):
            if b"\0" in records.get(key, b""):
                raise self._bad("a name holds a NUL byte")
            if not records.get(key, b"x"):
                del records[key]  # POSIX: an empty value takes the header's
        return records

    def _pax_number(self, pax: Mapping[bytes, bytes], key: bytes, default: int) -> int:
        value = pax.get(key)
        if value is None:
            return default
        if not _PAX_NUMBER.match(value):
            raise self._bad(f"{key.decode()} of an extended header is no number")
        return int(value)

    def _time(self, pax: Mapping[bytes, bytes], seconds: int) -> int:
        value = pax.get(b"mtime")
        if value is None:
            return _bounded_time(seconds * 10**9)
        found = _PAX_TIME.match(value)
        if found is None:
            raise self._bad("mtime of an extended header is no time")
        fraction = int((found[2] or b"0")[:9].ljust(9, b"0"))
        whole = int(found[1])
        return _bounded_time(whole * 10**9 + (-fraction if value.startswith(b"-") else fraction))

    def _number(self, field: bytes, what: str) -> int:
        """An octal number, or a binary one as GNU tar writes large ones."""
        if field[0] & 0x80:
            value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
            if field[0] & 0x40:
                value -= 1 << (8 * len(field) - 1)
            if what != "mtime" and value < 0:
                raise self._bad(f"{what} of a header is negative")
            return value
        digits = field.strip(b" \0")
        if not _OCTAL.match(digits):
            raise self._bad(f"{what} of a header is no number")
        return int(digits or b"0", 8)

    def _exactly(self, length: int) -> bytes:
        data = self._read(length)
        if len(data) < length:
            raise self._bad("the archive is cut off")
        return data

    def _read(self, length: int) -> bytes:
        if not length:
            return b""
        data = self._stream.read(length)
        while data and len(data) < length:
            more = self._stream.read(length - len(data))
            if not more:
                break
            data += more
        self._offset += len(data)
        return data

    def _bad(self, message: str) -> FormatError:
        return FormatError(f"{self._what}: {message}", offset=self._offset)


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _bounded_time(nanoseconds: int) -> int:
    """Within the 64 bits of an fspf; times outside mean nothing anyway."""
    return max(-(2**63), min(nanoseconds, 2**63 - 1))
