"""The node's launcher as this LAS has it: digest, loader, and where it lies on its file system."""

from __future__ import annotations

import os
from pathlib import Path

from crannog.errors import Denied, Misconfigured
from crannog.las.facts import Place, locate
from crannog.las.process import file_id, mounts_of
from crannog.las.record import Release
from crannog.measure.launcher_directory import verify_launcher_directory

LOADER = "lib/ld.so"
_MARKS = ("digest", "run", "start.py", LOADER)


def load_release(launcher: Path, socket_directory: Path | None, *, owner: int = 0) -> Release:
    """The release in the directory `launcher`, its digest recomputed.

    Args:
        launcher: the very directory that the node mounts into containers, or a mount of it.
        socket_directory: the same of the directory with the LAS's socket.
        owner: the user id that all of it has to belong to.

    Raises:
        Misconfigured: it is not there, not whole, or others may write to it.
        Denied: our own mount table cannot be read.
    """
    digest = verify_launcher_directory(str(launcher), owner=owner)
    try:
        loader = file_id(os.stat(launcher / LOADER))
    except OSError as error:
        raise Misconfigured(
            f"launcher directory {launcher} has no {LOADER}: {(error.strerror or '').lower()}"
        ) from error
    place = _place(launcher)
    if place is None:
        raise Misconfigured(f"launcher directory {launcher} is on no mount of the LAS's")
    return Release(
        digest=digest,
        loader=loader,
        launcher=place,
        socket=None if socket_directory is None else _place(socket_directory),
    )


def _place(directory: Path) -> Place | None:
    return locate(mounts_of("self"), os.path.realpath(directory))


def marks(launcher: Path) -> tuple[tuple[int, int, int], ...]:
    """What changes when the release is replaced in place: device, inode, time of some files.

    Raises:
        Denied: one is not there any more.
    """
    try:
        found = [os.stat(launcher / name) for name in _MARKS]
    except OSError as error:
        raise Denied(f"launcher directory {launcher} is not whole any more") from error
    return tuple((status.st_dev, status.st_ino, status.st_ctime_ns) for status in found)
