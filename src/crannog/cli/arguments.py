"""Argument files: `@FILE` stands for the arguments in FILE, one a line, recursively."""

from __future__ import annotations

from pathlib import Path

from crannog.errors import Misconfigured

MAX_DEPTH = 8
MAX_BYTES = 1 << 20


def expand_argument_files(arguments: list[str], *, depth: int = 0) -> list[str]:
    """The arguments with each `@FILE` replaced by the lines of that file; empty lines are dropped.

    Raises:
        Misconfigured: a file that cannot be read, is no text, or includes itself.
    """
    found: list[str] = []
    for argument in arguments:
        if not argument.startswith("@") or argument == "@":
            found.append(argument)
            continue
        if depth == MAX_DEPTH:
            raise Misconfigured(f"argument file {argument[1:]} is nested deeper than {MAX_DEPTH}")
        lines = [line for line in _read(argument[1:]).splitlines() if line]
        found += expand_argument_files(lines, depth=depth + 1)
    return found


def _read(name: str) -> str:
    try:
        with Path(name).open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise Misconfigured(f"cannot read argument file {name}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise Misconfigured(f"argument file {name} has more than {MAX_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Misconfigured(f"argument file {name} is not UTF-8 text") from error
