"""Where the launcher begins in a launcher directory: the original environment, then the command.

Decides how the environment that the static entry kept in a file in memory becomes a mapping again.
Leaves what is done with it to `runtime.command`. The process's own environment is the entry's, a
fixed one: nothing here reads it but the number of that file's descriptor, which the entry set.

Format and steps: docs/formats/launcher.md.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from typing import NoReturn

DESCRIPTOR = "CRANNOG_ENVIRONMENT_FD"


class Environment(Mapping[str, str]):
    """The environment as the kernel handed it over: order kept, a name that is there twice kept.

    A lookup finds the first of a name, as getenv(3) does. Strings without a name, or without `=`,
    cannot be passed on by `os.execve` and are left out.
    """

    def __init__(self, block: bytes) -> None:
        self._names: list[str] = []
        self._values: list[str] = []
        self._first: dict[str, str] = {}
        for entry in block.split(b"\0"):
            # From the second byte on: `=C:=x` is a variable named `=C:`.
            at = entry.find(b"=", 1)
            if at > 0:
                name, value = os.fsdecode(entry[:at]), os.fsdecode(entry[at + 1 :])
                self._names.append(name)
                self._values.append(value)
                self._first.setdefault(name, value)

    def __getitem__(self, name: str) -> str:
        return self._first[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._first)

    def __len__(self) -> int:
        # os.execve takes keys(), values() and this, and passes on as many.
        return len(self._names)

    def keys(self) -> list[str]:  # type: ignore[override]
        """All names, in their order; one that is there twice is here twice."""
        return self._names

    def values(self) -> list[str]:  # type: ignore[override]
        """The value of each of `keys`."""
        return self._values


def main() -> NoReturn:
    """DIR/start.py: `run` with the arguments after the script's name. Does not return."""
    import gc

    gc.disable()  # until the program runs: nothing that a start makes is garbage
    environment = Environment(kept_environment())
    from crannog.runtime.command import leave, run_command

    leave(run_command(sys.argv[1:], program="crannog", environment=environment))


def kept_environment() -> bytes:
    """The environment's strings from the file in memory that the entry left, which is closed."""
    descriptor = int(os.environ[DESCRIPTOR])
    size = os.fstat(descriptor).st_size  # sealed; a buffer of no more, where memory is bounded
    block = b""
    while piece := os.pread(descriptor, size, len(block)):
        block += piece
    os.close(descriptor)
    return block
