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


def children() -> tuple[int, ...]:
    """The process ids of all children of this process, whichever thread forked or adopted them."""
    found: list[int] = []
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError), open(f"/proc/self/task/{thread}/children", "rb") as file:
            found += [int(number) for number in file.read().split()]
    return tuple(found)


def kill_descendants() -> None:
    """Kill and reap everything below this process; it has to be a subreaper.

    Each round kills the children and waits for one; what they had forked becomes our child then,
    and is killed in a later round. So nothing that forks quickly gets away for long.
    """
    while True:
        for child in _children_or_listing():
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _children_or_listing() -> tuple[int, ...]:
    # `children` needs CONFIG_PROC_CHILDREN; where it is missing every process is looked at.
    if os.path.exists(f"/proc/self/task/{os.getpid()}/children"):
        return children()
    own = os.getpid()
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, ValueError, IndexError):
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
                if int(fields[1]) == own:
                    found.append(int(name))
    return tuple(found)
