"""Writing a tree whose bytes and modes depend on nothing but what was asked for.

Decides modes and times; umask and user have no part in them.
"""

from __future__ import annotations

import os
from pathlib import Path

EPOCH = 946_684_800  # 2000-01-01: some tools take 0 for "unknown"
DIRECTORY = 0o755
PLAIN = 0o644
PROGRAM = 0o755


def put(path: Path, data: bytes, mode: int = PLAIN) -> None:
    """Write a new file with this mode, making the directories above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        file.write(data)
    path.chmod(mode)


def link(path: Path, target: str) -> None:
    """A symbolic link."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)


def settle(tree: Path) -> None:
    """Give every directory its mode, and everything the same times. Last: writing changes them."""
    for directory, names, files in os.walk(tree, topdown=False):
        for name in (*names, *files):
            path = os.path.join(directory, name)
            if not os.path.islink(path) and os.path.isdir(path):
                os.chmod(path, DIRECTORY)
            os.utime(path, (EPOCH, EPOCH), follow_symlinks=False)
    tree.chmod(DIRECTORY)
    os.utime(tree, (EPOCH, EPOCH))


def size(tree: Path) -> int:
    """Bytes of all regular files below, each counted once."""
    total = 0
    for directory, _, files in os.walk(tree):
        for name in files:
            status = os.lstat(os.path.join(directory, name))
            total += status.st_size
    return total
