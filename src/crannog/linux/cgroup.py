"""The limits that control groups set for this process: where their files are. Pure but for `read`.

Decides nothing about a limit: what a text means, and which of several holds, is the caller's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TypeAlias

Read: TypeAlias = Callable[[str], bytes]
"""The content of a file, empty where it cannot be read."""

_MOUNT = "/sys/fs/cgroup"


def read_if_there(path: str) -> bytes:
    """The content of a file, empty where it cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return file.read()
    return b""


def unified_groups(read: Read = read_if_there) -> Iterator[str]:
    """The directories of our groups in the unified hierarchy, the innermost first, to its root."""
    for path in _own(read, lambda controllers: not controllers):
        yield from _upwards(_MOUNT, path)


def older_groups(controller: str, read: Read = read_if_there) -> Iterator[str]:
    """The directories of our groups in a version 1 hierarchy, the innermost first, to its root."""
    name = os.fsencode(controller)
    for path in _own(read, lambda controllers: name in controllers.split(b",")):
        yield from _upwards(f"{_MOUNT}/{controller}", path)


def _own(read: Read, wanted: Callable[[bytes], bool]) -> Iterator[str]:
    for line in read("/proc/self/cgroup").split(b"\n"):
        _, separator, rest = line.partition(b":")
        controllers, _, path = rest.partition(b":")
        if separator and wanted(controllers):
            yield os.fsdecode(path).rstrip("/")


def _upwards(top: str, path: str) -> Iterator[str]:
    while True:
        yield top + path
        if not path:
            return
        path = path.rpartition("/")[0]
