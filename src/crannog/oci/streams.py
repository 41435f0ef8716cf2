"""Bytes on their way: counted, hashed, bounded, decompressed.

A digest is of the form `sha256:<64 hex>`. Everything that is read by digest is compared with it at
the end of its stream at the latest; documents before they are parsed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import zlib
from collections.abc import Callable
from typing import Protocol

from crannog.errors import FormatError, IntegrityError, StorageFailed, TooLarge, Unsupported
from crannog.shield.paths import printable

PIECE = 1 << 20
_INPUT = 1 << 15
_OUTPUT = 1 << 18
GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_OTHERS = {b"BZh": "bzip2", b"\xfd7zXZ": "xz"}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}\Z")


class Source(Protocol):
    """Where bytes come from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        ...

    def close(self) -> None:
        """Nothing more is read."""
        ...


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: bytes | memoryview, /) -> int:
        """All of `data`."""
        ...


def check_digest(text: str, what: str) -> str:
    """`text`, which has to be a SHA-256 digest as images write them.

    Raises:
        Unsupported: of another algorithm.
        FormatError: none at all.
    """
    if _DIGEST.match(text):
        return text
    if re.match(r"[a-z0-9]+(?:[+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+\Z", text[:300]):
        raise Unsupported(f"{what} has a digest by {text.partition(':')[0]}, expected sha256")
    raise FormatError(f"{what} has no digest of the form sha256:…")


def digest_of(data: bytes) -> str:
    """The digest of a document."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class Reading:
    """Reads from `source`, and hashes and counts what it gave.

    Args:
        source: where the bytes come from; closed with this.
        progress: told the number of bytes read since it was called last.
    """

    def __init__(self, source: Source, progress: Callable[[int], None] = lambda size: None) -> None:
        self._source = source
        self._hash = hashlib.sha256()
        self._progress = progress
        self.count = 0

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end.

        Raises:
            StorageFailed: the disk or the pipe refused.
        """
        try:
            data = self._source.read(size)
        except OSError as error:
            raise StorageFailed(f"cannot read the image: {error.strerror}") from error
        self._hash.update(data)
        self.count += len(data)
        self._progress(len(data))
        return data

    def digest(self) -> str:
        """Of everything read so far."""
        return "sha256:" + self._hash.hexdigest()

    def drain(self) -> None:
        """Read what is left."""
        while self.read(PIECE):
            pass

    def close(self) -> None:
        """Close the source too."""
        self._source.close()


class Inflating:
    """Decompresses gzip (RFC 1952), one or more members, without ever holding more than a piece.

    Raises:
        FormatError: on reading: not gzip, cut off, a wrong checksum, something after the end.
        TooLarge: more than `limit` bytes came out.
    """

    def __init__(self, source: Reading, what: str, limit: int) -> None:
        self._source = source
        self._what = what
        self._limit = limit
        self._count = 0
        self._inflate = zlib.decompressobj(31)
        self._input = b""
        self._ready = b""
        self._position = 0

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""
        if self._position == len(self._ready):
            if not size:
                return b""
            self._ready, self._position = self._more(), 0
        data = self._ready[self._position : self._position + size]
        self._position += len(data)
        return data

    def _more(self) -> bytes:
        """The next bytes; none at the end. Inputs are small, since what zlib leaves is copied."""
        while True:
            if self._inflate.eof:
                self._input = self._inflate.unused_data or self._source.read(_INPUT)
                if not self._input:
                    return b""
                self._inflate = zlib.decompressobj(31)
            elif not self._input:
                self._input = self._source.read(_INPUT)
                if not self._input:
                    raise FormatError(f"{self._what}: the gzip stream is cut off")
            try:
                data = self._inflate.decompress(self._input, _OUTPUT)
            except zlib.error as error:
                raise FormatError(f"{self._what}: not a gzip stream, or a damaged one") from error
            self._input = self._inflate.unconsumed_tail
            if data:
                self._count += len(data)
                if self._count > self._limit:
                    raise TooLarge(
                        f"{self._what} has more than {self._limit} bytes after decompression"
                    )
                return data

    def close(self) -> None:
        """Close the source too."""
        self._source.close()


def compression(head: bytes, what: str) -> bool:
    """Whether a layer that begins with `head` is compressed by gzip; False where not at all.

    Raises:
        Unsupported: by something else, which is named.
    """
    if head.startswith(GZIP):
        return True
    name = "zstd" if head.startswith(_ZSTD) else ""
    name = name or next((name for magic, name in _OTHERS.items() if head.startswith(magic)), "")
    if name:
        raise Unsupported(
            f"{what} is compressed by {name}, expected gzip or nothing",
            hint="write the image anew with gzip, for example:"
            " skopeo copy --dest-compress-format gzip oci:FROM oci:TO",
        )
    return False


class Writing:
    """Writes to `target`, and hashes and counts what it got.

    Raises:
        StorageFailed: on writing: no space, a closed pipe.
    """

    def __init__(self, target: Sink, where: str) -> None:
        self._target = target
        self._where = where
        self._hash = hashlib.sha256()
        self.count = 0

    def write(self, data: bytes | memoryview, /) -> int:
        """All of `data`."""
        try:
            self._target.write(data)
        except OSError as error:
            raise storage_failed(error, "write", self._where) from error
        self._hash.update(data)
        self.count += len(data)
        return len(data)

    def digest(self) -> str:
        """Of everything written so far."""
        return "sha256:" + self._hash.hexdigest()


class Deflating:
    """Compresses by gzip into `target`, always in the same way; `finish` ends the stream."""

    def __init__(self, target: Writing, level: int = 6) -> None:
        self._target = target
        # 10 bytes of header without time and name, as zlib writes them: the same bytes each time.
        self._deflate = zlib.compressobj(level, zlib.DEFLATED, 31)

    def write(self, data: bytes | memoryview, /) -> int:
        """All of `data`."""
        self._target.write(self._deflate.compress(data))
        return len(data)

    def finish(self) -> None:
        """Write what is left."""
        self._target.write(self._deflate.flush())


def storage_failed(error: OSError, doing: str, where: str) -> StorageFailed:
    """Our error for a failed system call."""
    text = error.strerror or type(error).__name__
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    return StorageFailed(
        f"cannot {doing} {printable(os.fsencode(where))}: {text}",
        hint="make room and run the command again" if full else "",
    )


def check_same(found: str, expected: str, what: str) -> None:
    """Refuse content that is not what its digest says.

    Raises:
        IntegrityError: so.
    """
    if found != expected:
        raise IntegrityError(
            f"{what} has digest {found}, expected {expected}",
            hint="the image is damaged or was changed: get it again",
        )
