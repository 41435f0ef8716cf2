"""Which native code may be loaded: SCONE_ALLOW_DLOPEN below 2.

A program's measurement names the files whose code it runs. Anything else that is mapped as code, or
executed, would run unmeasured with the program's secrets. So below 2 a native file has to be one
that was measured, still in the state in which it was: device, inode, size, and the times of the
last change of content and of inode. Files of regions are verified; level 1 takes any of them, level
0 only where the process itself runs a file of a region, whose libraries they are, or where the
measurement names the path.

What is asked, by the filter: every mapping of a file that is executable or private. Why private: a
loader maps an object's data first, and relocations and constructors of an object without any code
can still run code of others. A private mapping of a file that is no ELF object passes, so does
reading one, or mapping it shared: `cp`, `sha256sum` and `grep` of a library work.

What is not stopped, since the measured program itself would have to want it: code written into
anonymous memory or a memfd (that is what a JIT compiler does), and `mprotect` of a shared mapping.
Another thread that replaces the descriptor between our answer and the kernel's mapping is likewise
the program's own. docs/adr/0703 has the reasons.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from crannog.runtime.supervisor import programs
from crannog.shield.paths import printable

if TYPE_CHECKING:
    from crannog.measure.program import MeasuredFile
    from crannog.runtime.supervisor.call import Call

PROT_EXEC: Final = 4
_ANYTHING: Final = 2
_REGIONS: Final = 1
_EACCES: Final = 13


class Loading:
    """Serves mmap, and says which native programs may be executed.

    Args:
        level: SCONE_ALLOW_DLOPEN.
        measured: the native files of the measurement.
        name_of: the virtual path of the in-memory file of that identity, None for any other.
        say: takes a line for the user.
    """

    def __init__(
        self,
        level: int,
        measured: Iterable[MeasuredFile],
        name_of: Callable[[int, int], bytes | None],
        say: Callable[[str], None],
    ) -> None:
        self._level = level
        files = tuple(measured)
        self._measured = frozenset(file.identity[:5] for file in files)
        # A region may lie over the program's own libraries; then they are loaded from there.
        self._measured_paths = frozenset(os.fsencode(file.path) for file in files)
        self._name_of = name_of
        self._say = say
        self._said: set[str] = set()
        self._memory_device = _memory_device()

    @property
    def enforced(self) -> bool:
        """Whether there is anything to refuse, and so to ask for."""
        return self._level < _ANYTHING

    def is_measured(self, status: os.stat_result) -> bool:
        """Whether a native file is a measured one, in the state in which it was measured."""
        return _state(status) in self._measured

    def may_run(self, path: bytes, status: os.stat_result) -> bool:
        """Whether a native ELF file may be executed, or be a program's loader."""
        if not self.enforced or _state(status) in self._measured:
            return True
        self._refuse(path, "is executed")
        return False

    def handle(self, call: Call) -> None:
        """Answer an mmap of a file that is executable or private."""
        number = call.arguments[4] & 0xFFFFFFFF
        directory = call.supervisor.fresh(call).directory
        name = f"fd/{number}"
        try:
            status = os.stat(name, dir_fd=directory)
        except OSError:
            call.proceed()  # no such descriptor: the kernel says EBADF
            return
        call.supervisor.listener.check(call.id)
        executable = bool(call.arguments[2] & PROT_EXEC)
        if self._may_map(name, directory, status, executable):
            call.proceed()
            return
        self._refuse(_name(name, directory), "is loaded")
        call.fail(_EACCES)

    def _may_map(self, name: str, directory: int, status: os.stat_result, executable: bool) -> bool:
        if not stat.S_ISREG(status.st_mode):
            return not stat.S_ISBLK(status.st_mode)  # a disk holds what somebody put there
        if _state(status) in self._measured:
            return True
        if self._is_virtual(status):
            return (
                self._level >= _REGIONS
                or self._name_of(status.st_dev, status.st_ino) in self._measured_paths
                or self._runs_region(directory)
            )
        if executable and status.st_dev != self._memory_device:
            return False
        return not _holds_elf(name, directory)

    def _is_virtual(self, status: os.stat_result) -> bool:
        return self._name_of(status.st_dev, status.st_ino) is not None

    def _runs_region(self, directory: int) -> bool:
        """Whether the process's own executable is a verified file."""
        try:
            return self._is_virtual(os.stat("exe", dir_fd=directory))
        except OSError:
            return False

    def _refuse(self, path: bytes, what: str) -> None:
        line = (
            f"{printable(path)} {what} but is not among the measured files as they were measured:"
            f" refused, SCONE_ALLOW_DLOPEN is {self._level}"
            " (hint: 1 allows files of protected regions, 2 allows any file)"
        )
        if line not in self._said and len(self._said) < 256:
            self._said.add(line)
            self._say(line)


def _state(status: os.stat_result) -> tuple[int, int, int, int, int]:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _holds_elf(name: str, directory: int) -> bool:
    """Whether the open file is an ELF object; one that we cannot read is taken for one."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=directory)
    except OSError:
        return True
    try:
        return programs.is_elf(os.pread(descriptor, 4, 0))
    except OSError:
        return True
    finally:
        os.close(descriptor)


def _name(name: str, directory: int) -> bytes:
    try:
        return os.fsencode(os.readlink(name, dir_fd=directory))
    except OSError:
        return b"a file"


def _memory_device() -> int:
    """The device number that all memfds and anonymous shared memory have."""
    descriptor = os.memfd_create("probe", os.MFD_CLOEXEC)
    try:
        return os.fstat(descriptor).st_dev
    finally:
        os.close(descriptor)
