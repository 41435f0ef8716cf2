"""Reaching a TCP peer: each way of failing has its own line, and all of them are `Unavailable`."""

from __future__ import annotations

import os
import socket

from crannog.errors import Unavailable
from crannog.transport.address import Address
from crannog.transport.names import Resolve
from crannog.transport.nameservers import Endpoint
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
    reasons: dict[str, None] = {}
    timed_out = True
    for position, endpoint in enumerate(endpoints):
        seconds = deadline.left() / (len(endpoints) - position)
        try:
            return _open(endpoint, max(seconds, 0.001))
        except TimeoutError:
            reasons["timed out"] = None
        except OSError as error:
            timed_out = False
            reasons[os.strerror(error.errno).lower() if error.errno else "failed"] = None
    message = f"cannot connect to {what} at {address}: {', '.join(reasons)}"
    if timed_out:
        raise TimedOut(message)
    raise Unavailable(message, hint=f"is the {what} running there?")


def _open(endpoint: Endpoint, seconds: float) -> socket.socket:
    sock = socket.socket(endpoint.family, socket.SOCK_STREAM)
    try:
        sock.settimeout(seconds)
        sock.connect(endpoint.target)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


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
