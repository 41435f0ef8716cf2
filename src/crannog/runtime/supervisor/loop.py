"""The supervisor's loop: take a notification, hand it to its call's handler, see to the rest.

One thread takes notifications and answers what can be answered at once; worker threads do what
takes time. What each call means is decided by the handlers (`table`), looked up by number.
"""

from __future__ import annotations

import errno
import os
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from crannog.errors import Error, Unavailable
from crannog.linux.notify import NOTIFICATION, Gone, Listener
from crannog.linux.procfs import Credentials, Task, Tasks
from crannog.linux.syscalls import Machine
from crannog.runtime.supervisor import rights
from crannog.runtime.supervisor.call import Call
from crannog.runtime.supervisor.contents import Contents
from crannog.runtime.supervisor.directories import Directories
from crannog.runtime.supervisor.namespace import Namespace
from crannog.runtime.supervisor.placement import Bursts
from crannog.runtime.supervisor.resolve import (
    SETTLING_SECONDS,
    UNRESTRICTED,
    Caller,
    Found,
    RealDisk,
    Resolver,
    Restrictions,
    Where,
)
from crannog.runtime.supervisor.world import World

if TYPE_CHECKING:
    from crannog.runtime.supervisor.execute import Executables

Handler = Callable[[Call], None]

AT_FDCWD = 0xFFFFFF9C  # as an unsigned number of 32 bits
_MAX_IDENTITIES = 64
_MAX_RIGHTS = 65536
_EXECUTING = frozenset({"execve", "execveat"})
_CHANGES_IDENTITY = _EXECUTING | {
    "setuid",
    "setgid",
    "setreuid",
    "setregid",
    "setresuid",
    "setresgid",
    "setfsuid",
    "setfsgid",
    "setgroups",
    "capset",
}


