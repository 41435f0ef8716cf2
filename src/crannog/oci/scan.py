"""Reads every layer of an image once: what it holds, and what programs see of it.

Each blob is verified before it is parsed, and its archive while it is. A visitor is shown the
content of every regular file of every layer, hidden ones too: all of them are shipped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import NamedTuple, Protocol

from crannog.errors import FormatError, TooLarge
from crannog.oci.blobs import Blobs
from crannog.oci.layers import LayerStream, Progress, verify_blob
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.model import Image
from crannog.oci.tar import Member, TarReader, Type
from crannog.oci.union import File, Place, Union


class Visitor(Protocol):
    """Looks at one file's content."""

    def piece(self, data: bytes) -> None:
        """The next bytes."""
        ...

    def end(self) -> None:
        """It is complete."""
        ...


class Shipped(NamedTuple):
    """A regular file's content in a layer.

    Attributes:
        file: its names, and the member that holds it.
        digest: SHA-256 of the content; of the stored data where it is sparse.
        size: bytes of it.
    """

    file: File
    digest: bytes
    size: int


class Scan(NamedTuple):
    """What an image holds.

    Attributes:
        union: what programs see.
        shipped: the content of every regular file of every layer, in order.
        touched: for each layer, the names of its members in order (whiteouts with their prefix).
        gzip: for each layer, whether it is compressed.
        blobs: for each layer, the digest of its blob and the bytes of it.
        members: how many members there are.
    """

    union: Union
    shipped: tuple[Shipped, ...]
    touched: tuple[tuple[tuple[bytes, Type], ...], ...]
    gzip: tuple[bool, ...]
    blobs: tuple[tuple[str, int], ...]
    members: int


def _no_visitor(layer: int, member: Member) -> Visitor | None:
    del layer, member
    return None


def _silent(size: int) -> None:
    del size


def scan_image(
    blobs: Blobs,
    image: Image,
    *,
    visit: Callable[[int, Member], Visitor | None] = _no_visitor,
    progress: Progress = _silent,
    limits: Limits = DEFAULT,
) -> Scan:
    """Read all layers of `image`, the lowest first.

    Args:
        blobs: where they lie.
        image: which they are.
        visit: asked for a visitor of a regular file's content, by layer and member.
        progress: told the bytes of blobs as they are read; each blob is read twice.
        limits: bounds.

    Raises:
        FormatError, IntegrityError, NotFound, StorageFailed, TooLarge, Unsupported: damaged,
            hostile, or beyond what is read here; what `visit` raises.
    """
    union = Union()
    shipped: list[Shipped] = []
    touched: list[tuple[tuple[bytes, Type], ...]] = []
    gzip: list[bool] = []
    measured: list[tuple[str, int]] = []
    count = 0
    for number, layer in enumerate(image.layers):
        measured.append(verify_blob(blobs, layer, progress=progress))
        stream = LayerStream(blobs, layer, progress=progress, limits=limits)
        names: list[tuple[bytes, Type]] = []
        try:
            reader = TarReader(stream, stream.what, limits)
            for member in reader:
                count += 1
                if count > limits.members:
                    raise TooLarge(f"the layers have more than {limits.members} members together")
                names.append((member.name, member.type))
                file = _apply(union, Place(number, len(names) - 1), member, stream.what)
                if member.type is Type.FILE and file is not None:
                    visitor = visit(number, member)
                    shipped.append(_read(file, member, reader, visitor))
            stream.finish()
        finally:
            stream.close()
        touched.append(tuple(names))
        gzip.append(stream.gzip)
    return Scan(union, tuple(shipped), tuple(touched), tuple(gzip), tuple(measured), count)


def _apply(union: Union, place: Place, member: Member, what: str) -> File | None:
    try:
        return union.apply(place, member)
    except FormatError as error:
        raise FormatError(f"{what}: {error.message}") from error


def _read(file: File, member: Member, reader: TarReader, visitor: Visitor | None) -> Shipped:
    digest = hashlib.sha256()
    for piece in reader.data():
        digest.update(piece)
        if visitor is not None:
            visitor.piece(piece)
    if visitor is not None:
        visitor.end()
    return Shipped(file, digest.digest(), member.size)
