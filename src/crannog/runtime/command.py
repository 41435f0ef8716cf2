"""`crannog run [--] COMMAND...`: the launcher's command line, its messages and its exit codes.

Decides how a failure is said: the reference's lines with the whole cause chain, a note of whom was
asked, and a hint. Imports as little as a plain start needs.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import NoReturn

from crannog.errors import (
    EXIT_FAILED,
    EXIT_REFUSED,
    EXIT_TRY_AGAIN,
    EXIT_USAGE,
    Error,
    EvidenceUnverifiable,
    IntegrityError,
    Unavailable,
    chain,
    defect,
    hints,
)
from crannog.runtime.find import NotExecutable, NotFound
from crannog.runtime.log import Log
from crannog.runtime.plan import Start, choose
from crannog.runtime.settings import Settings, read_settings

_COERCED = ("LC_CTYPE", "C.UTF-8")
_USAGE = """\
Usage: {program} run [--] COMMAND [ARGUMENT]...

Run COMMAND. With SCONE_CONFIG_ID=SESSION/SERVICE it is measured and attested first: its
arguments, environment, files and keys then come from that session at the CAS, and ARGUMENTs
and the environment given here are not passed on. Without it COMMAND runs as it is.

Options:
  --help  Show this message and exit.

Variables (docs/environment.md has them all):
  SCONE_HASH=1        print COMMAND's MRENCLAVE, 64 hex digits, and stop
  SCONE_CONFIG_ID     SESSION/SERVICE or SESSION/SERVICE@ONE-TIME-PASSWORD
  SCONE_CAS_ADDR      HOST or HOST:PORT of the CAS, default cas:18765
  SCONE_LAS_ADDR      HOST or HOST:PORT of the LAS, default las:18766
  SCONE_MODE          auto, sim or hw
  SCONE_LOG           FATAL, ERROR, WARN, INFO, DEBUG or TRACE, default WARN
  SCONE_HEAP, SCONE_STACK, SCONE_ALLOW_DLOPEN, SCONE_FORK, SCONE_MPROTECT
                      are part of the MRENCLAVE
  CRANNOG_CAS_KEY     accept only the CAS with this key
  CRANNOG_SESSION_HASH  accept only this version of the session
  CRANNOG_TERMINATION_LOG  a file that gets the reason of a failure, default /dev/termination-log

Exit status: COMMAND's own, or 128 and the number of the signal that ended it; 78 refused or
misconfigured, 75 try again later, 70 a defect of crannog, 126 and 127 as env(1), 2 for a wrong
usage.
"""


def run_command(
    argv: Sequence[str], *, program: str, environment: Mapping[str, str] | None = None
) -> int:
    """Run the launcher.

    Args:
        argv: what came after `run`.
        program: how the command line was called, for the usage text.
        environment: what the launcher was started with, where that is not this process's own.

    Returns:
        The exit status. Does not return where the program takes the launcher's place.
    """
    command = list(argv)
    if command[:1] in (["--help"], ["-h"]):
        return 0 if _put(1, _USAGE.format(program=program)) else EXIT_FAILED
    if command[:1] == ["--"]:
        del command[0]
    elif command and command[0].startswith("-"):
        _put(
            2,
            f"{program}: error: unknown option {command[0]!r}\n"
            f"{program}: hint: {program} run -- COMMAND runs a command that begins with a dash\n",
        )
        return EXIT_USAGE
    if not command:
        _put(2, f"{program}: error: no command\n{program}: hint: {program} run --help\n")
        return EXIT_USAGE
    return _run(command, _as_found(os.environ) if environment is None else environment)


def leave(status: int) -> NoReturn:
    """End a launcher without what the interpreter would still put in order, which takes 15 ms.

    It has written what it says by then, and has nothing else that outlives it.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (AttributeError, OSError, ValueError):
            continue  # there is none, or it is closed: nobody would read it
    os._exit(status)


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    log = Log()
    status = _attempt(command, environment, log)
    if log.reasons:
        from crannog.runtime.termination import leave_reason

        leave_reason(log, environment)
    return status