class Supervisor:
    """Everything that serves one program.

    Attributes:
        machine: whose system calls these are.
        world: what the program sees over the disk.
        listener: where notifications come from; set by `serve`.
        tasks: the threads that asked lately.
        namespace, resolver, contents, directories: what paths mean and what is there.
        handlers: by name of the call; complete before `serve`.
        rights: for each set of credentials, what it was found to be allowed to do.
        own_credentials: who we are ourselves.
        executables: names of what runs from memory; None until `execute` sets it.
        rooted: whether some process has called chroot.
        starting: the process that has not executed the program yet, 0 afterwards.
        failure: why the program was stopped, None while there is no reason.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        world: World,
        namespace: Namespace,
        contents: Contents,
        directories: Directories,
        workers: int,
        own_credentials: Credentials,
        stop: Callable[[], None],
    ) -> None:
        self.machine = machine
        self.world = world
        self.namespace = namespace
        self.contents = contents
        self.directories = directories
        disk = RealDisk(directories.identities, contents.protected_path)
        self.resolver = Resolver(namespace, disk)
        self.tasks = Tasks()
        self.handlers: dict[str, Handler] = {}
        self.rights: dict[Credentials, dict[Found, int]] = {}
        self.own_credentials = own_credentials
        self.executables: Executables | None = None
        self.failure: Error | None = None
        self.rooted = False
        self.starting = 0
        self._changed_threads: set[int] = set()
        self._rights_settled = 0.0
        self._stop = stop
        self._said: set[str] = set()
        self._work: queue.SimpleQueue[tuple[Call, Callable[[], None]]] = queue.SimpleQueue()
        self._workers = workers
        self._working = 0
        self.listener = Listener(-1)
        self.bursts = Bursts(-1)

    def register(self, name: str, handler: Handler) -> None:
        """Have `handler` answer the call of that name, in place of any other."""
        self.handlers[name] = handler

    def say(self, line: str) -> None:
        """Tell the user something, once."""
        if line not in self._said:
            self._said.add(line)
            print(f"crannog: {line}", file=sys.stderr, flush=True)

    def fail(self, error: Error) -> None:
        """Stop the program, for this reason; the first one counts."""
        if self.failure is None:
            self.failure = error
        self._stop()

    def later(self, call: Call, work: Callable[[], None]) -> None:
        """Have a worker thread do it, with the handlers' rules for what is raised."""
        self._work.put((call, work))
        # Not before they have something to do: a start needs few of them, or none.
        if self._working < self._workers:
            try:
                threading.Thread(target=self._work_on, daemon=True).start()
            except RuntimeError:  # the program has taken what threads there may be
                if not self._working:
                    raise
            else:
                self._working += 1

    def serve(self, listener: Listener, program: int) -> None:
        """Begin serving: `program` is the process that has not executed anything yet."""
        self.listener = listener
        self.starting = program
        threading.Thread(target=self._loop, daemon=True).start()

    def _work_on(self) -> None:
        while True:
            call, work = self._work.get()
            self._guarded(call, lambda _call, work=work: work())  # type: ignore[misc]

    def _guarded(self, call: Call, handler: Handler) -> None:
        try:
            try:
                handler(call)
            except OSError as error:
                call.fail(error.errno or errno.EIO)
        except Gone:
            return
        except Error as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - an unanswered call would hang the program
            self.fail(
                Unavailable(
                    f"file shield: internal error in {call.name}: {type(error).__name__}",
                    hint="this is a defect of crannog; please report it",
                    internal=repr(error),
                )
            )

    def apart(self, call: Call, work: Callable[[], None]) -> None:
        """As `later`, in a thread of its own: for what may wait for others without end."""
        thread = threading.Thread(target=self._guarded, args=(call, lambda _: work()), daemon=True)
        thread.start()

    def _loop(self) -> None:
        try:
            self._take_notifications()
        except Exception as error:  # noqa: BLE001 - nobody would be answered any more
            self.fail(
                Unavailable(
                    f"file shield: the supervisor's loop ended: {type(error).__name__}",
                    hint="this is a defect of crannog; please report it",
                    internal=repr(error),
                )
            )

    def _take_notifications(self) -> None:
        listener = self.listener
        handlers: dict[int, tuple[str, Handler]] = {
            number: (name, self._with_new_identity(self.handlers[name], name))
            for name, number in self.machine.numbers.items()
            if name in self.handlers
        }
        buffer = bytearray(NOTIFICATION.size)
        receive, unpack = listener.receive, NOTIFICATION.unpack
        while True:
            if not receive(buffer):
                return
            notification, tid, _, number, _, pointer, *arguments = unpack(buffer)
            name, handler = handlers.get(number, ("?", _unknown))
            call = Call(self, notification, tid, number, name, pointer, tuple(arguments))
            if tid == self.starting:
                handler = self._start
            self._guarded(call, handler)

    def _start(self, call: Call) -> None:
        """The first program's execve: its path is what we gave the child, checked before.

        The child is a copy of the launcher until then, and as unreadable; so it is not read.
        """
        if call.name in _EXECUTING:
            self.starting = 0
            call.proceed()
        else:
            call.fail(errno.EPERM)

    # What handlers have in common.

    def fresh(self, call: Call) -> Task:
        """The calling thread itself, and not one that had its number before."""
        task = self.tasks.find(call.tid)
        try:
            os.stat("stat", dir_fd=task.directory)
        except (FileNotFoundError, ProcessLookupError):
            task = self.tasks.renew(call.tid)
        return task

    def identity(self, call: Call, descriptor: int) -> tuple[int, int]:
        """Device and inode of what the caller's descriptor is open on; OSError(EBADF)."""
        try:
            found = os.stat(f"fd/{descriptor & 0xFFFFFFFF}", dir_fd=self.fresh(call).directory)
        except OSError:
            self.listener.check(call.id)
            raise OSError(errno.EBADF, "bad descriptor") from None
        self.listener.check(call.id)
        return found.st_dev, found.st_ino

    def base(self, call: Call, descriptor: int) -> bytes:
        """The canonical path of the directory that a relative path of the caller begins at.

        Args:
            call: who asks.
            descriptor: the call's directory argument, `AT_FDCWD` for the working directory.

        Raises:
            OSError: EBADF, ENOTDIR.
        """
        descriptor &= 0xFFFFFFFF
        name = "cwd" if descriptor == AT_FDCWD else f"fd/{descriptor}"
        directory = self.fresh(call).directory
        try:
            found = os.stat(name, dir_fd=directory)
            known = self.directories.path_of(found.st_dev, found.st_ino)
            if known is None:
                known = os.fsencode(os.readlink(name, dir_fd=directory))
        except (FileNotFoundError, ProcessLookupError):
            self.listener.check(call.id)
            number = errno.ENOENT if descriptor == AT_FDCWD else errno.EBADF
            raise OSError(number, "no such directory") from None
        self.listener.check(call.id)
        if not known.startswith(b"/"):
            raise OSError(errno.ENOTDIR, "not a directory")
        return known

    def caller(self, call: Call) -> Caller:
        """What a walk has to know about who asks."""
        task = call.task
        root = os.fsencode(os.readlink("root", dir_fd=task.directory)) if self.rooted else b"/"
        caller = Caller(task.process, call.tid, root)
        self.listener.check(call.id)
        return caller

    def resolve(
        self,
        call: Call,
        descriptor: int,
        path: bytes,
        *,
        follow: bool = True,
        restrictions: Restrictions = UNRESTRICTED,
    ) -> Found:
        """What a path of the caller means; see `resolve.Resolver.resolve`."""
        resolver = self.resolver
        if path[:1] == b"/" and not self.rooted and restrictions is UNRESTRICTED:
            known = resolver.known(path, follow)
            if known is not None:
                return known
            return resolver.resolve(b"/", path, self.caller(call), follow=follow)
        caller = self.caller(call)
        if path[:1] == b"/":
            start = caller.root
        elif not path:
            raise OSError(errno.ENOENT, "empty path")
        else:
            start = self.base(call, descriptor)
        return resolver.resolve(start, path, caller, follow=follow, restrictions=restrictions)

    def credentials(self, call: Call) -> Credentials:
        """Who the caller is."""
        known = self.tasks.find(call.tid).known
        if known is None or call.tid in self._changed_threads:
            known = self.fresh(call).status()
            self.listener.check(call.id)
        return known.credentials

    def granted(self, call: Call, found: Found) -> int:
        """What the caller may do with it: a sum of `rights.READ`, `WRITE`, `EXECUTE`.

        Raises:
            OSError: EACCES where it may not even search a directory on the way.
        """
        if found.where is Where.INJECTED:
            return rights.of(self, found, self.credentials(call))
        credentials = self.credentials(call)
        table = self.rights.get(credentials)
        if table is None:
            if len(self.rights) >= _MAX_IDENTITIES:
                self.rights.clear()
            table = self.rights[credentials] = {}
        known = table.get(found)
        if known is None:
            known = rights.of(self, found, credentials)
            if len(table) >= _MAX_RIGHTS:
                table.clear()
            if time.monotonic() >= self._rights_settled:
                table[found] = known
        return known

    def _with_new_identity(self, handler: Handler, name: str) -> Handler:
        """Forget who the caller is before a call that may change that."""
        if name not in _CHANGES_IDENTITY:
            return handler

        def forgetting(call: Call) -> None:
            task = self.fresh(call)
            task.known = None
            if name in _EXECUTING and task.process != call.tid:
                # This thread will go on under the number of the process's first one, whose
                # identity, which may be another, could be read again until then.
                self._changed_threads.add(task.process)
            handler(call)

        return forgetting

    def names_changed(self) -> None:
        """The program is about to make, move or remove names on disk."""
        self.resolver.forget(time.monotonic())
        self.modes_changed()

    def modes_changed(self) -> None:
        """The program is about to change who may do what on disk.

        The change itself comes after the notification; for a moment nothing is remembered.
        """
        self._rights_settled = time.monotonic() + SETTLING_SECONDS
        self.rights.clear()


def _unknown(call: Call) -> None:
    # The filter notifies nothing without a handler; if it did, refusing is the safe answer.
    call.fail(errno.ENOSYS)
