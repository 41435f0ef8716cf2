"""Reaching a TCP peer: each way of failing has its own line, and all of them are `Unavailable`."""

from __future__ import annotations

import os
import socket

from crannog.errors import Unavailable
from crannog.transport.address import Address
from crannog.transport.names import Resolve
from crannog.transport.stream import Deadline, TimedOut


def connect(address: Address, deadline: Deadline, what: str, resolve: Resolve) -> socket.socket:
    """A connected socket, tried over every address that the name resolves to.

    Args:
        address: whom.
        deadline: until when, the resolution included; each address gets its share of what is left.
        what: names the peer in errors: `CAS`, `LAS`.
        resolve: from the name to addresses.

    Raises:
        Unavailable: resolution failed, refused, unreachable, or timed out.
        Misconfigured: what should be a name cannot be one.
    """
    try:
        endpoints = resolve(address, deadline)
    except Unavailable as error:
        raise Unavailable(
            f"resolution of {what} address {address} failed",
            hint=f"is the name right, and is there a {what}?",
        ) from error
    last: Unavailable | None = None
    for position, (family, target) in enumerate(endpoints):
        try:
            sock = socket.socket(family, socket.SOCK_STREAM)
        except OSError as error:
            last = Unavailable(f"cannot connect to {what} at {address}: {error.strerror}")
            continue
        try:
            sock.settimeout(max(deadline.left() / (len(endpoints) - position), 0.001))
            sock.connect(target)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except TimeoutError:
            sock.close()
            last = TimedOut(f"cannot connect to {what} at {address}: timed out")
        except OSError as error:
            sock.close()
            reason = os.strerror(error.errno).lower() if error.errno else "failed"
            last = Unavailable(
                f"cannot connect to {what} at {address}: {reason}",
                hint=f"is the {what} running there?",
            )
        else:
            return sock
    raise last or Unavailable(f"resolution of {what} address {address} gave no address")


def connect_unix(path: str, deadline: Deadline, what: str) -> socket.socket:
    """A connected Unix stream socket; `Unavailable` as `connect`."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(max(deadline.left(), 0.001))
        sock.connect(path)
    except OSError as error:
        sock.close()
        reason = os.strerror(error.errno).lower() if error.errno else "failed"
        raise Unavailable(
            f"cannot connect to {what} at {path[:200]}: {reason}",
            hint=f"is the {what} running there?",
        ) from error
    return sock
