"""Executing programs: what runs is verified, or nothing runs.

The kernel opens by itself what `execve` names, and what that names in turn: a script's
interpreter, a program's loader. In a region it would open ciphertext, or what somebody put there.
So every execve is looked at, and where a path leads into something virtual the caller is made to
execute a verified in-memory file instead (`linux.ptrace` says how). Whatever we cannot look at is
refused: what is neither a script nor a program of this machine, too, since a handler of the host
would run it.

Decided here, in this order:
(1) where the path leads, and for what is virtual whether the caller may execute it; a front
    (`measure.front`) is the measured interpreter behind it, and not executed itself;
(2) which interpreters its `#!` lines name, at most five in a row, each where it leads;
(3) which loader the program at the end names, and where that leads;
(4) below SCONE_ALLOW_DLOPEN=2: that program and loader, where native, are measured.
If all of it is native the kernel goes on by itself. Else the caller executes a descriptor: the
program, a copy of it that names its loader as a descriptor, or a starter for a script.

What a program can notice: AT_EXECFN is `/dev/fd/N`, and in `/proc/PID/comm` is the memfd's name.
`/proc/PID/exe` answers the virtual path (`name_of`).
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from crannog.errors import Unavailable
from crannog.linux import ptrace
from crannog.linux.notify import Gone
from crannog.measure.front import place_behind
from crannog.runtime.supervisor import programs, rights
from crannog.runtime.supervisor.made import Identity, MadePrograms
from crannog.runtime.supervisor.resolve import Found, Where
from crannog.shield.paths import printable

if TYPE_CHECKING:
    from crannog.runtime.supervisor.call import Call
    from crannog.runtime.supervisor.contents import Contents, MemoryFile

AT_FDCWD: Final = -100
AT_EMPTY_PATH: Final = 0x1000
AT_SYMLINK_NOFOLLOW: Final = 0x100
AT_EXECVE_CHECK: Final = 0x10000  # Linux 6.14: only ask whether it would be executed
_FLAGS: Final = AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW | AT_EXECVE_CHECK
_MAX_INTERPRETERS: Final = 5
_MAX_EXPECTED: Final = 4096
_VIRTUAL: Final = (Where.FILE, Where.INJECTED)


class Asker(NamedTuple):
    """Who wants to execute something.

    Attributes:
        resolve: where a path leads, relative to the working directory, links followed.
        granted: what may be done with what is virtual: a sum of `rights`' bits.
        load: a virtual file with its content; None waits for it to be decrypted.
    """

    resolve: Callable[[bytes], Found]
    granted: Callable[[Found], int]
    load: Callable[[Found], MemoryFile] | None = None


class _NotLoaded(Exception):
    pass


class NativeRule(Protocol):
    """Which native ELF files may be executed; `dlopen.Loading` implements it."""

    def may_run(self, path: bytes, status: os.stat_result) -> bool:
        """Whether the file may be executed; says why not where it may not."""

    def is_measured(self, status: os.stat_result) -> bool:
        """Whether it is a measured file, as it was measured."""


class _Source(NamedTuple):
    """One file on the way: ours to close."""

    found: Found
    descriptor: int
    status: os.stat_result


class _Plan(NamedTuple):
    """What to do with an execve.

    Attributes:
        source: the ELF file at the end.
        path: the interpreter's path as spelled, or the program's own.
        words: what goes before the caller's arguments in place of the first; empty for no script.
        loader: the loader where it is not the kernel's to open; ours to close.
        header: the program's first bytes, where there is such a loader.
        named: that loader as the program names it.
        native: whether the kernel may go on by itself.
    """

    source: _Source
    path: bytes
    words: tuple[bytes, ...]
    loader: _Source | None
    header: bytes
    named: programs.Loader | None
    native: bool


class Executables:
    """Serves execve and execveat. Safe to use from several threads.

    Args:
        contents: the virtual files.
        say: takes a line for the user.

    Attributes:
        rule: which native ELF files may run; to be set before anything is served.
    """

    def __init__(self, contents: Contents, say: Callable[[str], None]) -> None:
        self.rule: NativeRule | None = None
        self._contents = contents
        self._say = say
        self._lock = threading.Lock()
        self._said: set[str] = set()
        self._made = MadePrograms()
        self._expected: dict[int, tuple[int, Identity]] = {}

    def name_of(self, device: int, inode: int) -> bytes | None:
        """The virtual path of what runs as a file of that identity, or None for a native file."""
        name = self._made.name_of((device, inode))
        if name is not None:
            return name
        file = self._contents.by_identity(device, inode)
        return file.path if file is not None else None

    # the notification

    def handle(self, call: Call) -> None:
        """Answer an execve or execveat; in a worker where that takes time."""
        try:
            self._serve(call, self._known, call.later)
        except _NotLoaded:
            call.later(lambda: self._serve(call, None, _at_once))

    def _known(self, found: Found) -> MemoryFile:
        file = self._contents.known(found)
        if file is None:
            raise _NotLoaded
        return file

    def _serve(
        self,
        call: Call,
        load: Callable[[Found], MemoryFile] | None,
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        if call.name == "execve":
            directory, flags = AT_FDCWD, 0
            path_at, argv_at, environment_at = call.arguments[:3]
        else:
            directory = _signed(call.arguments[0])
            path_at, argv_at, environment_at, flags = call.arguments[1:5]
        if flags & ~_FLAGS & 0xFFFFFFFF:
            raise OSError(errno.EINVAL, "unknown flags")
        path = call.string(path_at)
        by_descriptor = not path and bool(flags & AT_EMPTY_PATH)
        if by_descriptor and self._is_ours(call, directory, flags):
            call.proceed()
            return
        if by_descriptor:
            found = self._opened(call, directory)
        else:
            follow = not flags & AT_SYMLINK_NOFOLLOW
            found = call.supervisor.resolve(call, directory, path, follow=follow)
        spelled = path
        if by_descriptor or (path[:1] != b"/" and directory != AT_FDCWD):
            spelled = found.path  # /dev/fd/N/path would be closed when the script is opened
        asker = Asker(
            lambda name: call.supervisor.resolve(call, AT_FDCWD, name, follow=True),
            lambda passed: _granted(call, passed),
            load,
        )
        plan = self._plan(found, spelled, asker)
        if plan.native or flags & AT_EXECVE_CHECK:
            _close(plan)
            if plan.native:
                call.proceed()
            else:
                call.value(0)
            return
        empty_at = path_at + len(path)
        later(lambda: self._redirect(call, plan, empty_at, argv_at, environment_at))

    def _is_ours(self, call: Call, number: int, flags: int) -> bool:
        """Whether this is the call that we made the thread make: it passes, once."""
        expected = self._expected.get(call.tid)
        if expected is None or expected[0] != number or flags != AT_EMPTY_PATH:
            return False
        if expected[1] != _identity_of(call, number):
            return False
        self._expected.pop(call.tid, None)
        return True

    def _opened(self, call: Call, number: int) -> Found:
        """What is executed by descriptor, by the program's own wish."""
        _identity_of(call, number)
        return Found(Where.DISK, b"/proc/%d/fd/%d" % (call.tid, number), through=False)

    # the first program, before there is a process that could ask

    def prepare(
        self,
        path: bytes,
        argv: Sequence[bytes],
        asker: Asker,
    ) -> tuple[int | bytes, list[bytes]]:
        """What the launcher's child has to execute for `path`, and with which arguments.

        Returns:
            A descriptor for `execveat` with AT_EMPTY_PATH, ours until the child has it, or a native
            path; and the arguments, rewritten for a script.

        Raises:
            OSError: as execve would fail.
        """
        plan = self._plan(asker.resolve(path), path, asker)
        words = [*plan.words, *argv[1:]] if plan.words else list(argv)
        try:
            found = plan.source.found
            if plan.loader is None and found.where is Where.DISK and not found.through:
                return plan.path, words
            if plan.loader is None:
                return os.dup(plan.source.descriptor), words
            number = os.dup(plan.loader.descriptor)  # stays open: the child's loader
            return os.dup(self._patched(plan, number)), words
        finally:
            _close(plan)

    # planning

    def _plan(self, found: Found, spelled: bytes, asker: Asker) -> _Plan:
        words: tuple[bytes, ...] = ()
        native = True
        path = spelled
        for _ in range(_MAX_INTERPRETERS + 1):
            source = self._open(found, asker)
            native = native and not source.found.through
            if found.where is Where.DISK and source.found.where in _VIRTUAL:
                path = source.found.path  # named by a descriptor, which may be closed on exec
            try:
                script = self._script(source)
                if script is None:
                    return self._finish(source, path, words, native, asker)
                extra: tuple[bytes, ...] = (script.interpreter,)
                if script.argument is not None:
                    extra += (script.argument,)
                words = extra + (words or (path,))
                path = script.interpreter
                found = asker.resolve(path)
            except BaseException:
                os.close(source.descriptor)
                raise
            os.close(source.descriptor)
        raise OSError(errno.ELOOP, "too many interpreters")

    def _script(self, source: _Source) -> programs.Script | None:
        head = os.pread(source.descriptor, programs.HEAD_BYTES, 0)
        try:
            script = programs.parse_script(head)
        except programs.NotExecutable as error:
            raise OSError(errno.ENOEXEC, "no interpreter") from error
        if script is None and not programs.is_program(head, os.uname().machine):
            raise OSError(errno.ENOEXEC, "neither a program of this machine nor a script")
        return script

    def _finish(
        self,
        source: _Source,
        path: bytes,
        words: tuple[bytes, ...],
        native: bool,
        asker: Asker,
    ) -> _Plan:
        """The plan for the ELF program at the end."""
        self._check_native(source)
        headers = _read_headers(source.descriptor)
        place = programs.loader_range(headers)
        if place is None:
            return _Plan(source, path, words, None, b"", None, native)
        offset, size, header_at = place
        named = programs.parse_loader(os.pread(source.descriptor, size, offset), header_at)
        if named is None:
            raise OSError(errno.ENOEXEC, "loader's name is not a string")
        loader = self._open(asker.resolve(named.path), asker)
        try:
            self._check_native(loader)
        except BaseException:
            os.close(loader.descriptor)
            raise
        if not loader.found.through:
            os.close(loader.descriptor)
            return _Plan(source, path, words, None, b"", None, native)
        return _Plan(source, path, words, loader, headers, named, False)

    def _open(self, found: Found, asker: Asker) -> _Source:
        if found.where in _VIRTUAL:
            return self._open_virtual(found, asker)
        if found.where is Where.MISSING:
            raise OSError(errno.ENOENT, "no such file or directory")
        if found.where is Where.LINK:
            raise OSError(errno.ELOOP, "a link that was not to be followed")
        if found.where is Where.DIRECTORY:
            raise OSError(errno.EACCES, "is a directory")
        return self._open_native(found, asker)

    def _open_virtual(self, found: Found, asker: Asker) -> _Source:
        if not asker.granted(found) & rights.EXECUTE:
            raise OSError(errno.EACCES, "permission denied")
        file = (asker.load or self._contents.open_file)(found)
        descriptor = self._contents.open_for(file, os.O_RDONLY)
        return _Source(found, descriptor, os.fstat(descriptor))

    def _open_native(self, found: Found, asker: Asker) -> _Source:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        if not found.path.startswith(b"/proc/"):
            flags |= os.O_NOFOLLOW  # all links were followed in the walk
        if found.through:
            asker.granted(found)
        interpreter = self._open_behind(found)
        if interpreter is not None:
            return interpreter
        if not stat.S_ISREG(os.stat(found.path).st_mode):  # to open a device may do something
            raise OSError(errno.EACCES, "not a regular file")
        try:
            descriptor = os.open(found.path, flags)
        except PermissionError as error:
            # It may be executable and not readable. Then nobody knows what the kernel would load.
            self._say_once(
                f"{printable(found.path)}: cannot be read by the launcher, so it is not executed"
            )
            raise OSError(errno.EACCES, "cannot be looked at") from error
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EACCES, "not a regular file")
            identity = (status.st_dev, status.st_ino)
            made_for = self._made.name_of(identity)
            file = self._contents.by_identity(*identity)
        except BaseException:
            os.close(descriptor)
            raise
        if made_for is not None:
            # A copy that we made, reached by /proc/self/exe: what its loader was is closed by now.
            os.close(descriptor)
            again = asker.resolve(made_for)
            return self._open(Found(again.where, again.path, again.entry, through=True), asker)
        if file is not None:
            # A virtual file reached by a descriptor: the kernel gets at the same bytes that we do.
            where = Where.INJECTED if file.entry is None else Where.FILE
            found = Found(where, file.path, file.entry, through=found.through)
            if not asker.granted(found) & rights.EXECUTE:
                os.close(descriptor)
                raise OSError(errno.EACCES, "permission denied")
        return _Source(found, descriptor, status)

    def _open_behind(self, found: Found) -> _Source | None:
        """The measured interpreter behind the front that `found` is; None where it is none.

        A front would start another launcher where the environment asks for one, and is no measured
        file. Executed by descriptor, so that the kernel does not look at the front.
        """
        if self.rule is None or found.path.startswith(b"/proc/"):
            return None
        path = os.fsencode(place_behind(os.fsdecode(found.path)))
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except OSError:
            return None
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not self.rule.is_measured(status):
            os.close(descriptor)
            return None
        return _Source(Found(Where.DISK, path, through=True), descriptor, status)

    def _check_native(self, source: _Source) -> None:
        if source.found.where is not Where.DISK:
            return
        if self.rule is None or not self.rule.may_run(source.found.path, source.status):
            raise OSError(errno.EACCES, "not measured")

    # carrying it out

    def _redirect(
        self, call: Call, plan: _Plan, empty_at: int, argv_at: int, environment_at: int
    ) -> None:
        """Have the caller execute the plan's descriptor in place of its own call."""
        try:
            self._redirect_to(call, plan, empty_at, argv_at, environment_at)
        finally:
            _close(plan)

    def _redirect_to(
        self, call: Call, plan: _Plan, empty_at: int, argv_at: int, environment_at: int
    ) -> None:
        layout = ptrace.native_layout()
        try:
            seized = ptrace.Seized(call.tid, layout)
        except Unavailable as error:
            self._say_once(f"{printable(plan.path)}: {error.message}; it is not executed")
            raise OSError(errno.EACCES, "cannot be redirected") from error
        except ProcessLookupError as error:
            raise Gone from error
        with seized:
            try:
                number, identity = self._give(call, plan)
            except OSError as error:
                call.fail(error.errno or errno.EIO)
                return
            if len(self._expected) > _MAX_EXPECTED:
                self._expected.clear()
            self._expected[call.tid] = (number, identity)
            call.fail(errno.ENOSYS)  # not seen by the program: its registers are changed
            try:
                registers = seized.wait()
                seized.set_registers(
                    ptrace.redirected(
                        registers,
                        layout,
                        layout.execveat,
                        (number, empty_at, argv_at, environment_at, AT_EMPTY_PATH),
                    )
                )
            except ProcessLookupError as error:
                raise Gone from error

    def _give(self, call: Call, plan: _Plan) -> tuple[int, Identity]:
        """Inject what is to be executed; returns its number in the caller, and its identity."""
        add = call.supervisor.listener.add
        with self._lock:
            if plan.words:
                descriptor = self._made.starter(plan.path, plan.words)
            elif plan.loader is None:
                descriptor = plan.source.descriptor
            else:
                loader = add(call.id, plan.loader.descriptor, os.O_CLOEXEC)
                descriptor = self._patched(plan, loader)
            status = os.fstat(descriptor)
            number = add(call.id, descriptor, os.O_CLOEXEC)
        return number, (status.st_dev, status.st_ino)

    def _patched(self, plan: _Plan, loader: int) -> int:
        assert plan.named is not None
        source = plan.source
        return self._made.patched(
            source.found.path,
            source.descriptor,
            plan.header,
            plan.named,
            loader,
            changeable=source.found.where is Where.INJECTED,
        )

    def _say_once(self, line: str) -> None:
        if line not in self._said and len(self._said) < 256:
            self._said.add(line)
            self._say(line)


def _granted(call: Call, found: Found) -> int:
    """The caller's rights; what a region's link leads to outside is opened by us, for our own."""
    supervisor = call.supervisor
    if found.where is Where.DISK and supervisor.credentials(call) != supervisor.own_credentials:
        raise OSError(errno.EACCES, "named through a region by another user")
    return supervisor.granted(call, found)


def _at_once(work: Callable[[], None]) -> None:
    work()


def _identity_of(call: Call, number: int) -> Identity:
    try:
        status = os.stat(f"/proc/{call.tid}/fd/{number}")
    except OSError as error:
        raise OSError(errno.EBADF, "bad descriptor") from error
    return status.st_dev, status.st_ino


def _close(plan: _Plan) -> None:
    os.close(plan.source.descriptor)
    if plan.loader is not None:
        os.close(plan.loader.descriptor)


def _read_headers(descriptor: int) -> bytes:
    size = programs.header_bytes(os.pread(descriptor, 64, 0))
    if size > 1 << 20:
        raise OSError(errno.ENOEXEC, "program headers too far into the file")
    return os.pread(descriptor, size, 0) if size else b""


def _signed(value: int) -> int:
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low
