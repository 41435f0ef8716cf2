"""The node's launcher releases: each in a directory of its own, named by its digest.

Decides what is installed and how a release comes to be there: whole or not at all, and never
changed afterwards, so that an upgrade touches no running container. None is removed: whose
containers still run is not known here (ADR 1012). docs/formats/device-plugin.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crannog.errors import Misconfigured, StorageFailed
from crannog.measure.launcher import DIGEST, claimed_digest
from crannog.measure.launcher_directory import directory_digest, verify_launcher_directory

_TEMPORARY = ".installing-"
_SET_ASIDE = ".changed-"
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_HINT_INSTALL = (
    "delete the plugin's pod on this node: the init container of the next one installs it "
    "(crannog kubernetes install-launcher)"
)
_HINT_MADE = "take the directory /crannog of the image crannog/launcher"


class Installed(NamedTuple):
    """How a release came to be on the node.

    Attributes:
        digest: 64 hex digits.
        new: whether it was not there before, or not whole.
        set_aside: where what was there in its place is now; None where nothing was.
        because: what was wrong with that; empty where nothing was.
    """

    digest: str
    new: bool
    set_aside: Path | None = None
    because: str = ""


def find_release(launchers: Path, digest: str, *, owner: int = 0) -> Path:
    """The directory of release `digest`, its content verified.

    Raises:
        Misconfigured: it is not there, was changed, or others may change it.
    """
    directory = launchers / digest
    verify_release(directory, owner=owner)
    return directory


def verify_release(directory: Path, *, owner: int = 0) -> None:
    """Read all of a release, which is in a directory named by its digest.

    Raises:
        Misconfigured: it is not there, was changed, or others may change it.
    """
    if not directory.is_dir():
        raise Misconfigured(
            f"launcher release {directory.name} is not on this node: there is no {directory}",
            hint=_HINT_INSTALL,
        )
    _check_executable(directory.parent)
    try:
        _verify(directory, directory.name, owner)
    except Misconfigured as error:
        raise Misconfigured(error.message, hint=_HINT_INSTALL) from error


def install_launcher(source: Path, launchers: Path, *, owner: int = 0) -> Installed:
    """Install the launcher directory `source` below `launchers`.

    What is there already and whole is left as it is. What is there and was changed is set aside, in
    one step, and stays: containers that have it mounted keep it.

    Args:
        source: a whole launcher directory.
        launchers: the node's directory of releases; made where it is missing.
        owner: the user whose files the LAS trusts: root.

    Raises:
        Misconfigured: the source is not whole, the node's directory is on a file system mounted
            `noexec`, or others may write to it.
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
            damage = _damage(target, owner) if os.path.lexists(target) else ""
            if not damage and target.is_dir():
                return Installed(digest, new=False)
            with _temporary(launchers) as making:
                _copy(source, making)
                _verify(making, digest, owner)
                aside = _replace(making, target) if damage else None
                if aside is None:
                    making.rename(target)
            _sync(launchers)
            return Installed(digest, new=True, set_aside=aside, because=damage)
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
            f"launcher directory {directory} has the digest {found}, expected its name"
        )


def _damage(target: Path, owner: int) -> str:
    """What is wrong with a release that is there; empty where nothing is."""
    if target.is_symlink():
        return f"{target} is a link, expected a directory"
    try:
        verify_release(target, owner=owner)
    except Misconfigured as error:
        return error.message
    return ""


def _replace(fresh: Path, target: Path) -> Path:
    """Put `fresh` in the place of `target`, of which there is one at any moment; where it is now.

    The name under which the old one stays is taken before it is there: an installation that is
    killed between the two would else have its successor remove it as a temporary directory.
    """
    number = 0
    while os.path.lexists(aside := target.parent / f"{_SET_ASIDE}{target.name}-{number}"):
        number += 1
    fresh.rename(aside)
    library = ctypes.CDLL(None, use_errno=True)
    names = os.fsencode(aside), os.fsencode(target)
    exchange = (_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE))
    if library.renameat2(*exchange):
        failed = ctypes.get_errno()
        aside.rename(fresh)
        raise OSError(failed, os.strerror(failed), os.fspath(target))
    return aside


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
