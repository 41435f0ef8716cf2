"""Reading and writing another process's memory through `/proc/PID/mem`.

Opened anew for every use: a kept handle goes on showing the address space that the process had
before execve, or shares with its parent after vfork. `process_vm_readv` would be shorter, and is
forbidden by the default seccomp profile of containerd. Whether the process still is the one that
asked is the caller's to check, after reading and between opening and writing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

_PAGE = 4096
_FIRST = 256  # bytes of a path that are read at first; most are shorter
PATH_MAX = 4096  # bytes, with the final NUL

_READ = os.O_RDONLY | os.O_CLOEXEC
_WRITE = os.O_RDWR | os.O_CLOEXEC


def read_string(directory: int, address: int, limit: int = PATH_MAX) -> bytes:
    """The NUL-terminated string at `address`, without its NUL.

    Args:
        directory: a descriptor of `/proc/TID`.
        address: in that process.
        limit: bytes that it may have, with the NUL.

    Raises:
        OSError: EFAULT where nothing is mapped, ENAMETOOLONG without a NUL in time; whatever
            opening the memory says.
    """
    memory = os.open("mem", _READ, dir_fd=directory)
    try:
        # Not past the page: the next one need not be mapped.
        try:
            data = os.pread(memory, min(_FIRST, _PAGE - (address & (_PAGE - 1))), address)
        except (OSError, OverflowError) as error:
            raise OSError(errno.EFAULT, "bad address") from error
        end = data.find(b"\0")
        if end >= 0:
            return data[:end]
        return _read_on(memory, address, data, limit)
    finally:
        os.close(memory)


def _read_on(memory: int, address: int, data: bytes, limit: int) -> bytes:
    parts = [data]
    length = len(data)
    while length < limit:
        try:
            here = address + length
            more = os.pread(memory, _PAGE - (here & (_PAGE - 1)), here)
        except (OSError, OverflowError):
            more = b""
        if not more:
            raise OSError(errno.EFAULT, "bad address")
        end = more.find(b"\0")
        if end >= 0:
            if length + end >= limit:
                break
            parts.append(more[:end])
            return b"".join(parts)
        parts.append(more)
        length += len(more)
    raise OSError(errno.ENAMETOOLONG, "path too long")


def read_bytes(directory: int, address: int, length: int) -> bytes:
    """Exactly `length` bytes at `address`; OSError(EFAULT) where they are not all mapped."""
    memory = os.open("mem", _READ, dir_fd=directory)
    try:
        data = os.pread(memory, length, address)
    except (OSError, OverflowError) as error:
        raise OSError(errno.EFAULT, "bad address") from error
    finally:
        os.close(memory)
    if len(data) != length:
        raise OSError(errno.EFAULT, "bad address")
    return data


def write_bytes(directory: int, address: int, data: bytes, check: Callable[[], None]) -> None:
    """Write `data` at `address` after `check` has passed, with the memory open by then.

    So what is written to is what the process was when `check` confirmed it, even if it ends right
    afterwards and its number is given to another.

    Args:
        directory: a descriptor of `/proc/TID`.
        address: in that process.
        data: what to write.
        check: raises where the process is not waiting any more.

    Raises:
        OSError: EFAULT where it cannot be written.
    """
    memory = os.open("mem", _WRITE, dir_fd=directory)
    try:
        check()
        try:
            written = os.pwrite(memory, data, address)
        except (OSError, OverflowError) as error:
            raise OSError(errno.EFAULT, "bad address") from error
    finally:
        os.close(memory)
    if written != len(data):
        raise OSError(errno.EFAULT, "bad address")
