"""Host names to addresses by the system's own resolver, for the command line.

Whatever the machine's nsswitch.conf names works there: mDNS, a directory, a VPN's split DNS. The
launcher never uses it (ADR 0911).
"""

from __future__ import annotations

import socket

from crannog.transport.address import Address
from crannog.transport.nameservers import Endpoint, NotResolved
from crannog.transport.stream import Deadline


def resolve_by_system(address: Address, _deadline: Deadline) -> tuple[Endpoint, ...]:
    """The endpoints in the system's order; how long it takes is the system's as well.

    Raises:
        NotResolved: the system does not know it.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "not a host's name"
        raise NotResolved(f"name {address.host!r}: {reason}".lower()) from error
    endpoints: list[Endpoint] = []
    for family, _, _, _, target in found:
        if family is socket.AF_INET:
            endpoints.append(Endpoint(family, (str(target[0]), int(target[1]))))
        elif family is socket.AF_INET6:
            endpoints.append(Endpoint(family, (str(target[0]), int(target[1]), 0, int(target[-1]))))
    if not endpoints:
        raise NotResolved(f"name {address.host!r} has no address")
    return tuple(endpoints)
