"""The locked wheels for a launcher directory's Python, installed into a plain directory.

Decides how uv is called: what the lock file names, with its hashes, only wheels, nothing built.
"""

from __future__ import annotations

import enum
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from crannog.errors import Misconfigured, Unavailable

PROJECT = Path(__file__).resolve().parent.parent

_PLATFORM = {62: "x86_64-manylinux_2_28", 183: "aarch64-manylinux_2_28"}


class Extras(enum.Enum):
    """Whose requirements: each holds those before it."""

    LAUNCHER = ()
    SERVICES = ("--all-extras", "--no-extra", "kubernetes")  # the command line, the CAS, the LAS
    KUBERNETES = ("--all-extras",)


def requirements(extras: Extras) -> str:
    """The lock file's requirements without the project itself."""
    return _uv(
        *("export", "--frozen", "--no-dev", "--no-emit-project", "--no-annotate", "--no-header"),
        *extras.value,
    )


def install(
    text: str, *, into: Path, python: str, machine: int, without: Sequence[str] = ()
) -> None:
    """Install the requirements `text` into the directory `into`.

    Args:
        text: as `requirements` gives it.
        into: a directory that does not exist.
        python: the version they are for, such as `3.11`.
        machine: ELF's number of the machine they are for.
        without: names of packages that are there already.

    Raises:
        Unavailable: a wheel is not to be had, or is not the one that was locked.
    """
    listed = into.with_suffix(".txt")
    listed.write_text(_without(text, without))
    _uv(
        *("pip", "install", "--quiet", "--no-deps", "--require-hashes"),
        *("--only-binary", ":all:", "--link-mode", "copy"),
        *("--python-version", python, "--python-platform", _PLATFORM[machine]),
        *("--target", str(into), "-r", str(listed)),
    )
    listed.unlink()


def names(text: str) -> tuple[str, ...]:
    """The names of the packages in requirements."""
    lines = (line for line in text.splitlines() if line and not line.startswith((" ", "#")))
    return tuple(line.partition("==")[0] for line in lines)


def _without(text: str, names: Sequence[str]) -> str:
    kept: list[str] = []
    taking = True
    for line in text.splitlines():
        if not line.startswith(" "):
            taking = line.partition("==")[0] not in names
        if taking:
            kept.append(line)
    return "\n".join(kept) + "\n"


def _uv(*arguments: str) -> str:
    program = Path(sys.prefix) / "bin" / "uv"
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never", "UV_NO_PROGRESS": "1"}
    try:
        done = subprocess.run(
            [str(program), *arguments],
            cwd=PROJECT,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        raise Misconfigured(f"{program} is not there", hint="make dev installs it") from error
    except subprocess.CalledProcessError as error:
        raise Unavailable(f"uv {arguments[0]}: {error.stderr.strip()[-2000:]}") from error
    return done.stdout
