"""Run one program under the file shield, from fork to exit status."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable, Mapping, Sequence
from typing import NoReturn

from crannog.errors import Misconfigured, Unsupported
from crannog.linux.channel import Channel, receive_descriptor, socket_pair
from crannog.linux.notify import Listener, check_kernel
from crannog.linux.process import become_subreaper, kill_descendants, signal_descendants
from crannog.linux.seccomp import build
from crannog.linux.syscalls import machine_named
from crannog.runtime.init import child_signals
from crannog.runtime.init import supervise as forward_and_reap
from crannog.runtime.supervisor import rights
from crannog.runtime.supervisor.assemble import assemble
from crannog.runtime.supervisor.execute import Asker
from crannog.runtime.supervisor.guardian import watch_over
from crannog.runtime.supervisor.loop import Supervisor
from crannog.runtime.supervisor.placement import Bursts, keep_awake
from crannog.runtime.supervisor.resolve import Caller, Where
from crannog.runtime.supervisor.start import Program, become
from crannog.runtime.supervisor.table import filter_rules
from crannog.runtime.supervisor.world import World
from crannog.shield.model import DirectoryEntry

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
    when it calls this, have no other children, and should have made itself non-dumpable and called
    `init.hold_signals`. What the program leaves running is killed when it ends: nobody would serve
    it any more.

    Args:
        executable: absolute path of what is executed; it may lie in a region.
        argv: the program's arguments, from `argv[0]`.
        environment: the program's whole environment.
        pwd: absolute path of its first working directory; it may lie in a region.
        world: what it sees over the disk.
        supervise: signal forwarding and reaping; None takes `init.supervise`.

    Raises:
        crannog.errors.IntegrityError: a protected file was changed or is missing. The program and
            its descendants have been killed.
        crannog.errors.Unsupported: the kernel or the program cannot be shielded.
        crannog.errors.Misconfigured: `executable` or `pwd` cannot be used.
    """
    system = os.uname()
    check_kernel(system.release)
    machine = machine_named(system.machine)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    umask = os.umask(0)
    try:
        supervisor = assemble(machine, world, descriptors=hard, stop=_stop)
        program = _program(supervisor, executable, argv, environment, pwd)
        instructions = build(machine, filter_rules(supervisor))
        become_subreaper()
        ours, theirs = socket_pair()

        def prepare() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            os.umask(umask)
            child_signals()

        def run_program(parent: int) -> NoReturn:
            become(
                program,
                machine=machine,
                instructions=instructions,
                channel=theirs,
                parent=parent,
                prepare=prepare,
            )

        child, lives, bursts = _fork(run_program)
        theirs.close()
        _program_close(program)
        try:
            supervisor.bursts = Bursts(bursts)
            _begin(supervisor, ours, child, executable)
            status = (supervise or forward_and_reap)(child)
        finally:
            kill_descendants()
            # `bursts` stays open: a thread may be about to write to it, and numbers are reused.
            for descriptor in lives:
                os.close(descriptor)
        if supervisor.failure is not None:
            raise supervisor.failure
        return status
    finally:
        os.umask(umask)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _fork(run_program: Callable[[int], NoReturn]) -> tuple[int, list[int], int]:
    """Fork the program, below a guardian unless we are PID 1, and the keeper of a core.

    Returns:
        Our child, what to close when it has ended, and where bursts are to be told.
    """
    launcher = os.getpid()
    kept, bursts = os.pipe()
    os.set_blocking(bursts, False)
    if launcher == 1:
        child = os.fork()
        if child == 0:
            run_program(launcher)
        if os.fork() == 0:
            keep_awake(kept)
        os.close(kept)
        return child, [], bursts
    watched, lives = os.pipe()
    child = os.fork()
    if child:
        os.close(watched)
        os.close(kept)
        return child, [lives], bursts
    try:
        guardian = os.getpid()
        os.close(lives)
        program = os.fork()
        if program == 0:
            run_program(guardian)
        # Here and not in the launcher: it costs a start nothing.
        if os.fork() == 0:
            keep_awake(kept)
        watch_over(program, watched)
    finally:
        os._exit(1)


def _stop() -> None:
    """Kill the program and what it started; called by the thread that found the reason.

    Not waited for here: that is the main thread's, which sees the program end and kills whatever
    was forked meanwhile.
    """
    signal_descendants(signal.SIGKILL)


def _program(
    supervisor: Supervisor,
    executable: str,
    argv: Sequence[str],
    environment: Mapping[str, str],
    pwd: str,
) -> Program:
    for what, path in (("executable", executable), ("working directory", pwd)):
        if not path.startswith("/"):
            raise Misconfigured(f"{what} is {path}, expected an absolute path")
    arguments = [os.fsencode(argument) for argument in argv]
    target, arguments = _executable(supervisor, os.fsencode(executable), arguments)
    return Program(
        target,
        arguments,
        {os.fsencode(name): os.fsencode(value) for name, value in environment.items()},
        _directory(supervisor, os.fsencode(pwd)),
    )


def _executable(
    supervisor: Supervisor, path: bytes, arguments: list[bytes]
) -> tuple[bytes | int, list[bytes]]:
    """What the child executes: a native path, or a descriptor of a verified file."""
    executables = supervisor.executables
    if executables is None:
        return path, arguments
    own = os.getpid()
    caller = Caller(own, own)
    asker = Asker(
        lambda name: supervisor.resolver.resolve(b"/", name, caller),
        lambda found: rights.of(supervisor, found, supervisor.own_credentials),
    )
    try:
        return executables.prepare(path, arguments, asker)
    except OSError as error:
        raise _not_executable(os.fsdecode(path), error.errno or 0) from error


def _not_executable(path: str, number: int) -> Misconfigured:
    return Misconfigured(
        f"cannot execute {path}: {os.strerror(number).lower()}",
        hint="the executable has to be there, executable, and for this machine",
    )


def _directory(supervisor: Supervisor, pwd: bytes) -> int:
    """A descriptor of the first working directory, resolved as the program would."""
    own = os.getpid()
    try:
        found = supervisor.resolver.resolve(b"/", pwd, Caller(own, own))
        if isinstance(found.entry, DirectoryEntry):
            return supervisor.directories.open_for(found.path, found.entry)
        if found.where is not Where.DISK:
            raise NotADirectoryError(20, "not a directory")
        return os.open(found.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise Misconfigured(
            f"working directory {os.fsdecode(pwd)}: {reason.lower()}",
            hint="set 'pwd' of the service to a directory of the image",
        ) from error


def _program_close(program: Program) -> None:
    os.close(program.directory)
    if isinstance(program.executable, int):
        os.close(program.executable)


def _begin(supervisor: Supervisor, channel: Channel, child: int, executable: str) -> None:
    """Take over the listener and serve until the program has been executed.

    Raises:
        Unsupported, Misconfigured: the child could not do its part; it has ended.
    """
    message, descriptor = receive_descriptor(channel, 4096)
    if descriptor is None:
        os.waitpid(child, 0)
        raise Unsupported(
            message[1:].decode("utf-8", "replace") or "file shield: the program's process ended",
            hint="crannog cannot run inside crannog, nor under another seccomp supervisor;"
            " the container's seccomp profile has to allow seccomp(2)",
        )
    listener = Listener(descriptor)
    os.set_inheritable(listener.descriptor, False)
    listener.prefer_same_core()
    supervisor.serve(listener, int(message[1:]))
    refusal = channel.recv(64)
    channel.close()
    if refusal:
        os.waitpid(child, 0)
        raise _not_executable(executable, int(refusal[1:]) if refusal[1:].isdigit() else 0)
