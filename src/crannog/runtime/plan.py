"""What a start will be, decided before anything is done. Pure, so that it can be tested.

`choose` says which of the ways in design section 2 it is. `attested_program` and `plain_program`
say what exactly is executed: file, arguments, environment, directory.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from crannog.errors import Misconfigured
from crannog.measure.defaults import DEFAULT_HOME, DEFAULT_PATH
from crannog.runtime.settings import Settings

if TYPE_CHECKING:
    from crannog.exchange.configuration import Configuration
    from crannog.measure.program import Measurement, NativeFiles

FORBIDDEN_VARIABLE = "SCONE_CONFIG_ID"

_INTERPRETERS = ("python", "node", "sh", "bash", "dash", "ash", "zsh", "perl", "ruby", "lua", "php")


class Start(Enum):
    """The ways to start."""

    HASH = "print the measurement and stop"
    ATTESTED = "attest, then run as a child"
    SHIELDED = "run under the file shield, not attested"
    CHILD = "run as a child, not attested"
    IN_PLACE = "execute in the launcher's place, not attested"


class Program(NamedTuple):
    """What is executed.

    Attributes:
        argv: all arguments from `argv[0]`.
        environment: the whole environment.
        pwd: the working directory, or None to stay.
        warnings: what the operator should be told about it.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    pwd: str | None
    warnings: tuple[str, ...] = ()


def choose(settings: Settings, *, pid: int) -> Start:
    """Which way it is.

    (A) Attested or PID 1 stays the parent; only an unattested program that is not PID 1 and has no
    protected files is executed in the launcher's place.

    Raises:
        Misconfigured: SCONE_CAS_ADDR without SCONE_CONFIG_ID. Whoever names a CAS wants to attest,
            and a plain start would hand the program the host's environment instead.
    """
    if settings.hash_only:
        return Start.HASH
    if settings.config_id is not None:
        return Start.ATTESTED
    if settings.cas is not None:
        raise Misconfigured(
            "SCONE_CAS_ADDR is set and SCONE_CONFIG_ID is not",
            hint="set SCONE_CONFIG_ID=SESSION/SERVICE, or unset SCONE_CAS_ADDR for a plain start",
        )
    if settings.fspf is not None:
        return Start.SHIELDED
    return Start.CHILD if pid == 1 else Start.IN_PLACE


def attested_program(configuration: Configuration, measurement: Measurement) -> Program:
    """The session's program: its argv and environment, nothing of the host's.

    A bare `argv[0]` becomes the measured absolute path (A): an interpreter that searches PATH for
    itself would take another one's library. For a script the `#!` line's interpreter and the
    script's path take `argv[0]`'s place, as the kernel does.

    Raises:
        Misconfigured: the configuration sets SCONE_CONFIG_ID, or has no argv.
    """
    if not configuration.argv:
        raise Misconfigured("the session's command is empty")
    environment = {_native(name): _native(value) for name, value in configuration.environment}
    if FORBIDDEN_VARIABLE in environment:
        raise Misconfigured(
            f"the session sets {FORBIDDEN_VARIABLE} in the program's environment",
            hint="child interpreters would try to attest; remove it from the session",
        )
    environment.setdefault("PATH", DEFAULT_PATH)
    environment.setdefault("HOME", DEFAULT_HOME)
    first, *rest = map(_native, configuration.argv)
    warnings: list[str] = []
    if _stem(first) != _stem(measurement.program):
        warnings.append(
            f"the session's command names {first[:200]!r}; what runs is the measured "
            f"{measurement.program}, with the rest of the command"
        )
    elif "/" in first and first != measurement.program:
        warnings.append(
            f"argv[0] is {first[:200]!r} and what runs is the measured {measurement.program}"
        )
    if measurement.prefix:
        argv = (*measurement.prefix, *rest)
    else:
        argv = (first if "/" in first else measurement.program, *rest)
    return Program(argv, environment, _native(configuration.pwd or "/"), tuple(warnings))


def plain_program(
    argv: Sequence[str],
    environment: Mapping[str, str],
    found: Measurement | NativeFiles | None,
) -> Program:
    """The command as it was given, with the host's whole environment, SCONE_* included."""
    arguments = tuple(argv)
    if found is not None and found.prefix:
        arguments = (*found.prefix, *argv[1:])
    return Program(arguments, environment, None)


def _stem(path: str) -> str:
    """A program's name without its version: python3 and python3.11 are both python."""
    return os.path.basename(path).rstrip("0123456789.")


def _native(text: str) -> str:
    """`text` such that the program gets it in UTF-8, whatever locale the launcher was started in.

    The locale is the host's; the session's text must not depend on it.
    """
    return os.fsdecode(text.encode("utf-8"))


def ends_at_once(argv: Sequence[str], *, input_is_null: bool) -> str | None:
    """Why an interpreter without anything to do will end, or None where it has something."""
    name = _stem(argv[0])
    if len(argv) > 1 or not input_is_null or name not in _INTERPRETERS:
        return None
    return (
        f"{argv[0]} has no arguments, no terminal and no input, so it ends at once: give it a "
        "program, a terminal, or SCONE_CONFIG_ID to get its command from a session"
    )
