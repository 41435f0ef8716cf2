"""An interpreter that lies behind a front: which file it is, and what it is called.

In a curated image the interpreter's own name is taken by a small static program, the *front*, which
starts the launcher where a start is to be attested; the interpreter itself lies at
`../libexec/crannog/NAME` from there. A front is never measured nor executed by us: what is meant by
it is the interpreter. So each of its names, and either launcher, leads to one measurement.

Decides about paths only. Pure but for what it asks its `Files`.
"""

from __future__ import annotations

import posixpath
from typing import Protocol

DIRECTORY = "libexec/crannog"
BASE_FSPF = "base.fspf"
_LANDMARK = "pyvenv.cfg"


class Files(Protocol):
    """What has to be known of the disk; `root.Root` and `runtime.find` implement it."""

    def canonical(self, path: str) -> str | None:
        """The path without links; None where nothing is there."""

    def is_regular(self, path: str) -> bool:
        """Whether a regular file is there, links followed."""


def place_behind(canonical: str) -> str:
    """Where the interpreter of the front at `canonical`, a path without links, would be."""
    directory, name = posixpath.split(canonical)
    return f"{posixpath.dirname(directory).rstrip('/')}/{DIRECTORY}/{name}"


def behind(files: Files, path: str) -> str | None:
    """The interpreter that the front at `path` stands for; None where there is no front."""
    canonical = files.canonical(path)
    if canonical is None:
        return None
    real = place_behind(canonical)
    # Not through a link: who may place one there could as well have named another interpreter.
    return real if files.canonical(real) == real and files.is_regular(real) else None


def called(files: Files, path: str, real: str) -> str:
    """What an attested interpreter behind the front at `path` gets as `argv[0]`.

    A Python looks for its library from there. In a virtual environment it is the name as given,
    since the environment is found by it; else the interpreter's own path, which holds no link that
    somebody could turn.
    """
    here = posixpath.dirname(path)
    for directory in (here, posixpath.dirname(here)):
        if files.is_regular(f"{directory.rstrip('/')}/{_LANDMARK}"):
            return path
    return real


def base_fspf(executable: str) -> str | None:
    """Where the base fspf of the interpreter at `executable` would be; None for any other program.

    Args:
        executable: its canonical path.
    """
    directory = posixpath.dirname(executable)
    return f"{directory}/{BASE_FSPF}" if directory.endswith(f"/{DIRECTORY}") else None
