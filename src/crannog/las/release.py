"""The node's launcher as this LAS has it: digest, loader, and where it lies on its file system.

Decides when a digest is recomputed: once, and again when anything in the directory has changed.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from crannog.errors import Denied, Error, Misconfigured
from crannog.las.facts import Place, locate
from crannog.las.process import file_id, mounts_of
from crannog.las.record import Release
from crannog.measure.launcher_directory import verify_launcher_directory

LOADER = "lib/ld.so"
REPLACED = "the node's launcher was replaced after the LAS had started: the LAS has to start again"

_MOST_ENTRIES = 100_000
_UNREAD = b""  # no directory's marks
_RELEASE = re.compile(r"[0-9a-f]{64}")


class Launchers(Protocol):
    """The launchers that containers of this node may have."""

    def find(self, digest: bytes) -> Release:
        """The release to compare a process with that claims this digest.

        Raises:
            Denied: there is none that may be vouched for; says why.
        """

    def digests(self) -> tuple[bytes, ...]:
        """Those that were found to be whole."""

    def unready(self) -> str:
        """Why there is none; "" where there is one."""


class OneLauncher:
    """A single directory, which is not to change while the LAS runs.

    Args:
        directory: the very directory that the node mounts into containers, or a mount of it.
        socket_directory: the same of the directory with the LAS's socket; None for none.
        owner: the user id that all of it has to belong to.

    Raises:
        Misconfigured: it is not there, not whole, or others may write to it.
        Denied: our own mount table cannot be read.
    """

    def __init__(self, directory: Path, socket_directory: Path | None, *, owner: int = 0) -> None:
        self._directory = directory
        self._marks = marks(directory)
        self._release = load_release(directory, socket_directory, owner=owner)

    def find(self, digest: bytes) -> Release:
        """The one release, whatever the digest: that it is another one the witness says."""
        del digest
        if marks(self._directory) != self._marks:
            raise Denied(REPLACED)
        return self._release

    def digests(self) -> tuple[bytes, ...]:
        """Its digest."""
        return (self._release.digest,)

    def unready(self) -> str:
        """Nothing: it was there at the start."""
        return ""


class _Known(NamedTuple):
    """What was found in a release's directory when its marks were these."""

    marks: bytes
    release: Release | None
    reason: str


class Releases:
    """A directory of releases side by side, each in a directory named by its digest.

    New ones are noticed when they are first asked for, and one that has changed is recomputed: it
    is refused unless its digest still is its name. Other names are not looked at.

    Args:
        directory: holds the releases.
        socket_directory: the directory with the LAS's socket; None for none.
        owner: the user id that all of it has to belong to.
        tell: is given a sentence for each release that is found or refused.
    """

    def __init__(
        self,
        directory: Path,
        socket_directory: Path | None,
        *,
        owner: int = 0,
        tell: Callable[[str], None],
    ) -> None:
        self._directory = directory
        self._socket_directory = socket_directory
        self._owner = owner
        self._tell = tell
        # One at a time: a digest is some hundred milliseconds of work, and is needed once.
        self._lock = threading.Lock()
        self._known: dict[bytes, _Known] = {}

    def find(self, digest: bytes) -> Release:
        """The release of that digest.

        Raises:
            Denied: it is not there, or its files are not what its name says.
        """
        name = digest.hex()
        path = self._directory / name
        if _RELEASE.fullmatch(name) is None or not _is_directory(path):
            with self._lock:
                self._known.pop(digest, None)
            raise Denied(f"the node has no launcher {name} in {self._directory}")
        with self._lock:
            now = marks(path)
            known = self._known.get(digest)
            if known is None or known.marks != now:
                known = self._look(digest, path, now)
                self._known[digest] = known
        if known.release is None:
            raise Denied(known.reason)
        return known.release

    def digests(self) -> tuple[bytes, ...]:
        """Those that are there and whole, each looked at again where it has changed."""
        found: list[bytes] = []
        for name in self._names():
            try:
                found.append(self.find(bytes.fromhex(name)).digest)
            except Denied:
                continue
        return tuple(found)

    def unready(self) -> str:
        """Why there is none; "" where there is one."""
        if not _is_directory(self._directory):
            return f"the directory of launchers {self._directory} is not there"
        if not self.digests():
            return f"there is no whole launcher in {self._directory} yet"
        return ""

    def _names(self) -> list[str]:
        try:
            return sorted(n for n in os.listdir(self._directory) if _RELEASE.fullmatch(n))
        except OSError:
            return []

    def _look(self, digest: bytes, path: Path, now: bytes) -> _Known:
        try:
            release = load_release(path, self._socket_directory, owner=self._owner)
        except Error as error:
            reason, cause = error.message, error.__cause__
        except OSError as error:  # taken away while it was looked at
            reason, cause = f"launcher directory {path}: {_why(error)}", error
        else:
            if release.digest == digest:
                self._tell(f"launcher {digest.hex()} is whole")
                return _Known(now, release, "")
            reason, cause = f"launcher directory {path} has the digest {release.digest.hex()}", None
        known = self._known.get(digest)
        if known is None or known.reason != reason:
            self._tell(f"launcher {digest.hex()} is not vouched for: {reason}")
        # What could not be read now says nothing of what is there: it is read again.
        return _Known(_UNREAD if isinstance(cause, OSError) else now, None, reason)


