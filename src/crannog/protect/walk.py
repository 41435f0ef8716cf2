"""What lies in a source directory: directories, regular files and links, and nothing else.

Links are recorded and not followed, the source directory's own path excepted. Anything that cannot
be protected is refused by name before the first file is read, all of them at once (up to a few).
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from crannog.errors import FormatError, Misconfigured, NotFound, StorageFailed
from crannog.protect.files import disk_error
from crannog.shield.model import Kind
from crannog.shield.paths import NAME_MAX, PATH_MAX, printable

_SHOWN = 5
_OTHERS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


class Source(NamedTuple):
    """One name below the source directory; `relative` is empty for the directory itself."""

    relative: bytes
    kind: Kind
    stat: os.stat_result
    target: bytes = b""


def walk(root: bytes) -> list[Source]:
    """Everything in `root`, sorted by path, the directory itself first.

    Raises:
        Misconfigured: `root` is no directory, or holds a socket, FIFO or device.
        NotFound, StorageFailed: it does not exist, or something in it cannot be read.
    """
    try:
        top = os.stat(root)
    except OSError as error:
        raise disk_error(error, "read", root) from error
    if not stat.S_ISDIR(top.st_mode):
        raise Misconfigured(f"{printable(root)} is not a directory, expected SOURCE_DIR")
    found = [Source(b"", Kind.DIRECTORY, top)]
    refused: list[str] = []
    pending = [b""]
    while pending:
        relative = pending.pop()
        for source in _scan(root, relative, refused):
            found.append(source)
            if source.kind is Kind.DIRECTORY:
                pending.append(source.relative)
    if refused:
        more = len(refused) - _SHOWN
        shown = ", ".join(refused[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        raise Misconfigured(
            f"cannot protect {shown}", hint="move it out of SOURCE_DIR: only files are protected"
        )
    found.sort()
    return found


def _scan(root: bytes, relative: bytes, refused: list[str]) -> list[Source]:
    path = os.path.join(root, relative) if relative else root
    found: list[Source] = []
    try:
        with os.scandir(path) as entries:
            for entry in entries:
                name = relative + b"/" + entry.name if relative else entry.name
                try:
                    found.append(_source(root, name, entry))
                except _OtherKind as error:
                    refused.append(f"{printable(name)} ({error})")
    except (NotFound, StorageFailed):
        raise
    except OSError as error:
        raise disk_error(error, "read", path) from error
    return found


def _source(root: bytes, name: bytes, entry: os.DirEntry[bytes]) -> Source:
    if len(name) >= PATH_MAX or len(entry.name) > NAME_MAX:
        raise FormatError(f"the path {printable(name[:80])}… is longer than the kernel allows")
    try:
        status = entry.stat(follow_symlinks=False)
        if stat.S_ISLNK(status.st_mode):
            return Source(name, Kind.LINK, status, os.readlink(os.path.join(root, name)))
    except OSError as error:
        raise disk_error(error, "read", os.path.join(root, name)) from error
    if stat.S_ISREG(status.st_mode):
        return Source(name, Kind.FILE, status)
    if stat.S_ISDIR(status.st_mode):
        return Source(name, Kind.DIRECTORY, status)
    raise _OtherKind(_OTHERS.get(stat.S_IFMT(status.st_mode), "of an unknown type"))


class _OtherKind(Exception):
    """Carries what it is to the list of refusals; never leaves this module."""
