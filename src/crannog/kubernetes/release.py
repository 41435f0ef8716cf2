"""The node's launcher releases: each in a directory of its own, named by its digest.

Decides what is installed and how a release comes to be there: whole or not at all, and never
changed afterwards, so that an upgrade touches no running container. docs/formats/device-plugin.md.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from crannog.errors import Misconfigured, StorageFailed
from crannog.measure.launcher import DIGEST, claimed_digest
from crannog.measure.launcher_directory import directory_digest, verify_launcher_directory

_TEMPORARY = ".installing-"
_HINT_MADE = "take the directory /crannog of the image crannog/launcher"


def find_release(launchers: Path, digest: str, *, owner: int = 0) -> Path:
    """The directory of release `digest`, its content verified.

    Raises:
        Misconfigured: it is not there, was changed, or others may change it.
    """
    directory = launchers / digest
    if not directory.is_dir():
        raise Misconfigured(
            f"launcher release {digest} is not on this node: there is no {directory}",
            hint="the plugin's init container installs it: crannog kubernetes install-launcher",
        )
    _check_executable(launchers)
    _verify(directory, digest, owner)
    return directory


def install_launcher(source: Path, launchers: Path, *, owner: int = 0) -> tuple[str, bool]:
    """Install the launcher directory `source` below `launchers`.

    Args:
        source: a whole launcher directory.
        launchers: the node's directory of releases; made where it is missing.
        owner: the user whose files the LAS trusts: root.

    Returns:
        Its digest, 64 hex digits, and whether it was not there before.

    Raises:
        Misconfigured: the source is not whole, the node's directory is on a file system mounted
            `noexec`, others may write to it, or what is there already was changed.
        StorageFailed: it cannot be written.
    """
    digest = directory_digest(str(source)).hex()
    claimed = claimed_digest(str(source)).hex()
    if digest != claimed:
        raise Misconfigured(
            f"launcher directory {source} has the digest {digest}, its own file says {claimed}",
            hint=_HINT_MADE,
        )
    target = launchers / digest
    try:
        launchers.mkdir(mode=0o755, parents=True, exist_ok=True)
        _check_executable(launchers)
        with _alone(launchers):
            if target.exists():
                _verify(target, digest, owner)
                return digest, False
            with _temporary(launchers) as making:
                _copy(source, making)
                _verify(making, digest, owner)
                making.rename(target)
            _sync(launchers)
            return digest, True
    except OSError as error:
        needed = "" if error.errno != errno.ENOSPC else f"; it needs {_size(source) >> 20} MB"
        reason = (error.strerror or "failed").lower()
        raise StorageFailed(
            f"launcher release cannot be installed in {launchers}: {reason}{needed}",
            hint="the directory has to be mounted writable from the node, with space on it",
        ) from error


def _verify(directory: Path, digest: str, owner: int) -> None:
    found = verify_launcher_directory(str(directory), owner=owner).hex()
    if found != digest:
        raise Misconfigured(
            f"launcher directory {directory} has the digest {found}, expected its name",
            hint="remove it once no container uses it, and install it again",
        )


def _check_executable(directory: Path) -> None:
    if os.statvfs(directory).f_flag & os.ST_NOEXEC:
        raise Misconfigured(
            f"{directory} is on a file system mounted noexec: a launcher cannot be executed there",
            hint="choose a directory of another file system of the node, or mount it exec",
        )


@contextlib.contextmanager
def _alone(launchers: Path) -> Iterator[None]:
    """One installation at a time; what a killed one left is taken away."""
    descriptor = os.open(launchers, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        for path in launchers.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(path, ignore_errors=True)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _temporary(launchers: Path) -> Iterator[Path]:
    """A directory that is gone afterwards unless it was renamed."""
    making = Path(tempfile.mkdtemp(prefix=_TEMPORARY, dir=launchers))
    try:
        yield making
    finally:
        shutil.rmtree(making, ignore_errors=True)


def _copy(source: Path, target: Path) -> None:
    """Everything of `source`, with its modes, on the disk when this returns."""
    for entry in sorted(os.scandir(source), key=lambda each: each.name):
        place = target / entry.name
        status = entry.stat(follow_symlinks=False)
        if entry.is_symlink():
            place.symlink_to(os.readlink(entry.path))
        elif entry.is_dir(follow_symlinks=False):
            place.mkdir(mode=0o700)
            _copy(Path(entry.path), place)
            place.chmod(stat.S_IMODE(status.st_mode))
        else:
            _copy_file(Path(entry.path), place, stat.S_IMODE(status.st_mode))
    target.chmod(stat.S_IMODE(source.stat().st_mode))
    _sync(target)


def _copy_file(source: Path, target: Path, mode: int) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with source.open("rb") as reading, os.fdopen(os.open(target, flags, 0o600), "wb") as writing:
        shutil.copyfileobj(reading, writing, 1 << 20)
        writing.flush()
        os.fchmod(writing.fileno(), mode)
        os.fsync(writing.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _size(directory: Path) -> int:
    return sum(path.lstat().st_size for path in directory.rglob("*"))


def carried_release(directory: Path) -> str:
    """The digest that the launcher directory `directory` claims: of the image that we are in.

    Raises:
        Misconfigured: it is no launcher directory.
    """
    if not (directory / DIGEST).exists():
        raise Misconfigured(f"{directory} is no launcher directory", hint=_HINT_MADE)
    return claimed_digest(str(directory)).hex()
