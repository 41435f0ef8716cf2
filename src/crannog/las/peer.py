"""Who is at the other end of the Unix socket, and who has given up further evidence.

(A) The kernel says who connected and, with every message, who sent it. Both have to be one process:
a forked holder of the socket is another.
"""

from __future__ import annotations

import errno
import select
import socket
import struct
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import NamedTuple

from crannog.errors import Denied, Unavailable
from crannog.las.process import Process
from crannog.transport.stream import READ, Deadline, SocketStream, TimedOut

REMEMBERED = 65536

_CREDENTIALS = struct.Struct("3i")
_SO_PEERPIDFD = 77  # asm-generic/socket.h, since Linux 6.5


class Peer(NamedTuple):
    """A process, told apart from a later one with the same id by its start time (clock ticks)."""

    pid: int
    started: int


class Connected:
    """The process that connected, held so that its id stays its own. `close` lets go.

    Attributes:
        process: None where we cannot see it: it is in no PID namespace below ours, or gone.
        peer: who it is, where we can.
        by_number: whether the kernel gave its id only. Between connecting and our look it may have
            ended, and the id be another's: what is received counts where it came after the look.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.process: Process | None = None
        self.peer: Peer | None = None
        self.by_number = True
        try:
            pid, _, _ = _CREDENTIALS.unpack(
                sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            )
        except OSError:
            return
        if pid <= 0:
            return
        try:
            pidfd = _peer_pidfd(sock)
            self.by_number = pidfd is None
            self.process = Process(pid, pidfd)
            self.peer = Peer(pid, self.process.started())
        except Denied:
            self.close()

    def close(self) -> None:
        """Let go of the process."""
        if self.process is not None:
            self.process.close()
        self.process = self.peer = None


class CredentialStream(SocketStream):
    """A connection on the Unix socket; the sender of each message is checked.

    Args:
        sock: accepted from a socket with SO_PASSCRED.
        pid: the only process that may send, or None where we cannot see who connected.
    """

    def __init__(self, sock: socket.socket, pid: int | None) -> None:
        super().__init__(sock)
        self._pid = pid

    def receive(self, deadline: Deadline) -> bytes:
        """Some bytes, or b"" at the end.

        Raises:
            Denied: another process than the one that connected has sent them, or nobody knows who.
            Unavailable: cut off, or too slow.
        """
        while True:
            try:
                # The kernel never joins the bytes of two senders in one answer.
                data, ancillary, _, _ = self._socket.recvmsg(
                    READ, socket.CMSG_SPACE(_CREDENTIALS.size)
                )
            except (BlockingIOError, InterruptedError):
                poller = select.poll()
                poller.register(self._socket, select.POLLIN)
                if not poller.poll(deadline.left() * 1000):
                    raise TimedOut("timed out while waiting for the peer's message") from None
                continue
            except OSError as error:
                raise Unavailable(f"connection was cut off: {error.strerror}") from error
            if data:
                self._check(ancillary)
            return data

    def quiet(self) -> bool:
        """Whether nothing that was sent up to now waits to be received."""
        poller = select.poll()
        poller.register(self._socket, select.POLLIN)
        return not poller.poll(0)

    def _check(self, ancillary: list[tuple[int, int, bytes]]) -> None:
        for level, kind, value in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
                sender, _, _ = _CREDENTIALS.unpack(value[: _CREDENTIALS.size])
                if self._pid is not None and sender != self._pid:
                    raise Denied(
                        f"process {sender} sent on the connection of process {self._pid}: "
                        "one process connects and asks"
                    )
                return
        raise Denied("the kernel does not say who sent the message")


class Acknowledged:
    """Who has got a configuration: processes and containers; the oldest are forgotten first."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._known: OrderedDict[Hashable, None] = OrderedDict()

    def add(self, one: Hashable) -> None:
        """From now on it gets no evidence."""
        with self._lock:
            self._known[one] = None
            while len(self._known) > self._limit:
                self._known.popitem(last=False)

    def holds(self, one: Hashable) -> bool:
        """Whether it has acknowledged."""
        with self._lock:
            return one in self._known


def ask_for_senders(sock: socket.socket) -> None:
    """Have the kernel say who sent each message on connections that this socket accepts."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)


def _peer_pidfd(sock: socket.socket) -> int | None:
    try:
        return sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno == errno.ENOPROTOOPT:
            return None
        # (A) It has ended: who has its number now is somebody else.
        raise Denied("the process that connected has ended") from error
