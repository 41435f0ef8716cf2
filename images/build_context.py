"""Build contexts as tar streams that depend on nothing but names, modes and content.

Order, owner (root) and times (one for all) are fixed, so that an engine that keeps what it is given
makes the same layers from the same files.
"""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from crannog.errors import FormatError, StorageFailed

_LEFT_OUT = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache"})


def write_context(
    stream: IO[bytes], sources: Path, trees: Mapping[str, Path | None], *, epoch: int
) -> None:
    """Write a context with the files of `sources` at its root and each tree under its name.

    Args:
        stream: where to; never read or sought.
        sources: a directory of the repository: Containerfile and what it copies. Modes are 0644 or
            0755, whatever the checkout's umask was, and caches are left out.
        trees: name in the context, such as `rootfs/crannog`, and the directory or file that lies
            there, with its modes; None is an empty directory.
        epoch: the time of every entry, in seconds since 1970.

    Raises:
        StorageFailed: a file cannot be read.
        FormatError: a tree holds something that is no file, directory or symbolic link.
    """
    try:
        with tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            for name, path in _walk(sources):
                if not _LEFT_OUT.isdisjoint(name.split("/")):
                    continue
                mode = 0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644
                _add(archive, name, path, epoch, mode)
            made: set[str] = set()
            for prefix, tree in sorted(trees.items()):
                if tree is not None and tree.is_file():
                    _add(archive, prefix, tree, epoch)
                    continue
                _parents(archive, prefix, made, epoch)
                for name, path in _walk(tree) if tree is not None else ():
                    _add(archive, f"{prefix}/{name}", path, epoch)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageFailed(
            f"build context: {error.filename or stream}: {error.strerror}"
        ) from error


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Everything below `root`, a directory before what it holds, names in order."""
    with os.scandir(root) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        yield entry.name, Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            for name, path in _walk(Path(entry.path)):
                yield f"{entry.name}/{name}", path


def _parents(archive: tarfile.TarFile, prefix: str, made: set[str], epoch: int) -> None:
    parts = prefix.split("/")
    for length in range(1, len(parts) + 1):
        name = "/".join(parts[:length])
        if name not in made:
            made.add(name)
            entry = _entry(name, epoch, 0o755)
            entry.type = tarfile.DIRTYPE
            archive.addfile(entry)


def _add(
    archive: tarfile.TarFile, name: str, path: Path, epoch: int, mode: int | None = None
) -> None:
    status = path.lstat()
    entry = _entry(name, epoch, stat.S_IMODE(status.st_mode) & 0o777 if mode is None else mode)
    if stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        archive.addfile(entry)
    elif stat.S_ISLNK(status.st_mode):
        entry.type = tarfile.SYMTYPE
        entry.linkname = str(path.readlink())
        entry.mode = 0o777
        archive.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        with path.open("rb") as file:
            entry.size = os.fstat(file.fileno()).st_size
            archive.addfile(entry, file)
    else:
        raise FormatError(f"build context: {path} is no file, directory or symbolic link")


def _entry(name: str, epoch: int, mode: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.mtime, entry.mode = epoch, mode
    return entry  # owner root, without names
