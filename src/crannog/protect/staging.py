"""New files beside the old ones, until all of them are complete.

`addf` writes what it makes into a directory of its own inside OUTPUT_DIR, and moves it into place
at the end, file by file: up to there a failure of any kind leaves the old state. The moves are not
one step; what a power cut between them leaves is mended by running the command again. A killed
command leaves its staging directory, which the next one removes: it is locked while in use.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator

from crannog.errors import Misconfigured, StorageFailed
from crannog.protect.files import disk_error
from crannog.protect.walk import Source
from crannog.shield.model import Kind
from crannog.shield.paths import printable

PREFIX = b".crannog-addf-"
DIRECTORY_MODE = 0o755  # ciphertext is for whoever runs the image; real modes are in the fspf


class Staging:
    """A locked directory for unfinished files, numbered; see the module."""

    def __init__(self, output: bytes, path: bytes, descriptor: int) -> None:
        self.output = output
        self._path = path
        self._descriptor = descriptor

    def open(self, number: int, mode: int) -> int:
        """A descriptor of the new file `number`, for writing."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(str(number), flags, 0o600, dir_fd=self._descriptor)
        os.fchmod(descriptor, mode)  # whatever the umask
        return descriptor

    def reopen(self, number: int) -> int:
        """Another descriptor of the file `number`, for writing."""
        return os.open(str(number), os.O_WRONLY | os.O_CLOEXEC, dir_fd=self._descriptor)

    def move(self, sources: Iterable[tuple[int, Source]], *, directory_mode: bool) -> None:
        """Move all files into place and make directories and links.

        Args:
            sources: each with its number, parents first.
            directory_mode: whether new directories get the source's mode instead of 0755.
        """
        output = self.output
        modes: list[tuple[bytes, int]] = []
        for number, source in sources:
            path = os.path.join(output, source.relative)
            if source.kind is Kind.FILE:
                os.rename(str(number), path, src_dir_fd=self._descriptor)
            elif source.kind is Kind.LINK:
                os.symlink(source.target, str(number), dir_fd=self._descriptor)
                os.rename(str(number), path, src_dir_fd=self._descriptor)
            elif source.relative:
                _make_directory(path)
                mode = stat.S_IMODE(source.stat.st_mode) if directory_mode else DIRECTORY_MODE
                modes.append((path, mode))
        for path, mode in reversed(modes):  # last, since a mode may forbid writing
            os.chmod(path, mode)

    def strangers(self, is_known: Callable[[bytes], bool]) -> list[bytes]:
        """The files that are in the output already and are none of `is_known`, relative to it."""
        found: list[bytes] = []
        pending = [b""]
        while pending:
            relative = pending.pop()
            with os.scandir(os.path.join(self.output, relative)) as entries:
                for entry in entries:
                    name = os.path.join(relative, entry.name)
                    if not entry.is_dir(follow_symlinks=False):
                        if not is_known(name):
                            found.append(name)
                    elif relative or not entry.name.startswith(PREFIX):
                        pending.append(name)
        return found

    def sync(self) -> None:
        """Wait until everything of the output's file system is on the disk."""
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(self._descriptor):
            number = ctypes.get_errno()
            raise disk_error(OSError(number, os.strerror(number)), "write", self.output)


@contextlib.contextmanager
def staging(output: bytes) -> Iterator[Staging]:
    """A staging directory in `output`, which is made if need be and removed again after an error.

    Raises:
        StorageFailed, NotFound: it cannot be made.
    """
    created = _make_output(output)
    path = os.path.join(output, PREFIX + secrets.token_hex(6).encode())
    done = False
    try:
        _remove_stale(output)
        os.mkdir(path, 0o700)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield Staging(output, path, descriptor)
            done = True
        finally:
            shutil.rmtree(path, ignore_errors=True)
            os.close(descriptor)
    except OSError as error:
        raise disk_error(error, "write", output) from error
    finally:
        if not done:
            for directory in created:
                with contextlib.suppress(OSError):
                    os.rmdir(directory)


def check_output(output: bytes, sources: Iterable[Source]) -> None:
    """Refuse, before anything is done, what `Staging.move` could not put into place.

    Raises:
        Misconfigured: a directory is where a file has to go, or the other way round.
    """
    if not os.path.lexists(output):
        return
    if not os.path.isdir(output):
        raise Misconfigured(f"{printable(output)} is not a directory, expected OUTPUT_DIR")
    for source in sources:
        path = os.path.join(output, source.relative) if source.relative else output
        try:
            mode = (os.lstat if source.relative else os.stat)(path).st_mode
        except FileNotFoundError:
            continue
        except OSError as error:
            raise disk_error(error, "look at", path) from error
        if stat.S_ISDIR(mode) is (source.kind is Kind.DIRECTORY):
            continue
        said = "is a directory, and SOURCE_DIR has something else of that name"
        if not stat.S_ISDIR(mode):
            said = "is not a directory, and SOURCE_DIR has one of that name"
        raise Misconfigured(
            f"{printable(path)} {said}", hint="it is left of an earlier run: remove it"
        )


def _make_directory(path: bytes) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)


def _make_output(output: bytes) -> list[bytes]:
    """Make `output` and its parents; what was made, the deepest first."""
    created: list[bytes] = []
    missing: list[bytes] = []
    path = output
    while path and not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    try:
        for directory in reversed(missing):
            os.mkdir(directory, DIRECTORY_MODE)
            os.chmod(directory, DIRECTORY_MODE)
            created.insert(0, directory)
    except OSError as error:
        for directory in created:
            with contextlib.suppress(OSError):
                os.rmdir(directory)
        raise StorageFailed(
            f"cannot make the directory {printable(output)}: {error.strerror}"
        ) from error
    return created


def _remove_stale(output: bytes) -> None:
    with os.scandir(output) as entries:
        names = [entry.name for entry in entries if entry.name.startswith(PREFIX)]
    for name in names:
        path = os.path.join(output, name)
        with contextlib.suppress(OSError):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                # In use by another command: its lock is held.
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
