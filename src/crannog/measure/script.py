"""`#!` lines, read as Linux reads them (`fs/binfmt_script.c`). Pure."""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from crannog.errors import FormatError, Unsupported

_LINE = 255  # BINPRM_BUF_SIZE less the final NUL
_ENV = ("/usr/bin/env", "/bin/env")
_PLAIN_WORD = r"[A-Za-z0-9_@%+,./:-]+\Z"


class Shebang(NamedTuple):
    """The interpreter of a script.

    Attributes:
        interpreter: its absolute path.
        arguments: what comes between it and the script's path.
        env: the program that `env` would search for, where the interpreter is env; then
            `arguments` are that program's.
    """

    interpreter: str
    arguments: tuple[str, ...]
    env: str | None


def parse_shebang(head: bytes, what: str) -> Shebang:
    """The interpreter that the first bytes of a script name; `what` names the script in errors.

    Raises:
        FormatError: no `#!` line, or one the kernel would refuse or cut.
        Unsupported: a relative interpreter, or more of env than a name, `-S` and plain words.
    """
    if not head.startswith(b"#!"):
        raise FormatError(f"{what}: neither an ELF file nor a script with a #! line", offset=0)
    line, newline, _ = head[:_LINE].partition(b"\n")
    if not newline and len(head) >= _LINE:
        raise FormatError(f"{what}: its #! line is longer than {_LINE} bytes", offset=2)
    text = os.fsdecode(line[2:]).strip(" \t")
    interpreter, _, argument = text.replace("\t", " ").partition(" ")
    argument = argument.strip(" ")
    if not interpreter or "\0" in text:
        raise FormatError(f"{what}: its #! line names no interpreter", offset=2)
    if not interpreter.startswith("/"):
        raise Unsupported(
            f"{what}: its interpreter {interpreter[:80]!r} depends on the working directory",
            hint="name it by its absolute path",
        )
    if interpreter not in _ENV:
        return Shebang(interpreter, (argument,) if argument else (), None)
    words = argument.split()
    if words[:1] == ["-S"]:
        words = words[1:]
    elif len(words) > 1:
        words = [argument]  # without -S it is one word, spaces and all
    if (
        not words
        or words[0].startswith("-")
        or not all(re.match(_PLAIN_WORD, word) for word in words)
    ):
        raise Unsupported(
            f"{what}: its #! line uses more of env than `env NAME` or `env -S NAME WORD...`",
            hint="name the interpreter by its absolute path",
        )
    return Shebang(interpreter, tuple(words[1:]), words[0])
