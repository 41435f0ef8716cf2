"""Seccomp user notification: installing a filter with a listener, and the listener's requests.

Thin: one function or method per request of `seccomp_unotify(2)`. Layouts are those of
`include/uapi/linux/seccomp.h`; both machines in `syscalls` are 64-bit and little-endian.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import struct
from collections.abc import Iterable

from crannog.errors import Unsupported
from crannog.linux.seccomp import Instruction, pack
from crannog.linux.syscalls import Machine

_SET_MODE_FILTER = 1
_FLAG_NEW_LISTENER = 1 << 3
_FLAG_WAIT_KILLABLE_RECV = 1 << 5  # Linux 5.19
_PR_SET_NO_NEW_PRIVS = 38

_RECV = 0xC0502100
_SEND = 0xC0182101
_ID_VALID = 0x40082102
_ADDFD = 0x40182103
_SET_FLAGS = 0x40082104
_FD_SYNC_WAKE_UP = 1  # SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP, Linux 6.6

_RESPONSE_CONTINUE = 1  # SECCOMP_USER_NOTIF_FLAG_CONTINUE
_ADDFD_SETFD = 1

NOTIFICATION = struct.Struct("<QIIiIQ6Q")
"""struct seccomp_notif: id, thread, flags, nr, arch, instruction pointer, six arguments."""

_RESPONSE = struct.Struct("<QqiI")
_ADDFD_REQUEST = struct.Struct("<QIIII")
_ID = struct.Struct("<Q")
_EMPTY = bytes(NOTIFICATION.size)

MINIMUM_KERNEL = (5, 19)


class Gone(Exception):
    """The call that a notification is about is over: its thread was killed, or was answered."""


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def check_kernel(release: str) -> None:
    """Refuse a kernel without killable notifications; `release` is what `uname -r` says.

    Without them a program's timers interrupt the wait and a call may never come to its end.

    Raises:
        Unsupported: older than 5.19, or not understood.
    """
    numbers: list[int] = []
    for part in release.split(".")[:2]:
        digits = "".join(char for char in part if char.isdigit())
        if not digits or not part[0].isdigit():
            break
        numbers.append(int(digits))
    if len(numbers) < 2 or tuple(numbers) < MINIMUM_KERNEL:
        raise Unsupported(
            f"file shield: kernel is {release}, expected Linux 5.19 or later",
            hint="use a newer kernel on the node: seccomp has to wait for notifications killably",
        )


def install(machine: Machine, program: Iterable[Instruction]) -> int:
    """Put the filter on the calling thread, for good; returns the listener's descriptor.

    Sets `no_new_privs`, which is inherited like the filter. To be called by a process with one
    thread, just before it executes the program.

    Raises:
        Unsupported: the tree has a listener already, or the kernel lacks something.
    """
    code = pack(program)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise Unsupported("file shield: cannot set no_new_privs")
    filter_program = _Program(len(code) // 8, code)
    flags = _FLAG_NEW_LISTENER | _FLAG_WAIT_KILLABLE_RECV
    listener = libc.syscall(
        ctypes.c_long(machine.numbers["seccomp"]),
        ctypes.c_long(_SET_MODE_FILTER),
        ctypes.c_long(flags),
        ctypes.byref(filter_program),
    )
    if listener < 0:
        raise _refusal(ctypes.get_errno())
    return int(listener)


def _refusal(number: int) -> Unsupported:
    if number == errno.EBUSY:
        return Unsupported(
            "file shield: this process tree has a seccomp listener already",
            hint="crannog cannot run inside crannog, nor under another supervisor of its kind;"
            " start the program directly",
        )
    if number == errno.EINVAL:
        return Unsupported(
            "file shield: the kernel refuses seccomp listeners with killable waiting",
            hint="use Linux 5.19 or later with CONFIG_SECCOMP_FILTER",
        )
    return Unsupported(
        f"file shield: cannot install the seccomp filter: {os.strerror(number)}",
        hint="the container's own seccomp profile has to allow seccomp(2)",
    )


class Listener:
    """The supervisor's end. Safe to use from several threads, but for `receive`.

    Args:
        descriptor: what `install` returned, however it came here; owned from now on.
    """

    __slots__ = ("_poll", "descriptor")

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._poll = select.poll()
        if descriptor >= 0:
            self._poll.register(descriptor, select.POLLIN)

    def prefer_same_core(self) -> None:
        """Let the kernel wake who waits on the answering core, where it can (Linux 6.6)."""
        try:
            fcntl.ioctl(self.descriptor, _SET_FLAGS, _FD_SYNC_WAKE_UP)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ENOTTY):
                raise

    def receive(self, buffer: bytearray) -> bool:
        """Wait for a notification and put it into `buffer` (`NOTIFICATION.size` bytes).

        The waiting is poll's: its wake-up has the same-core hint, the request's own has not.

        Returns:
            False when nobody is left who could notify.
        """
        while True:
            ((_, event),) = self._poll.poll()
            if event & select.POLLIN:
                if self._take(buffer):
                    return True
            elif event & (select.POLLHUP | select.POLLERR | select.POLLNVAL):
                return False

    def _take(self, buffer: bytearray) -> bool:
        """Take a notification; False when its caller was killed meanwhile."""
        buffer[:] = _EMPTY  # the kernel insists
        try:
            fcntl.ioctl(self.descriptor, _RECV, buffer)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):
                return False
            raise
        return True

    def check(self, notification: int) -> None:
        """Raise `Gone` unless the notification is still unanswered and its caller lives."""
        try:
            fcntl.ioctl(self.descriptor, _ID_VALID, _ID.pack(notification))
        except OSError as error:
            raise Gone from error

    def proceed(self, notification: int) -> None:
        """Let the kernel run the call as it stands."""
        self._send(_RESPONSE.pack(notification, 0, 0, _RESPONSE_CONTINUE))

    def value(self, notification: int, value: int) -> None:
        """Answer with a result, without running the call."""
        self._send(_RESPONSE.pack(notification, value, 0, 0))

    def fail(self, notification: int, number: int) -> None:
        """Answer with errno `number`."""
        self._send(_RESPONSE.pack(notification, 0, -number, 0))

    def _send(self, response: bytes) -> None:
        try:
            fcntl.ioctl(self.descriptor, _SEND, response)
        except OSError as error:
            raise Gone from error

    def place(self, notification: int, descriptor: int, at: int, flags: int) -> None:
        """Replace the caller's descriptor `at` with ours; does not answer the call.

        Raises:
            OSError: `at` cannot be a descriptor of the caller.
            Gone: the caller does not wait any more.
        """
        try:
            fcntl.ioctl(
                self.descriptor,
                _ADDFD,
                _ADDFD_REQUEST.pack(notification, _ADDFD_SETFD, descriptor, at, flags),
            )
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                raise Gone from error
            raise

    def add(self, notification: int, descriptor: int, flags: int) -> int:
        """Give the caller our `descriptor` without answering; returns its number there.

        Two requests, this and `value`, where ADDFD could do both: only the answer proper wakes the
        caller on our core, which on two idle cores takes 12 instead of 70 microseconds.

        Raises:
            OSError: the caller has too many open files (EMFILE); the call still wants an answer.
            Gone: the caller does not wait any more.
        """
        # A mutable buffer: only with one does ioctl return what the kernel returned.
        request = bytearray(_ADDFD_REQUEST.pack(notification, 0, descriptor, 0, flags))
        try:
            return int(fcntl.ioctl(self.descriptor, _ADDFD, request))
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINPROGRESS):
                raise Gone from error
            raise