def _attempt(command: Sequence[str], environment: Mapping[str, str], log: Log) -> int:
    try:
        settings = read_settings(environment)
        log.level = settings.log
        start = choose(settings, pid=os.getpid())
    except Error as error:
        log.fatal(f"Could not initialize: {error.message}")
        _rest(error, log)
        return EXIT_REFUSED
    # As PID 1 the default for SIGTERM is to ignore it; nobody should wait for a start to end.
    if start is not Start.IN_PLACE:
        signal.signal(signal.SIGTERM, _end)
    try:
        return _start(settings, start, command, environment, log)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except (NotFound, NotExecutable) as error:
        log.error(error.message)
        _rest(error, log)
        return error.exit_code
    except Error as error:
        return _failed(settings, start, error, log)
    except OSError as error:
        # Each expected one is an error of ours by now: the machine has run out of something.
        log.fatal(f"Could not initialize: the system refused: {error.strerror or error}")
        return EXIT_TRY_AGAIN
    except Exception as error:  # noqa: BLE001  # (A) its text, and a traceback, may hold secrets
        found = defect(error)
        log.fatal(f"Could not initialize: {found.message}")
        _rest(found, log)
        return found.exit_code


def _start(
    settings: Settings,
    start: Start,
    command: Sequence[str],
    environment: Mapping[str, str],
    log: Log,
) -> int:
    from crannog.runtime import launch

    match start:
        case Start.HASH:
            return launch.print_hash(settings, command, environment)
        case Start.ATTESTED:
            return launch.start_attested(settings, command, environment, log)
        case Start.SHIELDED:
            return launch.start_shielded(settings, command, environment, log)
        case Start.CHILD | Start.IN_PLACE:
            return launch.start_plain(settings, start, command, environment, log)


def _failed(settings: Settings, start: Start, error: Error, log: Log) -> int:
    """Say why, in the form of reference 4.5; returns the exit status."""
    if start is Start.ATTESTED:
        from crannog.runtime.attest import note_service

        if isinstance(error, IntegrityError):
            log.fatal("Could not initialize enclave state: Protected files are not authentic")
        else:
            log.fatal("Could not initialize enclave state: Attestation failed")
        for line in chain(error):
            log.plain(f"  Caused by: {line}")
        log.plain(note_service(settings))
        if _said_by_cas(error) and settings.cas_key is None:
            log.plain(
                "Note: the causes above are what an unauthenticated CAS said (CRANNOG_CAS_KEY is "
                "not set): review any advice in them"
            )
        for hint in hints(error):
            log.plain(f"Hint: {hint}")
    else:
        first, *causes = chain(error)
        log.fatal(first)
        for line in causes:
            log.plain(f"  Caused by: {line}")
        _rest(error, log)
    if isinstance(error, Unavailable | EvidenceUnverifiable):
        return EXIT_TRY_AGAIN
    return EXIT_REFUSED


def _said_by_cas(error: Error) -> bool:
    return any(line.startswith("CAS sent an attestation") for line in chain(error))


def _put(descriptor: int, text: str) -> bool:
    """Write all of `text`; False, and a line on stderr, where it could not be."""
    data = text.encode("utf-8", "backslashreplace")
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError as error:
        Log().error(f"cannot write the usage: {error.strerror}")
        return False
    return True


def _as_found(environment: Mapping[str, str]) -> Mapping[str, str]:
    """The host's environment without what Python put there for itself (PEP 538)."""
    name, value = _COERCED
    if environment.get(name) != value:
        return environment
    try:
        with open("/proc/self/environ", "rb") as file:
            original = file.read()
    except OSError:
        return environment
    if f"{name}={value}".encode() in original.split(b"\0"):
        return environment
    return {key: kept for key, kept in environment.items() if key != name}


def _rest(error: Error, log: Log) -> None:
    for hint in hints(error):
        log.plain(f"Hint: {hint}")


def _end(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)
