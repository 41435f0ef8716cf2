"""Programs that we make: starters for scripts, and copies that name their loader as a descriptor.

Decides only that they are there, sealed, and called what they were made for. The bytes are those of
`programs`.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections import OrderedDict
from typing import Final

from crannog.runtime.supervisor import programs
from crannog.runtime.supervisor.contents import new_memory_file

_MAX_KEPT: Final = 64
_MAX_NAMES: Final = 4096
_COPY_BLOCK: Final = 1 << 20
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL

Identity = tuple[int, int]


class MadePrograms:
    """What was made lately, by what it was made from. For one thread at a time, but `name_of`."""

    __slots__ = ("_made", "_names")

    def __init__(self) -> None:
        self._made: OrderedDict[object, int] = OrderedDict()
        self._names: OrderedDict[Identity, bytes] = OrderedDict()

    def name_of(self, identity: Identity) -> bytes | None:
        """The virtual path that a program was made for; None where it is none of ours.

        A name outlives the file's being kept, since a process may still run it.
        """
        return self._names.get(identity)

    def starter(self, path: bytes, words: tuple[bytes, ...]) -> int:
        """A program that executes `path` with `words` first; the last of them is the script.

        Returns:
            A descriptor that stays ours.
        """
        key = (path, words)
        if key not in self._made:
            descriptor = new_memory_file(words[-1])
            _write_all(descriptor, programs.starter(path, words, os.uname().machine), 0)
            self._keep(key, descriptor, 0o555, words[-1])
        return self._made[key]

    def patched(
        self,
        path: bytes,
        source: int,
        headers: bytes,
        named: programs.Loader,
        loader: int,
        *,
        changeable: bool,
    ) -> int:
        """A copy of a program that names a descriptor as its loader.

        Args:
            path: what the program is called.
            source: a descriptor of ours that it is read from.
            headers: its first bytes, as far as its program headers go.
            named: its loader, as it names it.
            loader: the loader's number in the process that will execute the copy.
            changeable: whether its content may change while its identity stays.

        Returns:
            A descriptor that stays ours.
        """
        status = os.fstat(source)
        times = (status.st_mtime_ns, status.st_ctime_ns, status.st_size)
        key: object = (status.st_dev, status.st_ino, times, loader)
        if changeable:
            key = object()
        if key not in self._made:
            descriptor = new_memory_file(path)
            size = _copy(source, descriptor)
            name = b"/proc/thread-self/fd/%d" % loader
            for offset, data in programs.loader_patch(headers, named, size, name):
                _write_all(descriptor, data, offset)
            self._keep(key, descriptor, stat.S_IMODE(status.st_mode) & 0o777 | 0o555, path)
        return self._made[key]

    def _keep(self, key: object, descriptor: int, mode: int, name: bytes) -> None:
        os.fchmod(descriptor, mode)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        # Open for writing it could not be executed.
        readable = os.open(f"/proc/self/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
        os.close(descriptor)
        status = os.fstat(readable)
        self._made[key] = readable
        self._names[status.st_dev, status.st_ino] = name
        if len(self._made) > _MAX_KEPT:
            _, oldest = self._made.popitem(last=False)
            os.close(oldest)
        if len(self._names) > _MAX_NAMES:
            self._names.popitem(last=False)


def _copy(source: int, target: int) -> int:
    """Copy a file whole; returns its size in bytes."""
    offset = 0
    while data := os.pread(source, _COPY_BLOCK, offset):
        _write_all(target, data, offset)
        offset += len(data)
    return offset


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
