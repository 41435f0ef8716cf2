"""A socket pair that hands one descriptor from a process to its parent.

By `_socket`, which `socket` is made of: that module and its enumerations cost 3 ms of each start,
and nothing here needs them. Source: unix(7), SCM_RIGHTS.
"""

from __future__ import annotations

import os
import struct
from _socket import AF_UNIX, CMSG_SPACE, SCM_RIGHTS, SOCK_STREAM, SOL_SOCKET, socket, socketpair
from typing import TypeAlias

__all__ = ["Channel", "receive_descriptor", "send_descriptor", "socket_pair"]

Channel: TypeAlias = socket

_NUMBER = struct.Struct("=i")


def socket_pair() -> tuple[Channel, Channel]:
    """Two connected stream sockets, not inherited over execve."""
    ours, theirs = socketpair(AF_UNIX, SOCK_STREAM)
    for end in (ours, theirs):
        os.set_inheritable(end.fileno(), False)
    return ours, theirs


def send_descriptor(channel: Channel, text: bytes, descriptor: int) -> None:
    """Send `text` and with it a copy of `descriptor`."""
    channel.sendmsg([text], [(SOL_SOCKET, SCM_RIGHTS, _NUMBER.pack(descriptor))])


def receive_descriptor(channel: Channel, limit: int) -> tuple[bytes, int | None]:
    """The next bytes, at most `limit`, and the descriptor that came with them, None without."""
    text, ancillary, _, _ = channel.recvmsg(limit, CMSG_SPACE(_NUMBER.size))
    for level, kind, data in ancillary:
        if level == SOL_SOCKET and kind == SCM_RIGHTS and len(data) >= _NUMBER.size:
            return text, int(_NUMBER.unpack_from(data)[0])
    return text, None
