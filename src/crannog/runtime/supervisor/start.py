"""The child between fork and execve: filter on, descriptors closed, then the program.

The child is a copy of the launcher and stays unreadable until it executes. Everything that would
need a path is done before the filter is on, or by descriptors.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn

from crannog.errors import Error
from crannog.linux.channel import Channel, send_descriptor
from crannog.linux.notify import install
from crannog.linux.process import close_from, die_with_parent
from crannog.linux.seccomp import Instruction
from crannog.linux.syscalls import Machine

_FAILED_EXEC = b"E"
_FAILED_FILTER = b"F"


class Program(NamedTuple):
    """What is executed, once nothing needs looking up any more.

    Attributes:
        executable: a path, or a descriptor of a verified in-memory file.
        argv: from argv[0].
        environment: whole.
        directory: a descriptor of the working directory.
    """

    executable: bytes | int
    argv: Sequence[bytes]
    environment: Mapping[bytes, bytes]
    directory: int


def become(
    program: Program,
    *,
    machine: Machine,
    instructions: Sequence[Instruction],
    channel: Channel,
    parent: int,
    prepare: Callable[[], None],
) -> NoReturn:
    """Turn this process, just forked, into the program; never returns.

    Args:
        program: what to execute.
        machine: for the filter.
        instructions: the filter.
        channel: takes the listener, and the reason where something fails.
        parent: the launcher's process id.
        prepare: resets what the launcher changed for itself: limits, umask, signals.
    """
    # 127 is what a shell says of a command that it cannot run; nobody sees it but in `ps`.
    try:
        try:
            die_with_parent(parent)
            os.fchdir(program.directory)
            prepare()
            listener = install(machine, instructions)
        except (Error, OSError) as error:
            channel.sendall(_FAILED_FILTER + str(error).encode("utf-8", "replace"))
            os._exit(127)
        send_descriptor(channel, b"L%d" % os.getpid(), listener)
        # Marked, not closed: the channel has to say if execve fails.
        close_from(3, on_execve=True)
        try:
            # A path with execve, a descriptor with fexecve.
            os.execve(program.executable, program.argv, program.environment)  # type: ignore[arg-type]
        except OSError as error:
            channel.sendall(_FAILED_EXEC + str(error.errno).encode())
    finally:
        os._exit(127)
