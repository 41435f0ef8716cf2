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
from crannog.measure.front import place_behind
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
    itself would take another one's library. A Python always gets that path, since it looks for its
    library and its `pyvenv.cfg` from `argv[0]`, and what lies beside another name was not measured.
    For a script the `#!` line's interpreter and the script's path take `argv[0]`'s place, as the
    kernel does. Where a Python was measured and the command begins with the path of something else,
    that is a script which the Python runs: a `#!` line leads to the launcher in a curated image.

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
    if measurement.python and environment["HOME"] != DEFAULT_HOME:
        # (A) What runs from the user's site directory was measured below the default HOME alone.
        environment.setdefault("PYTHONNOUSERSITE", "1")
    first, *rest = map(_native, configuration.argv)
    warnings: list[str] = []
    same = _stem(first) == _stem(measurement.program)
    script = measurement.python and not measurement.prefix and "/" in first and not same
    if script:
        argv: tuple[str, ...] = (measurement.program, first, *rest)
    elif measurement.prefix:
        argv = (*measurement.prefix, *rest)
    elif measurement.python or "/" not in first:
        argv = (measurement.program, *rest)
    else:
        argv = (first, *rest)
    if not same and not script:
        warnings.append(
            f"the session's command names {first[:200]!r}; what runs is the measured "
            f"{measurement.program}, with the rest of the command"
            + ("; a script is named by its path" if measurement.python else "")
        )
    elif same and "/" in first and not _leads_to(first, measurement.program):
        warnings.append(
            f"argv[0] is {argv[0][:200]!r} and what runs is the measured {measurement.program}"
            + (f", the session's command begins with {first[:200]!r}" if argv[0] != first else "")
        )
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


def _leads_to(name: str, program: str) -> bool:
    """Whether it is the measured program's path, or lies where that program's front is."""
    directory = os.path.dirname(name)
    return program in (name, place_behind(f"{directory}/{os.path.basename(program)}"))


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
