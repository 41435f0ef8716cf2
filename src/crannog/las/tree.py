"""Reading the node's files so that nobody but its root has a say in what is read (A).

Each component is opened relative to the one above it and without following a link; each directory
on the way and the file itself have to be the owner's and not writable by others.
"""

from __future__ import annotations

import contextlib
import os
import stat

from crannog.errors import Denied, TooLarge

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Tree:
    """The node's file system as it is seen below a directory.

    Args:
        root: the directory, which is trusted as given: "/", or where it is mounted in a container.
        owner: the user id that everything has to belong to.
    """

    def __init__(self, root: str, *, owner: int = 0) -> None:
        self._root = root
        self._owner = owner

    def read(self, path: str, *, limit: int) -> bytes | None:
        """The content of the file at the absolute `path`; None where there is none.

        Raises:
            Denied: the file or a directory above it belongs to somebody else, is writable by
                others or is a link, or cannot be read.
            TooLarge: more than `limit` bytes.
        """
        with contextlib.ExitStack() as opened:
            try:
                directory = self._enter(os.path.dirname(path), opened)
                if directory is None:
                    return None
                descriptor = os.open(os.path.basename(path), _FILE, dir_fd=directory)
            except FileNotFoundError:
                return None
            except OSError as error:
                raise self._unreadable(path, error) from error
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                if not stat.S_ISREG(status.st_mode):
                    raise Denied(f"{path} is not a regular file")
                self._check(path, status)
                try:
                    data = file.read(limit + 1)
                except OSError as error:
                    raise self._unreadable(path, error) from error
        if len(data) > limit:
            raise TooLarge(f"{path} has more than {limit} bytes")
        return data

    def names(self, path: str, *, limit: int) -> tuple[str, ...] | None:
        """The first `limit` names in the directory at `path`; None where there is none.

        Raises:
            Denied: as `read`.
        """
        with contextlib.ExitStack() as opened:
            try:
                directory = self._enter(path, opened)
                if directory is None:
                    return None
                readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=directory)
            except OSError as error:
                raise self._unreadable(path, error) from error
            opened.callback(os.close, readable)
            found: list[str] = []
            try:
                with os.scandir(readable) as entries:
                    for entry in entries:
                        if len(found) >= limit:
                            break
                        found.append(entry.name)
            except OSError as error:  # removed meanwhile
                raise self._unreadable(path, error) from error
        return tuple(sorted(found))

    def _enter(self, path: str, opened: contextlib.ExitStack) -> int | None:
        current = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        opened.callback(os.close, current)
        walked = ""
        for name in path.split("/"):
            if not name:
                continue
            if name in (".", ".."):
                raise Denied(f"{path} is not a plain path")
            walked += f"/{name}"
            try:
                current = os.open(name, _DIRECTORY, dir_fd=current)
            except FileNotFoundError:
                return None
            opened.callback(os.close, current)
            self._check(walked, os.fstat(current))
        return current

    def _check(self, path: str, status: os.stat_result) -> None:
        if status.st_uid != self._owner:
            raise Denied(f"{path} belongs to user {status.st_uid}, expected {self._owner}")
        if status.st_mode & 0o022:
            raise Denied(f"{path} has mode {stat.S_IMODE(status.st_mode):04o}, writable by others")

    def _unreadable(self, path: str, error: OSError) -> Denied:
        return Denied(f"{path}: {(error.strerror or 'failed').lower()}")
