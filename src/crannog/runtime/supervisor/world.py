"""What a shielded program's file system is made of, beside the disk.

Plain data, built by the launcher from the configuration (or from `SCONE_FSPF` and its companions)
and given to `run.run_shielded`. Nothing is opened or checked here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from crannog.measure.program import MeasuredFile
    from crannog.shield.fspf import Fspf


class InjectedFile(NamedTuple):
    """A file that exists in memory only, placed over whatever the disk has at `path`.

    Attributes:
        path: absolute, without `.` and `..`; its directories need not exist.
        content: what it holds at the start; the program may change it, until it ends.
        mode: permission bits; the owner is the user whom the launcher runs as.
    """

    path: bytes
    content: bytes
    mode: int = 0o644


class World(NamedTuple):
    """The regions and files that one program sees over the disk's.

    Attributes:
        fspf: the opened protection file, or None where there is none.
        files: injected files; of two with one path the later one counts.
        allow_dlopen: the value of `SCONE_ALLOW_DLOPEN`; 2 and above allows every ELF object.
        measured: the files in the program's measurement, which may be loaded from unprotected
            places whatever `allow_dlopen` says.
        base: the image's base fspf, which nothing of the others weakens; None where there is none.
    """

    fspf: Fspf | None = None
    files: tuple[InjectedFile, ...] = ()
    allow_dlopen: int = 2
    measured: tuple[MeasuredFile, ...] = ()
    base: Fspf | None = None