def load_release(launcher: Path, socket_directory: Path | None, *, owner: int = 0) -> Release:
    """The release in the directory `launcher`, its digest recomputed.

    Args:
        launcher: the very directory that the node mounts into containers, or a mount of it.
        socket_directory: the same of the directory with the LAS's socket.
        owner: the user id that all of it has to belong to.

    Raises:
        Misconfigured: it is not there, not whole, or others may write to it.
        Denied: our own mount table cannot be read.
    """
    digest = verify_launcher_directory(str(launcher), owner=owner)
    try:
        loader = file_id(os.stat(launcher / LOADER))
    except OSError as error:
        raise Misconfigured(
            f"launcher directory {launcher} has no {LOADER}: {_why(error)}"
        ) from error
    where = place(launcher)
    if where is None:
        raise Misconfigured(f"launcher directory {launcher} is on no mount of the LAS's")
    return Release(
        digest=digest,
        loader=loader,
        launcher=where,
        socket=None if socket_directory is None else place(socket_directory),
    )


def _why(error: OSError) -> str:
    return (error.strerror or "failed").lower()


def _is_directory(path: Path) -> bool:
    # Not `Path.is_dir`, which raises for what cannot be looked at: that is a reason here, too.
    return os.path.isdir(path)


def place(directory: Path) -> Place | None:
    """Where a directory that we see lies on its file system; `Denied` without a mount table."""
    return locate(mounts_of("self"), os.path.realpath(directory))


def marks(launcher: Path) -> bytes:
    """What changes when anything in a release does: inode, change time and mode of each entry.

    Takes a millisecond or two for the five hundred entries of a release.

    Raises:
        Denied: it cannot be read, or has too many entries to be one.
    """
    found: list[tuple[str, int, int, int, int]] = []
    waiting = [os.fspath(launcher)]
    try:
        status = os.stat(launcher)
        found.append(("", status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mode))
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    status = entry.stat(follow_symlinks=False)
                    mark = (status.st_dev, status.st_ino, status.st_ctime_ns, status.st_mode)
                    found.append((entry.path, *mark))
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
            if len(found) > _MOST_ENTRIES:
                raise Denied(f"launcher directory {launcher} has more than {_MOST_ENTRIES} entries")
    except OSError as error:
        raise Denied(f"launcher directory {launcher} is not whole any more") from error
    return hashlib.sha256(repr(sorted(found)).encode("utf-8", "surrogateescape")).digest()
