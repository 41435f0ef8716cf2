"""The fspf on disk: read under a lock, replaced whole or not at all.

The lock is `flock` on the file itself. Since a new version is another inode, who got the lock looks
again whether the name still stands for what was locked. Nothing waits: a second command at the same
time is told so. Decides nothing about contents.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Callable, Iterator

from crannog.errors import Error, FormatError, NotFound, StorageFailed, TooLarge, Unavailable
from crannog.shield.fspf import MAX_SIZE
from crannog.shield.paths import printable

MODE_WITH_KEYS = 0o600  # a plain fspf holds the files' keys
MODE_SEALED = 0o644  # a sealed one goes into images, for whoever runs them


def read_fspf(path: bytes) -> bytes:
    """The bytes of an fspf, without a lock.

    Raises:
        NotFound, StorageFailed: there is none, or it cannot be read.
        TooLarge: over the format's bound.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise disk_error(error, "read", path) from error
    try:
        return _read(descriptor, path)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: bytes) -> Iterator[bytes]:
    """The bytes of an fspf, which nobody else edits meanwhile.

    Raises:
        Unavailable: another command is at work on it.
        NotFound, StorageFailed, TooLarge: as `read_fspf`.
    """
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise disk_error(error, "read", path) from error
        try:
            _lock(descriptor, path)
            if not _is_current(descriptor, path):
                continue
            yield _read(descriptor, path)
            return
        finally:
            os.close(descriptor)


def replace(
    path: bytes, data: bytes, *, mode: int, before: Callable[[], None] = lambda: None
) -> None:
    """Make `data` the content of `path`, durably; after an error the old file is there.

    Args:
        path: where; a link there is followed, so that the link stays.
        data: the new content.
        mode: permission bits of the new file, whatever the umask.
        before: called when everything is written and only the rename is left; when it raises, the
            old file stays.

    Raises:
        StorageFailed: no space, no permission, no such directory.
    """
    path = os.path.realpath(path)
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, b"." + name + b"." + secrets.token_hex(6).encode())
    try:
        descriptor = os.open(
            temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, MODE_WITH_KEYS
        )
        try:
            write_all(descriptor, data)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            before()
            os.rename(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        finally:
            os.close(descriptor)
        _sync_directory(directory)
    except OSError as error:
        raise disk_error(error, "write", path) from error


def write_all(descriptor: int, data: bytes | memoryview, offset: int = 0) -> None:
    """Write all of `data` at `offset`; a regular file's `pwrite` may do it in parts."""
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.pwrite(descriptor, view[done:], offset + done)


def disk_error(error: OSError, doing: str, path: bytes) -> Error:
    """Our error for a failed system call: the path and the kernel's words for it."""
    text = f"cannot {doing} {printable(path)}: {error.strerror}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(text)
    hint = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        hint = "make room and run the command again; the old fspf and files are as they were"
    elif error.errno in (errno.EACCES, errno.EPERM):
        hint = "run the command as a user who may"
    return StorageFailed(text, hint=hint)


def _lock(descriptor: int, path: bytes) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Unavailable(
            f"another command is at work on {printable(path)}",
            hint="run this one when it has ended",
        ) from error
    except OSError as error:
        raise disk_error(error, "lock", path) from error


def _is_current(descriptor: int, path: bytes) -> bool:
    try:
        there, held = os.stat(path), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (held.st_dev, held.st_ino)


def _read(descriptor: int, path: bytes) -> bytes:
    try:
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_SIZE + 1)
    except OSError as error:
        raise disk_error(error, "read", path) from error
    if data is None:  # a FIFO without a writer
        raise FormatError(f"{printable(path)} is not a regular file")
    if len(data) > MAX_SIZE:
        raise TooLarge(f"{printable(path)} has more than {MAX_SIZE} bytes")
    return data


def _sync_directory(directory: bytes) -> None:
    descriptor = os.open(directory or b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
