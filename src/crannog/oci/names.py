"""Names inside archives: one form for each, and none that leads elsewhere.

Decides about text only. In this package a path is relative to the image's root, without a slash at
either end, and empty for the root itself.
"""

from __future__ import annotations

from crannog.errors import FormatError, TooLarge
from crannog.shield.paths import NAME_MAX, PATH_MAX, printable

DEPTH_MAX = 200  # components; what walks a tree may recurse


def normal_name(name: bytes, what: str) -> bytes:
    """`name` without leading `./`, doubled slashes and a slash at the end; `what` is the archive.

    Raises:
        FormatError: absolute, or with `..` or NUL.
        TooLarge: longer or deeper than a kernel would take.
    """
    if name.startswith(b"/"):
        raise FormatError(f"{what}: the name {printable(name)} is absolute")
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise FormatError(f"{what}: the name {printable(name)} leads out by '..'")
    if b"\0" in name:
        raise FormatError(f"{what}: the name {printable(name)} holds a NUL byte")
    result = b"/".join(parts)
    if len(result) > PATH_MAX or len(parts) > DEPTH_MAX or any(len(p) > NAME_MAX for p in parts):
        raise TooLarge(
            f"{what}: the name {printable(name[:80])}… is longer than a kernel would take"
        )
    return result


def is_below(path: bytes, root: bytes) -> bool:
    """Whether `path` is `root` or lies below it, by whole components."""
    return not root or path == root or path.startswith(root + b"/")


def parent(path: bytes) -> bytes:
    """The directory that `path` lies in; the root for the root."""
    return path.rpartition(b"/")[0]


def join(directory: bytes, name: bytes) -> bytes:
    """`name` in `directory`."""
    return directory + b"/" + name if directory else name


def absolute(path: bytes) -> str:
    """For a person: with the slash that programs see."""
    return "/" + printable(path)
