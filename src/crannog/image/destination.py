"""Where the new image goes: an engine's store under a tag, a layout, an archive.

Each takes the image whole or not at all. What one process stores under a tag another one does not
take away unseen: there is a lock for each tag.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from crannog.errors import AlreadyExists, Conflict, StorageFailed, Unavailable
from crannog.image.engine import Engine
from crannog.oci.assemble import Blob, Documents
from crannog.oci.streams import Sink, storage_failed
from crannog.oci.write import Opener, new_file, refuse_taken, write_archive, write_layout

_ARCHIVE_SUFFIXES = (".tar", ".ocitar")


class Destination(NamedTuple):
    """Where to.

    Attributes:
        tag: the new image's name, as the engine keeps it.
        engine: whose store; None for a path.
        path: the layout's directory or the archive; None for an engine.
        force: whether what is there under the tag or path may be replaced.
    """

    tag: str
    engine: Engine | None
    path: Path | None
    force: bool

    @property
    def is_archive(self) -> bool:
        """Whether the path is an archive's and not a layout's."""
        return self.path is not None and self.path.suffix in _ARCHIVE_SUFFIXES

    def __str__(self) -> str:
        """For a person."""
        if self.path is None:
            return self.tag
        return f"{'docker-archive' if self.is_archive else 'oci'}:{self.path}"

    def check(self) -> None:
        """Refuse early what `store` would refuse.

        Raises:
            AlreadyExists: something is there, and `force` does not allow to replace it.
        """
        if self.engine is not None:
            if not self.force and self.engine.has(self.tag):
                raise AlreadyExists(
                    f"{self.engine.name} has an image {self.tag} already",
                    hint="choose another --tag, or replace it: --force",
                )
            return
        assert self.path is not None
        parent = self.path.absolute().parent
        if not parent.is_dir():
            raise StorageFailed(f"there is no directory {parent}", hint=f"mkdir -p {parent}")
        if not (self.is_archive and self.force):
            refuse_taken(self.path)

    def store(
        self,
        documents: Documents,
        layers: tuple[Blob, ...],
        open_blob: Opener,
        work: Path,
        progress: Callable[[int], None],
    ) -> None:
        """Put the image there.

        Raises:
            AlreadyExists: somebody else was faster.
            Conflict: the engine has another image under the tag afterwards.
            IntegrityError, StorageFailed: the image cannot be read, or written.
        """
        if self.engine is not None:

            def write(sink: Sink) -> None:
                write_archive(
                    sink,
                    f"{self.tag} for the engine",
                    documents,
                    layers,
                    open_blob,
                    layout=False,
                    progress=progress,
                )

            self.check()
            self.engine.load(write, work)
            if self.engine.diff_ids(self.tag) != tuple(layer.diff_id for layer in layers):
                raise Conflict(
                    f"{self.tag} is another image than the one that was stored",
                    hint="somebody else has stored one under that name: choose another --tag",
                )
            return
        assert self.path is not None
        if not self.is_archive:
            write_layout(self.path, documents, layers, open_blob, progress=progress)
            return
        with new_file(self.path, replace=self.force) as sink:
            write_archive(
                sink,
                str(self.path),
                documents,
                layers,
                open_blob,
                layout=True,
                progress=progress,
            )


@contextlib.contextmanager
def tag_lock(destination: Destination) -> Iterator[None]:
    """Nobody else of this user stores under the same name meanwhile.

    Raises:
        Unavailable: somebody does.
    """
    what = f"{destination.engine.name if destination.engine else ''} {destination}"
    name = hashlib.sha256(what.encode("utf-8", "surrogateescape")).hexdigest()[:32]
    path = Path(tempfile.gettempdir()) / f".crannog-image-{os.getuid()}-{name}"
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise storage_failed(error, "write", str(path)) from error
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise Unavailable(
                    f"another command is storing {destination}",
                    hint="run this one when it has ended",
                ) from error
            if not _is_there(path, descriptor):
                continue  # who had the lock has just taken the file away
            try:
                yield
            finally:
                with contextlib.suppress(OSError):
                    path.unlink()
            return
        finally:
            os.close(descriptor)


def _is_there(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False
