"""Who is at the other end of the Unix socket, and who has given up further evidence."""

from __future__ import annotations

import socket
import struct
import threading
from collections import OrderedDict
from typing import NamedTuple

REMEMBERED = 65536


class Peer(NamedTuple):
    """A process, told apart from a later one with the same id by its start time (clock ticks)."""

    pid: int
    started: int


def unix_peer(sock: socket.socket) -> Peer | None:
    """The process that connected, or None where the kernel does not say or it is gone."""
    size = struct.calcsize("3i")
    try:
        pid, _, _ = struct.unpack(
            "3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        )
        with open(f"/proc/{pid}/stat", "rb") as file:
            data = file.read(4096)
    except OSError:
        return None
    # The name in parentheses may hold anything; the fields after its last one are numbers.
    fields = data.rpartition(b")")[2].split()
    if pid <= 0 or len(fields) < 20 or not fields[19].isdigit():
        return None
    return Peer(pid, int(fields[19]))


class Acknowledged:
    """The processes that have their configuration; bounded, the oldest are forgotten first."""

    def __init__(self, limit: int = REMEMBERED) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._peers: OrderedDict[Peer, None] = OrderedDict()

    def add(self, peer: Peer) -> None:
        """From now on this process gets no evidence."""
        with self._lock:
            self._peers[peer] = None
            while len(self._peers) > self._limit:
                self._peers.popitem(last=False)

    def holds(self, peer: Peer) -> bool:
        """Whether this process has acknowledged."""
        with self._lock:
            return peer in self._peers
