"""Where a command is: the file that will be measured and executed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping

from crannog.errors import Error
from crannog.measure.front import behind

EXIT_NOT_EXECUTABLE = 126  # as env(1) and every shell
EXIT_NOT_FOUND = 127


class NotFound(Error):
    """No such command."""

    code = "command-not-found"
    exit_code = EXIT_NOT_FOUND


class NotExecutable(Error):
    """It is there and cannot be executed."""

    code = "command-not-executable"
    exit_code = EXIT_NOT_EXECUTABLE


def find_program(name: str, environment: Mapping[str, str]) -> str:
    """The absolute path of command `name`, with its directory's links resolved and its own kept.

    A virtual environment's `python3` is a link whose place decides which library is taken, so its
    name stays; `/bin` and `/usr/bin` are one directory and give one path, so one measurement.

    Raises:
        NotFound, NotExecutable: with the exit status that shells give.
    """
    if not name:
        raise NotFound("the command is empty")
    if "/" in name:
        return _normal(_usable(name, name))
    refused: NotExecutable | None = None
    for directory in (environment.get("PATH") or os.defpath).split(":"):
        try:
            return _normal(_usable(os.path.join(directory or ".", name), name))
        except NotFound:
            continue
        except NotExecutable as error:
            refused = refused or error
    raise refused or NotFound(
        f"command {name!r} is not on PATH", hint="give its absolute path, or set PATH"
    )


def executed(path: str) -> str:
    """The file that is executed for a program at `path`, of a start that measures nothing.

    An interpreter behind a front takes the front's place (`measure.front`); a front would start
    another launcher.
    """
    return behind(_Disk(), path) or path


class _Disk:
    """This system's files, as `measure.front` asks for them."""

    def canonical(self, path: str) -> str | None:
        try:
            return os.path.realpath(path, strict=True)
        except OSError:
            return None

    def is_regular(self, path: str) -> bool:
        return os.path.isfile(path)


def _usable(path: str, name: str) -> str:
    try:
        status = os.stat(path)
    except OSError as error:
        if isinstance(error, PermissionError):
            raise NotExecutable(f"command {name!r}: permission denied") from error
        raise NotFound(f"command {name!r}: no such file") from error
    if not stat.S_ISREG(status.st_mode) or not os.access(path, os.X_OK):
        raise NotExecutable(f"command {name!r}: {path} is not an executable file")
    return path


def _normal(path: str) -> str:
    """With its directory's links resolved by the kernel: an attested start looks up little."""
    directory, name = os.path.split(path)
    try:
        handle = os.open(directory or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise NotFound(f"command {path!r}: no such directory") from error
    try:
        return os.path.join(os.readlink(f"/proc/self/fd/{handle}"), name)
    except FileNotFoundError:
        return os.path.join(os.path.realpath(directory or "."), name)  # /proc is not mounted
    finally:
        os.close(handle)
