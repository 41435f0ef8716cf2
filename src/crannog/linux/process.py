"""What a process says to the kernel about itself and its children."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal

from crannog.errors import Unsupported

_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_CLOSE_RANGE = 436
_CLOSE_RANGE_CLOEXEC = 4


def _prctl(option: int, value: int, what: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise Unsupported(f"{what}: {os.strerror(ctypes.get_errno())}")


def forbid_core_dumps() -> None:
    """Make this process non-dumpable: no core file, no tracing, no reading of its memory by peers.

    Inherited by fork, undone by execve.

    Raises:
        Unsupported: the kernel refused.
    """
    _prctl(_PR_SET_DUMPABLE, 0, "cannot forbid core dumps")


def become_subreaper() -> None:
    """Make this process the parent of its descendants' orphans.

    Raises:
        Unsupported: the kernel refused.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, "cannot adopt orphaned processes")


def die_with_parent(parent: int) -> None:
    """Have this process killed when the thread that forked it ends; at once if it has ended.

    Args:
        parent: the parent's process id as the parent knew it before it forked.

    Raises:
        Unsupported: the kernel refused.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, "cannot follow the parent's death")
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def close_from(first: int, *, on_execve: bool = False) -> None:
    """Close every descriptor of this process from `first` on, or have execve close them.

    By the system call itself: descriptors may be many, and walking `/proc` needs paths.

    Raises:
        Unsupported: the kernel refused (it has the call since 5.11).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _CLOSE_RANGE_CLOEXEC if on_execve else 0
    arguments = (ctypes.c_uint(first), ctypes.c_uint(0xFFFFFFFF), ctypes.c_uint(flags))
    if libc.syscall(ctypes.c_long(_CLOSE_RANGE), *arguments) != 0:
        raise Unsupported(f"cannot close descriptors: {os.strerror(ctypes.get_errno())}")


def signal_descendants(number: int) -> None:
    """Send a signal to everything below this process that can be found now, without waiting.

    What is forked meanwhile may get away; `kill_descendants` makes sure.
    """
    below: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                below.setdefault(int(fields[1]), []).append(int(name))
    waiting = [os.getpid()]
    while waiting:
        for child in below.get(waiting.pop(), ()):
            waiting.append(child)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(child, number)


def kill_descendants() -> None:
    """Kill and reap everything below this process; it has to be a subreaper.

    Each round kills what there is and waits for a child; what had been forked meanwhile becomes our
    child or stays below one, and is killed in a later round.
    """
    while True:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
            if ended == 0:
                signal_descendants(signal.SIGKILL)
                os.waitpid(-1, 0)
        except ChildProcessError:
            return
