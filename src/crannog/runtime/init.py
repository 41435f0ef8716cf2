"""The launcher as parent: signals forwarded, orphans reaped, the exit status returned.

The program runs in the launcher's own process group, so that a terminal's Ctrl-C, Ctrl-Z and
SIGWINCH reach it without help and a pipeline stays one job. What a person or an orchestrator sends
to the launcher's process id is forwarded; what the terminal sends to the whole group is not sent a
second time. The launcher stops when the program is stopped from the terminal, so that the shell
sees its job stop, and goes on with it.
"""

from __future__ import annotations

import contextlib
import os
import signal

_WNOTHREAD = 0x20000000  # wait(2): only children of this thread, not the supervisor's tracees
_SI_KERNEL = 0x80  # siginfo: the terminal, and not a process, sent it

_KEPT = frozenset(
    {
        # Raised by the launcher's own faults, or not to be caught at all.
        signal.SIGKILL,
        signal.SIGSTOP,
        signal.SIGSEGV,
        signal.SIGBUS,
        signal.SIGFPE,
        signal.SIGILL,
        signal.SIGTRAP,
        signal.SIGSYS,
        signal.SIGABRT,
    }
)
_FROM_TERMINAL = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})

_inherited: set[int] = set()


def hold_signals() -> None:
    """Block every signal that will be forwarded, from now on; call it before the program's fork.

    Threads started afterwards inherit it, so that the main thread alone takes them.
    """
    global _inherited
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, children would vanish unreaped
    _inherited = {int(each) for each in signal.pthread_sigmask(signal.SIG_BLOCK, _held())}


def child_signals() -> None:
    """In the program's process, before its execve: signals as the launcher itself found them."""
    # Python ignores these two for itself; the program has to find them as usual.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    for number in (signal.SIGINT, signal.SIGTERM):
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, _inherited)


def supervise(pid: int) -> int:
    """Wait for the program `pid`, a child of this thread; return its status as a shell shows it.

    `hold_signals` was called before the fork. Other children are reaped as they end. Returns when
    the program ends; what it left running ends with a container's PID 1, or stays as under a shell.
    """
    held = _held()
    while True:
        # First look, then wait: a child that ended before the signals were held sends no more.
        status = _reap(pid)
        if status is not None:
            return status
        arrived = signal.sigwaitinfo(held)
        if arrived.si_signo != signal.SIGCHLD:
            _forward(pid, arrived)


def exit_status(status: int) -> int:
    """A wait status as shells show it: the exit code, or 128 and the signal's number."""
    if os.WIFSIGNALED(status):
        return 128 + os.WTERMSIG(status)
    return os.WEXITSTATUS(status)


def _held() -> set[int]:
    return {int(number) for number in signal.valid_signals()} - _KEPT


def _reap(pid: int) -> int | None:
    while True:
        try:
            ended, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | _WNOTHREAD)
        except ChildProcessError:
            return 128 + signal.SIGKILL  # reaped by somebody else; nothing is left to wait for
        if ended == 0:
            return None
        if ended != pid:
            continue
        if os.WIFSTOPPED(status):
            _stop_along(pid, os.WSTOPSIG(status))
        else:
            return exit_status(status)


def _forward(pid: int, arrived: signal.struct_siginfo) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if arrived.si_code == _SI_KERNEL and os.getpgid(pid) == os.getpgrp():
            return  # the terminal sent it to the program as well
        os.kill(pid, arrived.si_signo)


def _stop_along(pid: int, number: int) -> None:
    """Stop as the program did, where the terminal's user asked for it; go on together."""
    if number not in _FROM_TERMINAL or os.getpid() == 1 or not _has_terminal():
        return
    # By the same signal, so that a launcher above a guardian, or a shell, sees which it was. The
    # terminal's own is pending: taken first, or there would be two stops for one.
    while signal.sigtimedwait({number}, 0) is not None:
        pass
    os.kill(os.getpid(), number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})  # stopped here
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, signal.SIGCONT)


def _has_terminal() -> bool:
    # Without one nobody would continue us, and a signal to end would wait for that.
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
