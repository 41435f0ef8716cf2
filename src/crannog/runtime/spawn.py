"""Starting the program: in the launcher's place, or as its child without the file shield.

A child is executed through the descriptor of the file that was measured, so that a rename between
measuring and executing changes nothing. Its libraries are opened by its own loader, by path.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NoReturn

from crannog.errors import Misconfigured
from crannog.runtime.find import NotExecutable
from crannog.runtime.init import child_signals, hold_signals, supervise
from crannog.runtime.plan import Program

if TYPE_CHECKING:
    from crannog.measure.program import Measurement
    from crannog.measure.root import Root


def run_child(program: Program, executable: int | str) -> int:
    """Fork and execute; forward signals, reap, return the status as a shell shows it.

    Args:
        program: what is executed.
        executable: an open descriptor of it, or its path.

    Raises:
        Misconfigured: the working directory is not there.
        NotExecutable: the kernel refused to execute it.
    """
    from crannog.linux.process import become_subreaper, die_with_parent

    become_subreaper()
    hold_signals()
    parent = os.getpid()
    reading, writing = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        stage = b"signals"
        try:
            os.close(reading)
            die_with_parent(parent)
            stage = b"pwd"
            if program.pwd is not None:
                os.chdir(program.pwd)
            stage = b"exec"
            child_signals()
            os.execve(executable, program.argv, program.environment)
        except BaseException as error:  # noqa: BLE001 (a forked copy must not go on)
            number = error.errno if isinstance(error, OSError) and error.errno else 0
            os.write(writing, b"%s %d" % (stage, number))
        finally:
            os._exit(127)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        failed = pipe.read()
    status = supervise(pid)
    if failed:
        where, _, code = failed.partition(b" ")
        reason = os.strerror(int(code)).lower() if int(code) else "failed"
        if where == b"pwd":
            raise Misconfigured(f"working directory {program.pwd!r}: {reason}")
        raise NotExecutable(f"{program.argv[0]}: cannot be executed: {reason}")
    return status


def run_in_place(path: str, program: Program) -> NoReturn:
    """Become the program; the launcher is gone afterwards.

    Raises:
        NotExecutable: the kernel refused to execute it.
    """
    child_signals()
    try:
        os.execve(path, program.argv, program.environment)
    except OSError as error:
        raise NotExecutable(f"{path}: cannot be executed: {str(error.strerror).lower()}") from error


def open_measured(root: Root, measurement: Measurement) -> int:
    """A descriptor of the measured executable, after a last look at everything measured.

    The CAS may have taken its time: what was there has to be there unchanged, and where nothing
    was there still has to be nothing.

    Raises:
        Misconfigured: something is not what was measured any more.
    """
    from crannog.measure.root import identify

    for path in measurement.absent:
        if root.is_regular(path):
            raise _changed(path)
    executable = -1
    for measured in (*measurement.native, *measurement.others):
        descriptor = root.open_regular(measured.path)
        if descriptor is None or identify(descriptor) != measured.identity:
            raise _changed(measured.path)
        if measured.path == measurement.executable and executable < 0:
            executable = descriptor
        else:
            os.close(descriptor)
    if executable < 0:
        raise ValueError("the executable is not among the measured files")
    return executable


def _changed(path: str) -> Misconfigured:
    return Misconfigured(
        f"{path}: changed after it was measured", hint="is the image being changed while it runs?"
    )
