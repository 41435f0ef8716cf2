"""Run one program under the file shield, from fork to exit status."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from crannog.runtime.supervisor.world import World

Supervise = Callable[[int], int]
"""Waits for the program of that process id, forwarding signals and reaping orphans meanwhile.

Returns its exit status as a shell would show it (128 + signal number). Called in the main thread.
"""


def run_shielded(
    *,
    executable: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    pwd: str,
    world: World,
    supervise: Supervise | None = None,
) -> int:
    """Run a program that sees `world` over the disk; return its exit status.

    The caller's process becomes the program's parent and supervisor. It must be single-threaded
    when it calls this, and should have made itself non-dumpable.

    Args:
        executable: absolute path of what is executed; it may lie in a region.
        argv: the program's arguments, from `argv[0]`.
        environment: the program's whole environment.
        pwd: absolute path of its first working directory; it may lie in a region.
        world: what it sees over the disk.
        supervise: signal forwarding and reaping; None takes `wait_for_program`'s.

    Raises:
        crannog.errors.IntegrityError: a protected file was changed or is missing. The program and
            its descendants have been killed.
        crannog.errors.Unsupported: the kernel or the program cannot be shielded.
        crannog.errors.Misconfigured: `executable` or `pwd` cannot be used.
    """
    raise NotImplementedError
