"""A layer's tar archive as a stream, verified: the blob's digest before, both digests at the end.

The blob is hashed once before anything in it is parsed. Since the file could change until it is
parsed, both digests are compared again at the end of the stream, which `LayerStream.finish` reads
up to; what was made of the stream before that must not be used earlier.
"""

from __future__ import annotations

from collections.abc import Callable

from crannog.errors import FormatError
from crannog.oci.blobs import Blobs
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.model import Layer
from crannog.oci.streams import (
    PIECE,
    Inflating,
    Reading,
    Source,
    check_same,
    compression,
)

Progress = Callable[[int], None]


def _silent(size: int) -> None:
    del size


class LayerStream:
    """The decompressed archive of one layer.

    Args:
        blobs: where it lies.
        layer: which.
        progress: told the bytes of the blob as they are read.
        limits: bounds.

    Raises:
        FormatError, IntegrityError, NotFound, StorageFailed, TooLarge, Unsupported: also on
            reading.
    """

    def __init__(
        self,
        blobs: Blobs,
        layer: Layer,
        *,
        progress: Progress = _silent,
        limits: Limits = DEFAULT,
    ) -> None:
        self._layer = layer
        self.what = f"layer {layer.digest or layer.diff_id}"
        source, size = blobs.open(layer.blob)
        if layer.size not in (-1, size):
            source.close()
            raise FormatError(f"{self.what} has {size} bytes, expected {layer.size}")
        try:
            head = _head(source)
            self.gzip = compression(head, self.what)
        except BaseException:
            source.close()
            raise
        self._blob = Reading(_Begun(source, head), progress)
        inner: Source = self._blob
        if self.gzip:
            inner = Inflating(self._blob, self.what, limits.layer_bytes)
        self._tar = Reading(inner)

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes of the archive; none at its end."""
        return self._tar.read(size)

    def finish(self) -> None:
        """Read up to the end and check what everything was.

        Raises:
            IntegrityError: the blob or the archive in it is not what the image says.
        """
        self._tar.drain()
        self._blob.drain()
        if self._layer.digest:
            check_same(self._blob.digest(), self._layer.digest, self.what)
        check_same(self._tar.digest(), self._layer.diff_id, f"the archive in {self.what}")

    def close(self) -> None:
        """Give it up."""
        self._blob.close()


class _Begun:
    """A source of which `head` was read already."""

    def __init__(self, source: Source, head: bytes) -> None:
        self._source = source
        self._head = head

    def read(self, size: int, /) -> bytes:
        """The next bytes."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._source.read(size)

    def close(self) -> None:
        """Close the source."""
        self._source.close()


def verify_blob(blobs: Blobs, layer: Layer, *, progress: Progress = _silent) -> tuple[str, int]:
    """Hash a layer's blob and compare; its digest and size.

    Layers without a digest of their own (archives of `docker save`) are compared with their diff id
    where they are not compressed, and otherwise when they are read.

    Raises:
        IntegrityError: it is not what the image says.
    """
    source, _ = blobs.open(layer.blob)
    try:
        head = _head(source)
        reading = Reading(_Begun(source, head), progress)
        while reading.read(PIECE):
            pass
    finally:
        source.close()
    what = f"layer {layer.digest or layer.diff_id}"
    if layer.digest:
        check_same(reading.digest(), layer.digest, what)
    elif not compression(head, what):
        check_same(reading.digest(), layer.diff_id, what)
    return reading.digest(), reading.count


def _head(source: Source) -> bytes:
    head = b""
    while len(head) < 8:
        more = source.read(8 - len(head))
        if not more:
            break
        head += more
    return head
