"""Keeping a core awake while the program opens files in bursts (docs/adr/0705).

Injecting a descriptor wakes the program without a hint where to, so that the kernel takes the idle
core. In a virtual machine an idle core has halted, and waking it costs 25 µs each way. A *keeper*
(a process of the idle class that does nothing) keeps it from halting during bursts: whoever has
real work takes the core from it at once. It sleeps at all other times, and is not there at all
where a processor quota would pay for its cycles.

Nobody's affinity is changed. A thread of the launcher cannot do this: one of the idle class that
holds the interpreter's lock on a busy machine would hold up the supervisor.
"""

from __future__ import annotations

import os
import time
from typing import NoReturn

from crannog.linux.cgroup import Read, older_groups, read_if_there, unified_groups
from crannog.linux.process import close_from

_EACH = 16  # descriptors between two looks at the clock
_BURST_NS = 4_000_000  # so many in this time are a burst
_AWAKE_NS = 2_000_000  # how long the keeper stays awake for one word of it


class Bursts:
    """Counts injected descriptors and tells the keeper of bursts; for the supervisor's threads.

    Args:
        descriptor: the writing end of the keeper's pipe, non-blocking; -1 for no keeper.
    """

    __slots__ = ("_count", "_descriptor", "_since")

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._count = 0
        self._since = 0

    def injected(self) -> None:
        """One more. A count that two threads lose makes no difference."""
        self._count += 1
        if self._count % _EACH or self._descriptor < 0:
            return
        now = time.monotonic_ns()
        if now - self._since < _BURST_NS:
            try:
                os.write(self._descriptor, b"x")
            except BlockingIOError:
                pass  # it is awake and behind with reading
            except OSError:
                self._descriptor = -1  # it was not allowed, or has been killed
        self._since = now


def keep_awake(bursts: int) -> NoReturn:
    """Be the keeper until the launcher has gone; never returns.

    Args:
        bursts: the reading end of a pipe whose other end only the launcher has.
    """
    try:
        os.dup2(bursts, 3, inheritable=False)
        close_from(4)
        if worth_it(len(os.sched_getaffinity(0)), read_if_there):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            while os.read(3, 4096):
                until = time.monotonic_ns() + _AWAKE_NS
                while time.monotonic_ns() < until:
                    pass
    finally:
        os._exit(0)


def worth_it(processors: int, read: Read) -> bool:
    """Whether there is a second core to keep awake, and no quota that pays for it.

    Args:
        processors: how many this process may use.
        read: the content of a file, empty where it cannot be read.
    """
    if processors < 2:
        return False
    # A quota of any group above holds as well.
    quotas = [f"{group}/cpu.max" for group in unified_groups(read)]
    quotas += [f"{group}/cpu.cfs_quota_us" for group in older_groups("cpu", read)]
    return all((read(quota).split() or [b""])[0] in (b"", b"max", b"-1") for quota in quotas)
