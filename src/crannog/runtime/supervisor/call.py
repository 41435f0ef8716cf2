"""One notified system call: what a handler reads from, writes to and answers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from crannog.errors import Unsupported
from crannog.linux import memory
from crannog.linux.procfs import Task

if TYPE_CHECKING:
    from crannog.runtime.supervisor.loop import Supervisor


class Call:
    """A call that a thread of the program waits in.

    A handler answers by exactly one of `proceed`, `value`, `fail` and `inject`, or raises. All
    methods raise `notify.Gone` when the thread does not wait any more, which is no error.

    Attributes:
        supervisor: who serves it.
        id: the notification's.
        tid: the thread, as the supervisor sees it.
        number: of the system call.
        name: of the system call.
        pointer: the instruction after the call.
        arguments: six, as 64-bit numbers.
    """

    __slots__ = ("arguments", "id", "name", "number", "pointer", "supervisor", "tid")

    def __init__(
        self,
        supervisor: Supervisor,
        notification: int,
        tid: int,
        number: int,
        name: str,
        pointer: int,
        arguments: tuple[int, ...],
    ) -> None:
        self.supervisor = supervisor
        self.id = notification
        self.tid = tid
        self.number = number
        self.name = name
        self.pointer = pointer
        self.arguments = arguments

    @property
    def task(self) -> Task:
        """The thread; only true of it once the notification has been checked."""
        return self.supervisor.tasks.find(self.tid)

    def string(self, address: int) -> bytes:
        """The path at `address`; the notification is checked after reading, before it is used.

        Raises:
            OSError: EFAULT, ENAMETOOLONG.
            Unsupported: the process's memory is not readable for us.
        """
        found = self._from_memory(memory.read_string, address)
        self.supervisor.listener.check(self.id)
        return found

    def read(self, address: int, length: int) -> bytes:
        """`length` bytes at `address`, checked likewise."""
        found = self._from_memory(
            lambda directory, start: memory.read_bytes(directory, start, length), address
        )
        self.supervisor.listener.check(self.id)
        return found

    def write(self, address: int, data: bytes) -> None:
        """Write into the caller's memory; the notification is checked with the memory open."""

        def put(directory: int, start: int) -> bytes:
            memory.write_bytes(
                directory, start, data, lambda: self.supervisor.listener.check(self.id)
            )
            return b""

        self._from_memory(put, address)

    def _from_memory(self, use: Callable[[int, int], bytes], address: int) -> bytes:
        tasks = self.supervisor.tasks
        try:
            try:
                return use(tasks.find(self.tid).directory, address)
            except (FileNotFoundError, ProcessLookupError):
                # Remembered from a thread that had this number before.
                return use(tasks.renew(self.tid).directory, address)
        except PermissionError as error:
            raise self._unreadable() from error
        except (FileNotFoundError, ProcessLookupError):
            self.supervisor.listener.check(self.id)
            raise

    def _unreadable(self) -> Unsupported:
        self.supervisor.listener.check(self.id)
        try:
            with open(f"/proc/{self.tid}/comm", encoding="utf-8", errors="replace") as file:
                name = file.read().strip()
        except OSError:
            name = "?"
        return Unsupported(
            f"file shield: the memory of process {self.tid} ({name}) cannot be read,"
            " so its calls cannot be served",
            hint="a program that changes its user or makes itself non-dumpable needs a container"
            " that runs as that user from the start (runAsUser), or CAP_SYS_PTRACE;"
            " kernel.yama.ptrace_scope has to be below 2; crannog cannot run inside crannog",
        )

    def proceed(self) -> None:
        """Let the kernel run the call as it stands."""
        self.supervisor.listener.proceed(self.id)

    def value(self, result: int) -> None:
        """Answer with a result."""
        self.supervisor.listener.value(self.id, result)

    def fail(self, number: int) -> None:
        """Answer with an errno."""
        self.supervisor.listener.fail(self.id, number)

    def inject(self, descriptor: int, *, cloexec: bool) -> None:
        """Answer with a new descriptor of the caller for what our `descriptor` is open on.

        Ours is closed, before the answer: that is to be the last thing done before waiting again.
        """
        listener = self.supervisor.listener
        try:
            theirs = listener.add(self.id, descriptor, os.O_CLOEXEC if cloexec else 0)
        except OSError as error:
            self.fail(error.errno or errno.EIO)
            return
        finally:
            os.close(descriptor)
        listener.value(self.id, theirs)
        self.supervisor.bursts.injected()

    def place(self, descriptor: int, at: int, *, cloexec: bool) -> None:
        """Replace the caller's descriptor `at`; does not answer."""
        self.supervisor.listener.place(self.id, descriptor, at, os.O_CLOEXEC if cloexec else 0)

    def later(self, work: Callable[[], None]) -> None:
        """Have a worker thread answer, where that takes time; the handler returns at once."""
        self.supervisor.later(self, work)
