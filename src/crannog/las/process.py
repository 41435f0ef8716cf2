"""A live process, held by a pidfd and read through one descriptor of its /proc directory.

Decides nothing about it. Whoever holds a `Process` reads the same process every time, or learns
that it has ended: its number may be another's by then, its descriptors are not.
"""

from __future__ import annotations

import os
import select
from types import TracebackType

from crannog.errors import Denied, FormatError
from crannog.las.facts import (
    Facts,
    FileId,
    LiveMount,
    ProcessStatus,
    parse_groups,
    parse_misc_devices,
    parse_mounts,
    parse_process_status,
    parse_started,
)

_LIMIT = 4 << 20
_THREADS = 256


class Process:
    """A process; a context manager.

    Args:
        pid: its id in our PID namespace.
        pidfd: a descriptor of it where the kernel gave one with the connection, which is taken
            over; otherwise one is opened by id.

    Raises:
        Denied: there is none of that id, or it cannot be looked at.
    """

    def __init__(self, pid: int, pidfd: int | None = None) -> None:
        self.pid = pid
        self._pidfd = -1 if pidfd is None else pidfd
        self._directory = -1
        try:
            if pidfd is None:
                self._pidfd = os.pidfd_open(pid)
            self._directory = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            self.close()
            raise Denied(f"process {pid} cannot be looked at: it has ended") from error
        if not self.alive():
            # Whoever /proc/PID is now: it is not the one that the pidfd is of.
            self.close()
            raise Denied(f"process {pid} has ended")

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it."""
        for descriptor in (self._pidfd, self._directory):
            if descriptor >= 0:
                os.close(descriptor)
        self._pidfd = self._directory = -1

    def alive(self) -> bool:
        """Whether it has not ended."""
        poller = select.poll()
        poller.register(self._pidfd, select.POLLIN)
        return not poller.poll(0)

    def started(self) -> int:
        """Its start time, clock ticks since boot; `Denied` where it cannot be read."""
        return parse_started(self._read("stat"))

    def groups(self) -> tuple[str, ...]:
        """The paths of its control groups; `Denied` where they cannot be read."""
        return parse_groups(self._read("cgroup"))

    def status(self) -> ProcessStatus:
        """Its status; `Denied` where it cannot be read."""
        return parse_process_status(self._read("status"))

    def facts(self) -> Facts:
        """Everything that is judged of it, as of now.

        Raises:
            Denied: a part cannot be read; says which.
        """
        try:
            found = Facts(
                pid=self.pid,
                started=self.started(),
                status=self.status(),
                owner=self._stat("stat").st_uid,
                executable=file_id(self._stat("exe")),
                groups=self.groups(),
                mounts=parse_mounts(self._read("mountinfo")),
                pid_namespace=self._stat("ns/pid").st_ino,
                user_namespace=self._stat("ns/user").st_ino,
                children=self._children(),
            )
        except FormatError as error:
            raise Denied(f"process {self.pid}: {error.message}") from error
        if not self.alive():
            raise Denied(f"process {self.pid} has ended")
        return found

    def _children(self) -> int:
        try:
            descriptor = os.open("task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._directory)
        except OSError as error:
            raise self._unreadable("task", error) from error
        try:
            threads = os.listdir(descriptor)
        except OSError as error:
            raise self._unreadable("task", error) from error
        finally:
            os.close(descriptor)
        if len(threads) > _THREADS:
            raise Denied(f"process {self.pid} has {len(threads)} threads")
        return sum(len(self._read(f"task/{thread}/children").split()) for thread in threads)

    def _read(self, name: str) -> bytes:
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=self._directory)
            with open(descriptor, "rb") as file:
                data = file.read(_LIMIT + 1)
        except OSError as error:
            raise self._unreadable(name, error) from error
        if len(data) > _LIMIT:
            raise Denied(f"/proc/{self.pid}/{name} has more than {_LIMIT} bytes")
        return data

    def _stat(self, name: str) -> os.stat_result:
        try:
            return os.stat(name, dir_fd=self._directory)
        except OSError as error:
            raise self._unreadable(name, error) from error

    def _unreadable(self, name: str, error: OSError) -> Denied:
        hint = ""
        if isinstance(error, PermissionError):
            hint = "the LAS has to be root with CAP_SYS_PTRACE"
        reason = (error.strerror or "failed").lower()
        return Denied(f"/proc/{self.pid}/{name} cannot be read: {reason}", hint=hint)


def file_id(status: os.stat_result) -> FileId:
    """Device and inode."""
    return FileId(status.st_dev, status.st_ino)


def mounts_of(pid: int | str) -> tuple[LiveMount, ...]:
    """The mount table of a process of the node, or of `self`; `Denied` where it is unreadable."""
    try:
        with open(f"/proc/{pid}/mountinfo", "rb") as file:
            return parse_mounts(file.read(_LIMIT))
    except (OSError, FormatError) as error:
        raise Denied(f"the mount table of process {pid} cannot be read") from error


def filters_of(pid: int) -> int:
    """How many seccomp filters a process of the node has; `Denied` where it cannot be read."""
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            return parse_process_status(file.read(_LIMIT)).filters
    except (OSError, FormatError) as error:
        raise Denied(f"the status of process {pid} cannot be read") from error


def misc_devices() -> tuple[tuple[int, str], ...]:
    """Minor numbers and names of the node's miscellaneous devices; none where it is unreadable."""
    try:
        with open("/proc/misc", "rb") as file:
            return parse_misc_devices(file.read(_LIMIT))
    except (OSError, FormatError):
        return ()


def own_namespace(kind: str) -> int:
    """The inode of a namespace of this process, which on a node is the node's."""
    return os.stat(f"/proc/self/ns/{kind}").st_ino
