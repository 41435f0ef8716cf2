"""Canonical paths, as bytes.

A canonical path is absolute, has no empty, `.` or `..` component, no trailing slash and no NUL, and
fits the kernel's limits. Decides only about the text of a path: nothing here looks at a disk, so
no link is followed.
"""

from __future__ import annotations

import re

from crannog.errors import FormatError

PATH_MAX = 4095  # bytes, the kernel's PATH_MAX without the final NUL
NAME_MAX = 255  # bytes

_UNSAFE = rb"[\x00-\x1f\x7f\\]"


def canonical(path: bytes, what: str) -> bytes:
    """`path` without doubled and trailing slashes and `.`; `what` names it in the error.

    Raises:
        FormatError: not absolute, holds `..` or NUL, or is longer than the kernel allows. `..` is
            refused and not resolved, since on disk it may lead through a link.
    """
    if not path.startswith(b"/"):
        raise FormatError(f"{what} is {printable(path)}, expected an absolute path")
    parts = [part for part in path.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise FormatError(f"{what} is {printable(path)}, expected a path without '..'")
    result = b"/" + b"/".join(parts)
    if b"\0" in result:
        raise FormatError(f"{what} holds a NUL byte")
    if len(result) > PATH_MAX:
        raise FormatError(f"{what} has {len(result)} bytes, expected at most {PATH_MAX}")
    if any(len(part) > NAME_MAX for part in parts):
        raise FormatError(f"{what} has a name of more than {NAME_MAX} bytes")
    return result


def is_below(path: bytes, root: bytes) -> bool:
    """Whether canonical `path` is `root` or lies below it, by whole components."""
    return root == b"/" or path == root or path.startswith(root + b"/")


def join(root: bytes, relative: bytes) -> bytes:
    """`relative` (no slash at either end, may be empty) below canonical `root`."""
    if not relative:
        return root
    return (b"" if root == b"/" else root) + b"/" + relative


def parent(path: bytes) -> bytes:
    """The directory of a canonical path; `/` for `/` itself."""
    return path.rpartition(b"/")[0] or b"/"


def printable(path: bytes) -> str:
    r"""`path` for a line of output: control characters, backslash and non-UTF-8 bytes as `\xNN`.

    So a file name can neither forge a line nor reach the terminal, and two names never look alike.
    """
    escaped = re.sub(_UNSAFE, lambda found: b"\\x%02x" % found.group()[0], path)
    return "".join(
        char if char.isprintable() else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in escaped.decode("utf-8", "backslashreplace")
    )
