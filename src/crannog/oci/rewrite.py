"""Writes layers anew: without some members of an old one, and in the same form again.

What is kept is copied with its own header blocks, so that modes, owners, times, extended attributes
and what is not understood stay. The same input gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from typing import NamedTuple

from crannog.oci.blobs import Blobs
from crannog.oci.layers import LayerStream, Progress
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.model import Layer
from crannog.oci.names import join
from crannog.oci.scan import Visitor
from crannog.oci.streams import Deflating, Sink, Writing
from crannog.oci.tar import Member, TarReader, Type
from crannog.oci.tar_writer import TarWriter
from crannog.oci.union import WHITEOUT


class Written(NamedTuple):
    """A blob that was written: its digest, its bytes, and the digest of the archive in it."""

    digest: str
    size: int
    diff_id: str
    gzip: bool


class _Both:
    """Writes to two places."""

    def __init__(self, first: Writing, second: Sink) -> None:
        self._first, self._second = first, second

    def write(self, data: bytes | memoryview, /) -> int:
        """All of `data`, to both."""
        self._first.write(data)
        self._second.write(data)
        return len(data)


class _Nowhere:
    def write(self, data: bytes | memoryview, /) -> int:
        return len(data)


class LayerWriter:
    """A layer that is being written to `sink`, compressed or not; `finish` says what it became.

    Raises:
        StorageFailed: on writing.
    """

    def __init__(self, sink: Sink, where: str, *, gzip: bool) -> None:
        self._gzip = gzip
        self._blob = Writing(sink, where)
        self._deflating = Deflating(self._blob) if gzip else None
        self._tar = Writing(_Nowhere(), where)
        self.archive = TarWriter(_Both(self._tar, self._deflating or self._blob))

    def finish(self) -> Written:
        """End the archive and the compression; the sink stays open."""
        self.archive.close()
        if self._deflating is not None:
            self._deflating.finish()
        return Written(self._blob.digest(), self._blob.count, self._tar.digest(), self._gzip)


def pass_layer(
    blobs: Blobs,
    layer: Layer,
    *,
    archive: TarWriter | None = None,
    keep: Callable[[int, Member], bool] = lambda number, member: True,
    hide: Container[int] = (),
    visit: Callable[[int, Member], Visitor | None] = lambda number, member: None,
    progress: Progress = lambda size: None,
    limits: Limits = DEFAULT,
) -> None:
    """Pass over a layer once more: copy the members that stay, and show contents to visitors.

    Args:
        blobs: where the layer lies.
        layer: which.
        archive: where members are copied to; None to copy none.
        keep: whether a member, given its number from 0, is copied.
        hide: numbers of members in whose place there is a whiteout.
        visit: asked for a visitor of a member's data.
        progress: told the bytes of the blob as they are read.
        limits: bounds.

    Raises:
        IntegrityError: the layer is not what the image says; nothing that was made may be used.
        FormatError, StorageFailed, TooLarge: as reading and writing do.
    """
    stream = LayerStream(blobs, layer, progress=progress, limits=limits)
    try:
        reader = TarReader(stream, stream.what, limits)
        for number, member in enumerate(reader):
            data = _shown(reader.data(), visit(number, member))
            if archive is not None and keep(number, member):
                archive.copy(member, data)
                continue
            for _ in data:
                pass
            if archive is not None and number in hide:
                directory, _, name = member.name.rpartition(b"/")
                archive.add(join(directory, WHITEOUT + name), Type.FILE, mode=0o644)
        stream.finish()
    finally:
        stream.close()


def _shown(data: Iterator[bytes], visitor: Visitor | None) -> Iterator[bytes]:
    for piece in data:
        if visitor is not None:
            visitor.piece(piece)
        yield piece
    if visitor is not None:
        visitor.end()
