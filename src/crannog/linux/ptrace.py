"""A moment of ptrace: make a thread that waits for our answer do another system call.

A seccomp notification can answer a call or let it pass; it cannot change its arguments. What we
need twice is a changed call: `execve` of a path becomes `execveat` of a verified descriptor, and a
directory's position is moved by an `lseek` of the thread itself. So the thread is seized while it
waits, its call is answered with an error, and where it stops on its way back its registers are set
so that it makes the call we want.

What is decided here: only how. The thread must be a descendant (Yama 1) of our user and dumpable;
no capability is needed. A stop is not waited for with `wait`, since the status of our own child
belongs to who reaps it; it is seen by the registers becoming readable. A thread that dies while it
is ours has to be reaped by us, though, unless it is our own child: until then its process cannot
execute anything else, and its parent does not learn of its end.

x86-64 is tested. The arm64 layout (`user_pt_regs`, `svc` of four bytes) follows
arch/arm64/include/uapi/asm/ptrace.h and has not been run.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import threading
import time
from types import TracebackType
from typing import Final, NamedTuple

from crannog.errors import Unavailable

PTRACE_DETACH: Final = 17
PTRACE_SYSCALL: Final = 24
PTRACE_GETREGSET: Final = 0x4204
PTRACE_SETREGSET: Final = 0x4205
PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_GETSIGMASK: Final = 0x420A
PTRACE_SETSIGMASK: Final = 0x420B
PTRACE_GETSIGINFO: Final = 0x4202
PTRACE_GET_SYSCALL_INFO: Final = 0x420E
PTRACE_O_TRACESYSGOOD: Final = 1
PTRACE_O_EXITKILL: Final = 1 << 20
PTRACE_EVENT_STOP: Final = 128
SYSCALL_ENTRY: Final = 1
SYSCALL_EXIT: Final = 2
NT_PRSTATUS: Final = 1

_SPINS: Final = 200
_FIRST_PAUSE: Final = 20e-6  # seconds
_LAST_PAUSE: Final = 20e-3
_WALL: Final = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


class _Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("size", ctypes.c_size_t)]


class Layout(NamedTuple):
    """Where an architecture keeps what a system call needs, as indices of 64-bit registers.

    Attributes:
        registers: how many the kernel's structure has.
        program_counter: the next instruction.
        step: length in bytes of the instruction that makes a system call.
        number: where the call's number goes.
        result: where its result comes back.
        arguments: the six arguments.
        original: the register that tells the kernel to restart a call, -1 where there is none.
        lseek: the number of `lseek`.
        execveat: the number of `execveat`.
    """

    registers: int
    program_counter: int
    step: int
    number: int
    result: int
    arguments: tuple[int, int, int, int, int, int]
    original: int
    lseek: int
    execveat: int


X86_64: Final = Layout(27, 16, 2, 10, 10, (14, 13, 12, 7, 9, 8), 15, 8, 322)
AARCH64: Final = Layout(34, 32, 4, 8, 0, (0, 1, 2, 3, 4, 5), -1, 62, 281)
_LAYOUTS: Final = {"x86_64": X86_64, "aarch64": AARCH64}


def native_layout() -> Layout:
    """The layout of this machine; `Unavailable` where there is none."""
    layout = _LAYOUTS.get(os.uname().machine)
    if layout is None:
        raise Unavailable(
            f"no register layout for {os.uname().machine}, expected x86_64 or aarch64"
        )
    return layout


def redirected(
    registers: tuple[int, ...], layout: Layout, number: int, arguments: tuple[int, ...]
) -> tuple[int, ...]:
    """The registers of a thread just out of a call, changed so that it makes this call next.

    Pure. The program counter goes back onto the instruction that made the call; a restart of the
    old call by the kernel is ruled out.
    """
    changed = list(registers)
    changed[layout.program_counter] -= layout.step
    for index, value in zip(layout.arguments, arguments, strict=False):
        changed[index] = value & 0xFFFFFFFFFFFFFFFF
    changed[layout.number] = number
    if layout.original >= 0:
        changed[layout.original] = 0xFFFFFFFFFFFFFFFF
    return tuple(changed)


class Seized:
    """A thread of a descendant, seized and asked to stop at its next return to user space.

    Use as a context manager: the thread is let go on leaving, whatever happened. All calls must
    come from the thread that made the object (the kernel's rule).

    Raises:
        Unavailable: the kernel does not let us (not dumpable, another user, Yama 2 or 3).
        ProcessLookupError: the thread is gone.
    """

    def __init__(self, tid: int, layout: Layout) -> None:
        self.tid = tid
        self._layout = layout
        self._buffer = ctypes.create_string_buffer(8 * layout.registers)
        self._vector = _Iovec(ctypes.addressof(self._buffer), len(self._buffer))
        self._format = struct.Struct(f"={layout.registers}Q")
        self._attached = False
        options = PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL
        try:
            self._request(PTRACE_SEIZE, 0, options)
        except PermissionError as error:
            raise Unavailable(
                f"thread {tid} may not be traced, expected a dumpable process of our own user",
                hint="run the container as the program's user; Yama's ptrace_scope must be 0 or 1",
            ) from error
        self._attached = True
        try:
            self._request(PTRACE_INTERRUPT, 0, 0)
        except OSError:
            self.release()
            raise

    def __enter__(self) -> Seized:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()

    def registers(self) -> tuple[int, ...]:
        """The stopped thread's registers; `ProcessLookupError` while it is not stopped."""
        self._vector.size = len(self._buffer)
        self._request(PTRACE_GETREGSET, NT_PRSTATUS, ctypes.addressof(self._vector))
        return tuple(self._format.unpack(self._buffer.raw))

    def set_registers(self, registers: tuple[int, ...]) -> None:
        """Change the stopped thread's registers."""
        self._buffer.raw = self._format.pack(*registers)
        self._vector.size = len(self._buffer)
        self._request(PTRACE_SETREGSET, NT_PRSTATUS, ctypes.addressof(self._vector))

    def wait(self) -> tuple[int, ...]:
        """Wait until the thread has stopped; return its registers.

        Without an end but the thread's: it may be frozen (a paused container), and to leave it
        would leave it stopped for ever.

        Raises:
            ProcessLookupError: it was killed meanwhile.
        """
        pause = _FIRST_PAUSE
        for _ in range(_SPINS):
            with contextlib.suppress(ProcessLookupError):
                return self.registers()
            os.sched_yield()
        while True:
            try:
                return self.registers()
            except ProcessLookupError:
                if _gone(self.tid):
                    raise
            time.sleep(pause)
            pause = min(pause * 1.5, _LAST_PAUSE)

    def run_call(
        self, registers: tuple[int, ...], number: int, arguments: tuple[int, ...]
    ) -> tuple[int, tuple[int, ...]]:
        """Let the stopped thread make one call; return its result and the registers after it.

        Signals are blocked meanwhile and delivered afterwards; a stop signal takes effect when the
        thread is let go. The call must not be one that the filter reports: the reporter is us.

        Raises:
            ProcessLookupError: the thread was killed.
        """
        mask = ctypes.c_uint64(0)
        self._request(PTRACE_GETSIGMASK, 8, ctypes.addressof(mask))
        everything = ctypes.c_uint64(0xFFFFFFFFFFFFFFFF)
        self._request(PTRACE_SETSIGMASK, 8, ctypes.addressof(everything))
        try:
            self.set_registers(redirected(registers, self._layout, number, arguments))
            self._on_to(SYSCALL_ENTRY)
            after = self._on_to(SYSCALL_EXIT)
        finally:
            with contextlib.suppress(ProcessLookupError):
                self._request(PTRACE_SETSIGMASK, 8, ctypes.addressof(mask))
        return _signed(after[self._layout.result]), after

    def _on_to(self, wanted: int) -> tuple[int, ...]:
        """Let the thread go on until it stops at a call's entry or exit."""
        signal = 0
        info = ctypes.create_string_buffer(128)
        while True:
            self._request(PTRACE_SYSCALL, 0, signal)
            registers = self.wait()
            self._request(PTRACE_GET_SYSCALL_INFO, len(info), ctypes.addressof(info))
            if info.raw[0] == wanted:
                return registers
            # SIGSTOP cannot be blocked. Hand it on; the stop itself is an event and is passed over.
            self._request(PTRACE_GETSIGINFO, 0, ctypes.addressof(info))
            number, _, code = struct.unpack_from("=iii", info.raw)
            signal = 0 if code >> 8 == PTRACE_EVENT_STOP else number

    def finish_with(self, registers: tuple[int, ...], result: int) -> None:
        """Set `result` as what the call returned that the registers were taken after."""
        changed = list(registers)
        changed[self._layout.result] = result & 0xFFFFFFFFFFFFFFFF
        if self._layout.original >= 0:
            changed[self._layout.original] = 0xFFFFFFFFFFFFFFFF
        self.set_registers(tuple(changed))

    def release(self) -> None:
        """Let the thread go. One that has not stopped yet is waited for: only then can it be."""
        if not self._attached:
            return
        self._attached = False
        while True:
            try:
                self._request(PTRACE_DETACH, 0, 0)
                return
            except ProcessLookupError:
                try:
                    self.wait()
                except ProcessLookupError:
                    break
        _bury(self.tid)

    def _request(self, request: int, address: int, data: int) -> None:
        if _libc.ptrace(request, self.tid, address, data) < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


class _Condition(NamedTuple):
    dead: bool
    ours: bool
    own_child: bool


def _condition(tid: int) -> _Condition | None:
    """How it is with a thread that this thread traces; None where it has no entry any more."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().split(b"\n") if b":" in line)
        return _Condition(
            dead=fields[b"State"].split()[0] in (b"Z", b"X"),
            # Where another thread of its process executes, that one takes over the number.
            ours=int(fields[b"TracerPid"]) == threading.get_native_id(),
            own_child=int(fields[b"Tgid"]) == tid and int(fields[b"PPid"]) == os.getpid(),
        )
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _gone(tid: int) -> bool:
    condition = _condition(tid)
    return condition is None or condition.dead or not condition.ours


def _bury(tid: int) -> None:
    """Reap a dead thread that we trace, so that its process and its parent can go on."""
    pause = _FIRST_PAUSE
    while True:
        condition = _condition(tid)
        if condition is None or not condition.ours or condition.own_child:
            return
        try:
            if os.waitpid(tid, os.WNOHANG | _WALL)[0] == tid:
                return
        except ChildProcessError:
            return
        # A first thread can be reaped only when the others of its process have ended as well.
        time.sleep(pause)
        pause = min(pause * 1.5, _LAST_PAUSE)
