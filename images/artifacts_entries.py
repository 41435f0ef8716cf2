"""The small static programs of images/launcher, compiled.

Decides compiler and options. The result depends on the sources and the compiler alone: no path of
the machine, no build id, no time.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

from crannog.errors import Error, Misconfigured, Unavailable

SOURCES = Path(__file__).resolve().parent / "launcher"

_COMMON = (
    *("-std=c11", "-Os", "-ffreestanding", "-fno-builtin", "-fno-stack-protector"),
    *("-fno-asynchronous-unwind-tables", "-fno-tree-loop-distribute-patterns"),
    *("-fno-ident", "-Wall", "-Wextra", "-Werror"),
    *("-nostdlib", "-s", "-Wl,--build-id=none", "-Wl,-z,noexecstack"),
)
_STATIC = ("-static", "-fno-pie", "-no-pie", "-Wl,-z,noseparate-code")
_SHARED = ("-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-z,relro,-z,now")


class Entries(NamedTuple):
    """Where the compiled programs are."""

    run: Path
    services: Path
    front: Path
    first: Path


def compiler() -> str | None:
    """The C compiler, CC or gcc; None where there is none."""
    return shutil.which(os.environ.get("CC") or "gcc")


def compile_entries(into: Path) -> Entries:
    """Compile all of them into the directory `into`.

    Raises:
        Misconfigured: there is no compiler.
        Unavailable: it refuses.
    """
    found = compiler()
    if found is None:
        raise Misconfigured(
            "no C compiler, expected gcc or CC", hint="apt-get install gcc, or set CC"
        )
    return Entries(
        *(
            _compile(found, name, options, into)
            for name, options in (
                ("entry.c", _STATIC),
                ("services.c", _STATIC),
                ("front.c", _STATIC),
                ("first.c", _SHARED),
            )
        )
    )


def _compile(compiler: str, source: str, options: tuple[str, ...], into: Path) -> Path:
    target = into / Path(source).stem
    command = [compiler, *_COMMON, *options, "-o", str(target), source, "common.c"]
    try:
        # In the sources' directory: no other path of this machine is in what comes out.
        subprocess.run(command, cwd=SOURCES, check=True, capture_output=True, text=True)
    except subprocess.CalledProcessError as error:
        raise _refused(source, error.stderr) from error
    except OSError as error:
        raise Misconfigured(f"{compiler} cannot be started: {error.strerror}") from error
    return target


def _refused(source: str, said: str) -> Error:
    return Unavailable(f"{source} does not compile: {said.strip()[:2000]}")
