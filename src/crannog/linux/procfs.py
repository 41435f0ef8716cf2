"""What `/proc/TID` says about a thread: who it is, where it stands.

Parsing is pure; `Tasks` keeps descriptors of `/proc/TID` directories. Such a descriptor stays with
the thread that it was opened for: once that thread is gone nothing can be looked up through it,
even if another has been given the same number. So what is remembered about a thread is never taken
for another's.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import NamedTuple

from crannog.errors import FormatError

CAP_DAC_OVERRIDE = 1 << 1
CAP_DAC_READ_SEARCH = 1 << 2
CAP_FOWNER = 1 << 3

_PROC_SUPER_MAGIC = 0x9FA0


class Credentials(NamedTuple):
    """What decides on access to files.

    Attributes:
        uid: the file system user id.
        gid: the file system group id.
        groups: supplementary groups, sorted.
        capabilities: the effective set, a bit each.
    """

    uid: int
    gid: int
    groups: tuple[int, ...]
    capabilities: int


class Status(NamedTuple):
    """The lines of `/proc/TID/status` that the supervisor uses.

    Attributes:
        process: the id of its process.
        umask: as the thread has it.
        credentials: what decides on access.
        real: what access(2) asks about: the real ids, with capabilities only for root.
    """

    process: int
    umask: int
    credentials: Credentials
    real: Credentials


def parse_status(data: bytes) -> Status:
    """Read the text of `/proc/TID/status`.

    Raises:
        FormatError: a line that is needed is missing or is not as proc(5) says.
    """
    fields: dict[bytes, bytes] = {}
    for line in data.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            fields.setdefault(name, value)
    try:
        uids = [int(number) for number in fields[b"Uid"].split()]
        gids = [int(number) for number in fields[b"Gid"].split()]
        groups = tuple(sorted({int(group) for group in fields[b"Groups"].split()}))
        return Status(
            process=int(fields[b"Tgid"]),
            umask=int(fields[b"Umask"], 8),
            credentials=Credentials(uids[3], gids[3], groups, int(fields[b"CapEff"], 16)),
            real=Credentials(
                uids[0], gids[0], groups, int(fields[b"CapPrm"], 16) if uids[0] == 0 else 0
            ),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise FormatError("status of a process is not as proc(5) describes it") from error


def on_procfs(descriptor: int) -> bool:
    """Whether an open file lies on a proc file system, wherever that is mounted; OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    # struct statfs has 120 bytes on the machines of `syscalls`; the type comes first.
    found = ctypes.create_string_buffer(256)
    if libc.fstatfs(descriptor, found) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int.from_bytes(found.raw[:8], "little") == _PROC_SUPER_MAGIC


class Task:
    """A thread that has asked something.

    Attributes:
        tid: its number, as the supervisor sees it.
        directory: a descriptor of its `/proc/TID`, closed with this object.
        known: its status when it was last read, None where the identity may have changed since.
    """

    __slots__ = ("_process", "directory", "known", "tid")

    def __init__(self, tid: int, directory: int) -> None:
        self.tid = tid
        self.directory = directory
        self.known: Status | None = None
        self._process = 0

    def __del__(self) -> None:
        os.close(self.directory)

    def status(self) -> Status:
        """Its status as of now; OSError where it has ended."""
        descriptor = os.open("status", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self.directory)
        try:
            found = parse_status(os.read(descriptor, 65536))
        except FormatError as error:
            # A thread that is ending loses its lines before it loses its number.
            raise ProcessLookupError(errno.ESRCH, "thread is ending") from error
        finally:
            os.close(descriptor)
        self.known = found
        self._process = found.process
        return found

    @property
    def process(self) -> int:
        """The id of its process; a thread never changes it."""
        if not self._process:
            self.status()
        return self._process


class Tasks:
    """The threads that asked lately, at most `limit`. Safe to use from several threads."""

    __slots__ = ("_limit", "_tasks")

    def __init__(self, limit: int = 256) -> None:
        self._limit = limit
        self._tasks: dict[int, Task] = {}

    def find(self, tid: int) -> Task:
        """The thread of that number, as remembered; it may have ended meanwhile."""
        task = self._tasks.get(tid)
        return task if task is not None else self.renew(tid)

    def renew(self, tid: int) -> Task:
        """The thread of that number, looked up anew; OSError where there is none.

        An entry that falls out is left to whoever still uses it: its descriptor is closed with
        the last reference.
        """
        self._tasks.pop(tid, None)
        if len(self._tasks) >= self._limit:
            for oldest in tuple(self._tasks)[: self._limit // 4]:
                self._tasks.pop(oldest, None)
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        task = Task(tid, os.open(f"/proc/{tid}", flags))
        self._tasks[tid] = task
        return task
