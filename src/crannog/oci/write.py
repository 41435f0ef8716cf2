"""Writes an image as a layout in a directory, or as an archive that every engine loads.

An archive is both an OCI layout and what `docker load` has read since version 1.10: blobs once, two
manifests. A directory is made whole under another name and then moved; a file likewise.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from crannog.errors import AlreadyExists
from crannog.oci.assemble import Blob, Documents, blob_path
from crannog.oci.streams import PIECE, Reading, Sink, Source, Writing, check_same, storage_failed
from crannog.oci.tar import Type
from crannog.oci.tar_writer import TarWriter

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

Opener = Callable[[Blob], Source]


def write_archive(
    sink: Sink,
    where: str,
    documents: Documents,
    layers: tuple[Blob, ...],
    open_blob: Opener,
    *,
    layout: bool,
    progress: Callable[[int], None] = lambda size: None,
) -> None:
    """Write an image as a tar archive.

    Args:
        sink: where to; need not be seekable.
        where: names it in errors.
        documents: of the image.
        layers: its layers; one that occurs twice is written once.
        open_blob: gives each one's bytes.
        layout: whether it is an OCI layout too, and not only what `docker load` reads.
        progress: told the bytes of layers as they are written.

    Raises:
        IntegrityError: a blob is not what its digest says: the archive is of no use then.
        StorageFailed: it cannot be written.
    """
    archive = TarWriter(Writing(sink, where))
    for directory in (b"blobs", b"blobs/sha256"):
        archive.add(directory, Type.DIRECTORY, mode=0o755)
    blobs: dict[str, Blob | bytes] = {documents.config_digest: documents.config}
    if layout:
        blobs[documents.manifest_digest] = documents.manifest
    blobs |= {layer.digest: layer for layer in layers}
    for digest in sorted(blobs):
        blob = blobs[digest]
        name = blob_path(digest).encode()
        if isinstance(blob, bytes):
            _file(archive, name, blob)
            continue
        archive.add(name, Type.FILE, mode=0o644, size=blob.size)
        _copy(open_blob(blob), archive, blob, progress)
    if layout:
        _file(archive, b"index.json", documents.layout_index)
        _file(archive, b"oci-layout", _LAYOUT)
    _file(archive, b"manifest.json", documents.archive_manifest)
    archive.close()


def write_layout(
    path: Path,
    documents: Documents,
    layers: tuple[Blob, ...],
    open_blob: Opener,
    *,
    progress: Callable[[int], None] = lambda size: None,
) -> None:
    """Write an image as a layout in the directory `path`, which must not be there yet.

    Raises:
        AlreadyExists: it is there, also where somebody else was faster.
        IntegrityError, StorageFailed: as `write_archive`; nothing is left at `path`.
    """
    refuse_taken(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    where = str(path)
    try:
        try:
            blobs = temporary / "blobs" / "sha256"
            blobs.mkdir(parents=True)
            for name, data in (
                (blob_path(documents.config_digest), documents.config),
                (blob_path(documents.manifest_digest), documents.manifest),
                ("index.json", documents.layout_index),
                ("oci-layout", _LAYOUT),
            ):
                with _new(temporary / name) as file:
                    file.write(data)
            for layer in {layer.digest: layer for layer in layers}.values():
                with _new(temporary / blob_path(layer.digest)) as file:
                    _copy(open_blob(layer), file, layer, progress)
            os.rename(temporary, path)  # an empty directory may be there, nothing else
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
    except OSError as error:
        refuse_taken(path)
        raise storage_failed(error, "write", where) from error


@contextlib.contextmanager
def new_file(path: Path, *, replace: bool, mode: int = 0o644) -> Iterator[Sink]:
    """A file that appears at `path` when it is complete, or not at all.

    Args:
        path: where.
        replace: whether it may take the place of a file that is there.
        mode: permission bits, as far as the umask allows.

    Raises:
        AlreadyExists: it is there and may not be replaced.
        StorageFailed: it cannot be written.
    """
    if not replace:
        refuse_taken(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        try:
            with _new(temporary, mode) as file:
                yield file
            if replace:
                os.rename(temporary, path)
            else:
                os.link(temporary, path)  # unlike a rename, this takes nobody's place
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError as error:
        raise storage_failed(error, "write", str(path)) from error


def refuse_taken(path: Path) -> None:
    """Refuse an output that is there already; an empty directory may be.

    Raises:
        AlreadyExists: so.
    """
    try:
        if path.is_dir() and not path.is_symlink() and not any(path.iterdir()):
            return
    except OSError as error:
        raise storage_failed(error, "read", str(path)) from error
    if os.path.lexists(path):
        raise _taken(path)


def _taken(path: Path) -> AlreadyExists:
    return AlreadyExists(f"{path} is there already", hint="give another name, or remove it")


@contextlib.contextmanager
def _new(path: Path, mode: int = 0o644) -> Iterator[Sink]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    try:
        yield _Whole(descriptor)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class _Whole:
    """Writes all that it is given: a file without a buffer may take a part."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: bytes | memoryview, /) -> int:
        with memoryview(data) as view:
            done = 0
            while done < len(view):
                done += os.write(self._descriptor, view[done:])
            return done


def _file(archive: TarWriter, name: bytes, data: bytes) -> None:
    archive.add(name, Type.FILE, mode=0o644, size=len(data))
    archive.write(data)


def _copy(
    source: Source, target: Sink | TarWriter, blob: Blob, progress: Callable[[int], None]
) -> None:
    """Copy a blob and compare its digest."""
    reading = Reading(source, progress)
    try:
        while piece := reading.read(PIECE):
            target.write(piece)
    finally:
        reading.close()
    check_same(reading.digest(), blob.digest, f"layer {blob.digest}")
