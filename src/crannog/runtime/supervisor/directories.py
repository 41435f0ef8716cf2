"""Directories of regions as the program holds them: open, or as its working directory.

A program that opens a directory of a region gets an empty one of ours in its place, without a name,
with the mode, owner and times that the fspf says: nothing on disk is opened, so nothing on disk can
stand in for it. What the program then does relative to it is recognised by its device and inode.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading

from crannog.shield.model import DirectoryEntry

_PLACES = ("/dev/shm", "/tmp", "/run")


class Directories:
    """What was given out, by identity. Safe to use from several threads.

    Every directory is kept open, so that its inode is not given to another while we remember it.

    Args:
        limit: how many directories may be kept.
    """

    __slots__ = ("_by_path", "_kept", "_limit", "_lock", "identities")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._by_path: dict[bytes, int] = {}
        self._kept: list[int] = []
        self.identities: dict[tuple[int, int], bytes] = {}

    def path_of(self, device: int, inode: int) -> bytes | None:
        """The virtual path of a directory that was given out, or None."""
        return self.identities.get((device, inode))

    def stand_in(self, path: bytes, entry: DirectoryEntry) -> int:
        """Our descriptor of the empty directory that stands for `path`; not to be closed.

        Raises:
            OSError: EMFILE where there are too many, or what the memory file system says.
        """
        known = self._by_path.get(path)
        if known is not None:
            return known
        with self._lock:
            known = self._by_path.get(path)
            if known is None:
                known = _nameless_directory()
                _dress(known, entry)
                self._keep(path, known)
                self._by_path[path] = known
        return known

    def open_for(self, path: bytes, entry: DirectoryEntry) -> int:
        """A new descriptor of the stand-in, with a position of its own; the caller's to close."""
        ours = self.stand_in(path, entry)
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        try:
            return os.open(b"/proc/self/fd/%d" % ours, flags)
        except PermissionError:
            # The mode is for the program, which has been found to have the right.
            mode = os.fstat(ours).st_mode & 0o7777
            os.fchmod(ours, mode | 0o700)
            try:
                return os.open(b"/proc/self/fd/%d" % ours, flags)
            finally:
                os.fchmod(ours, mode)

    def _keep(self, path: bytes, descriptor: int) -> None:
        if len(self._kept) >= self._limit:
            os.close(descriptor)
            raise OSError(errno.EMFILE, "too many directories of regions are in use")
        found = os.fstat(descriptor)
        self._kept.append(descriptor)
        self.identities[(found.st_dev, found.st_ino)] = path


def _nameless_directory() -> int:
    # Removed at once: nothing can be made in it, nothing is left behind, nobody else can find it.
    for place in _PLACES:
        name = f"{place}/.crannog-{os.urandom(16).hex()}"
        try:
            os.mkdir(name, 0o700)
        except OSError:
            continue
        try:
            return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        finally:
            os.rmdir(name)
    raise OSError(errno.EACCES, f"no directory can be made in any of {', '.join(_PLACES)}")


def _dress(descriptor: int, entry: DirectoryEntry) -> None:
    with contextlib.suppress(OSError):
        os.fchown(descriptor, entry.uid, entry.gid)
    os.fchmod(descriptor, entry.mode & 0o7777)
    os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
