"""What is in a directory: getdents and getdents64.

In a region the names come from the fspf and the injected files, and from nowhere else: a module
that somebody deleted from the disk must not make Python look for it elsewhere, and one that was
added must not be found. In an unprotected directory injected files, and what leads to regions, are
merged into what the disk has.

The position is the open file description's own, so that dup, fork, rewinddir, seekdir and telldir
work as ever: it is read from `fdinfo`, and moved on by having the thread itself make an `lseek`
(`linux.ptrace`). Where a thread cannot be traced the descriptor is replaced by one that stands at
the new position; only a duplicate of it then does not follow.

In a region a position counts names, which never change. Elsewhere it is computed from the name it
stands behind, so that it keeps its meaning while other names come and go.
"""

from __future__ import annotations

import bisect
import contextlib
import ctypes
import errno
import os
import stat
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

from crannog.errors import Unavailable
from crannog.linux import ptrace
from crannog.linux.notify import Gone
from crannog.runtime.supervisor.dents import (
    DirectoryRecord,
    fill,
    number_of,
    parse64,
    position_of,
)
from crannog.runtime.supervisor.namespace import Place
from crannog.runtime.supervisor.resolve import Found, Where
from crannog.shield.model import Kind
from crannog.shield.paths import join

if TYPE_CHECKING:
    from crannog.runtime.supervisor.call import Call
    from crannog.runtime.supervisor.loop import Supervisor

_SEEK_SET: Final = 0
_MAX_ROOM: Final = 1 << 20
_READ_BLOCK: Final = 1 << 17
_SNAPSHOTS: Final = 16
_MAX_NATIVE: Final = 1 << 16
_EXACT: Final = 256
"""Directories with up to so many names have the inode numbers that stat gives (it has to make each
file's memfd for that); larger ones, and those of a base fspf, have numbers of their own."""

_DT: Final = {Kind.FILE: 8, Kind.DIRECTORY: 4, Kind.LINK: 10}
_CLOEXEC_BIT: Final = os.O_CLOEXEC
_O_PATH: Final = 0o10000000

StatusOf = Callable[["Supervisor", Found], os.stat_result]

_libc = ctypes.CDLL(None, use_errno=True)


class _Snapshot(NamedTuple):
    """A merged directory as it was when somebody began to read it."""

    positions: list[int]
    records: list[DirectoryRecord]


class Listing:
    """Serves getdents and getdents64, for the loop's thread.

    Args:
        supervisor: whose program's directories these are.
        status_of: what stat says of something virtual.
    """

    def __init__(self, supervisor: Supervisor, status_of: StatusOf) -> None:
        self._supervisor = supervisor
        self._status_of = status_of
        self._regions: OrderedDict[bytes, list[DirectoryRecord]] = OrderedDict()
        self._native: set[tuple[int, int]] = set()
        self._snapshots: OrderedDict[tuple[int, int], _Snapshot] = OrderedDict()

    def handle(self, call: Call) -> None:
        """Answer a getdents or getdents64: (descriptor, buffer, size of the buffer)."""
        supervisor = self._supervisor
        descriptor, buffer, room = call.arguments[:3]
        descriptor &= 0xFFFFFFFF
        identity = supervisor.identity(call, descriptor)
        if identity in self._native:
            call.proceed()
            return
        directory = call.task.directory
        path = supervisor.directories.path_of(*identity)
        virtual = path is not None
        if path is None:
            path = _path_on_disk(directory, descriptor, identity)
            if path is None:
                call.proceed()
                return
            # Never to be had from us; by whatever way it came, the disk's names do not count.
            virtual = supervisor.namespace.place(path) is Place.PROTECTED
            if not virtual and not supervisor.namespace.added_names(path):
                if len(self._native) >= _MAX_NATIVE:
                    self._native.clear()
                # The program cannot move what leads to a region. If somebody else does, and this
                # directory comes to lie there, its listing lacks names, and nothing else.
                self._native.add(identity)
                call.proceed()
                return
        position, cloexec = _position(directory, descriptor)
        records: Iterable[DirectoryRecord]
        if virtual:
            records = self._in_region(path, identity[1], position)
        else:
            records = self._merged(call, path, identity, descriptor, position)
        filled = fill(records, min(room & 0xFFFFFFFF, _MAX_ROOM), old=call.name == "getdents")
        if filled is None:
            raise OSError(errno.EINVAL, "buffer too small")
        data, after = filled
        if not data:
            call.value(0)
            return
        call.write(buffer, data)
        call.later(lambda: _answer(call, descriptor, after, len(data), cloexec=cloexec))

    def _in_region(self, path: bytes, own: int, position: int) -> Iterator[DirectoryRecord]:
        names = self._regions.get(path)
        if names is None:
            names = self._names(path)
            self._regions[path] = names
            if len(self._regions) > _SNAPSHOTS:
                self._regions.popitem(last=False)
        # Where a Python looks for its modules a listing is not to make a file of each.
        exact = len(names) <= _EXACT and not self._supervisor.namespace.is_base(path)
        if position < 1:
            yield DirectoryRecord(own, 1, 4, b".")
        if position < 2:
            yield DirectoryRecord(self._number_above(path), 2, 4, b"..")
        if not exact:
            yield from islice(names, max(0, position - 2), None)
            return
        for record in names[max(0, position - 2) :]:
            inode = self._number(join(path, record.name), exact=True)
            yield record._replace(inode=inode)

    def _names(self, path: bytes) -> list[DirectoryRecord]:
        return [
            DirectoryRecord(number_of(join(path, name)), index + 3, _DT[kind], name)
            for index, (name, kind) in enumerate(
                sorted(self._supervisor.namespace.names(path).items())
            )
        ]

    def _number(self, path: bytes, *, exact: bool) -> int:
        if exact:
            with contextlib.suppress(OSError):
                return self._status_of(self._supervisor, self._found(path)).st_ino
        return number_of(path)

    def _number_above(self, path: bytes) -> int:
        return self._number(self._supervisor.namespace.parent(path), exact=True)

    def _found(self, path: bytes) -> Found:
        """What lies at a canonical path, links not followed."""
        namespace = self._supervisor.namespace
        place = namespace.place(path)
        if place is Place.INJECTED:
            return Found(Where.INJECTED, path)
        covered = place is Place.PROTECTED or (namespace.leads(path) and not os.path.isdir(path))
        entry = namespace.entry(path) if covered else None
        if entry is None:
            return Found(Where.DISK, path, through=False)
        where = {Kind.FILE: Where.FILE, Kind.DIRECTORY: Where.DIRECTORY, Kind.LINK: Where.LINK}
        return Found(where[entry.kind], path, entry)

    def _merged(
        self, call: Call, path: bytes, identity: tuple[int, int], descriptor: int, position: int
    ) -> Sequence[DirectoryRecord]:
        snapshot = self._snapshots.get(identity) if position else None
        if snapshot is None:
            snapshot = self._snapshot(path, call.task.directory, descriptor)
            self._snapshots[identity] = snapshot
            if len(self._snapshots) > _SNAPSHOTS:
                self._snapshots.popitem(last=False)
        first = bisect.bisect_right(snapshot.positions, position) if position else 0
        # More does not fit: a record has at least 24 bytes.
        return snapshot.records[first : first + _MAX_ROOM // 24]

    def _snapshot(self, path: bytes, directory: int, descriptor: int) -> _Snapshot:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        opened = os.open(f"fd/{descriptor}", flags, dir_fd=directory)
        try:
            native = _read_all(opened)
        finally:
            os.close(opened)
        present = {name: (inode, kind) for inode, kind, name in native}
        for name, kind in self._supervisor.namespace.added_names(path).items():
            child = join(path, name)
            found = self._found(child)
            if found.where is Where.DISK and name in present and kind is Kind.DIRECTORY:
                continue  # leads somewhere, and is the disk's own
            present[name] = (self._number(child, exact=True), _DT[kind])
        records: list[DirectoryRecord] = []
        positions: list[int] = []
        for wanted, name in sorted((_merged_position(name), name) for name in present):
            behind = max(wanted, positions[-1] + 1) if positions else wanted
            inode, entry_type = present[name]
            records.append(DirectoryRecord(inode, behind, entry_type, name))
            positions.append(behind)
        return _Snapshot(positions, records)


def _merged_position(name: bytes) -> int:
    if name == b".":
        return 1
    return 2 if name == b".." else position_of(name)


def _path_on_disk(directory: int, descriptor: int, identity: tuple[int, int]) -> bytes | None:
    """The path of an open directory; None for what is no directory, or has no path any more."""
    try:
        path = os.fsencode(os.readlink(f"fd/{descriptor}", dir_fd=directory))
        found = os.lstat(path)
    except OSError:
        return None
    if not stat.S_ISDIR(found.st_mode) or (found.st_dev, found.st_ino) != identity:
        return None
    return path


def _position(directory: int, descriptor: int) -> tuple[int, bool]:
    """The descriptor's position, and whether it is closed on exec; OSError(EBADF)."""
    try:
        opened = os.open(f"fdinfo/{descriptor}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory)
    except OSError as error:
        raise OSError(errno.EBADF, "bad descriptor") from error
    try:
        fields = dict(
            line.split(b":", 1) for line in os.read(opened, 4096).split(b"\n") if b":" in line
        )
        flags = int(fields[b"flags"], 8)
        position = int(fields[b"pos"])
    except (KeyError, ValueError) as error:
        raise OSError(errno.EIO, "fdinfo is not as proc(5) describes it") from error
    finally:
        os.close(opened)
    if flags & _O_PATH:
        # Opened without the right to read it: we could, the caller may not.
        raise OSError(errno.EBADF, "bad descriptor")
    return position, bool(flags & _CLOEXEC_BIT)


def _read_all(descriptor: int) -> list[tuple[int, int, bytes]]:
    """All records of an open directory of ours, from where it stands."""
    buffer = ctypes.create_string_buffer(_READ_BLOCK)
    found: list[tuple[int, int, bytes]] = []
    while True:
        size = _libc.getdents64(descriptor, buffer, ctypes.c_size_t(len(buffer)))
        if size < 0:
            raise OSError(ctypes.get_errno(), "getdents64")
        if size == 0:
            return found
        found += parse64(buffer.raw[:size])


def _answer(call: Call, descriptor: int, position: int, size: int, *, cloexec: bool) -> None:
    """Move the position on and return `size`."""
    layout = ptrace.native_layout()
    try:
        seized = ptrace.Seized(call.tid, layout)
    except Unavailable:
        _replace(call, descriptor, position, cloexec=cloexec)
        call.value(size)
        return
    except ProcessLookupError as error:
        raise Gone from error
    with seized:
        call.fail(errno.ENOSYS)  # not seen by the program: its registers are changed
        try:
            registers = seized.wait()
            moved, _ = seized.run_call(registers, layout.lseek, (descriptor, position, _SEEK_SET))
            seized.finish_with(registers, size if moved == position else -errno.EIO)
        except ProcessLookupError as error:
            raise Gone from error


def _replace(call: Call, descriptor: int, position: int, *, cloexec: bool) -> None:
    """Put a descriptor of the same directory that stands at `position` in the old one's place."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    opened = os.open(f"fd/{descriptor}", flags, dir_fd=call.supervisor.fresh(call).directory)
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(errno.ENOTDIR, "not a directory")
        os.lseek(opened, position, _SEEK_SET)
        call.place(opened, descriptor, cloexec=cloexec)
    finally:
        os.close(opened)
