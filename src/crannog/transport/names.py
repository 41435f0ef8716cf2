"""Host names to addresses for the launcher, by itself: two files and questions to DNS servers.

Decides which servers are asked, how often and how long. What the files and the messages mean is
`exchange.resolution`'s and `exchange.dns`'s. The system's resolver is not used before the evidence:
it loads modules that the image names (nsswitch.conf) and looks at a dozen further files (ADR 0911).
Looked at are /etc/hosts and /etc/resolv.conf and nothing else, no link is followed.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from typing import TypeAlias

from crannog.errors import FormatError, Misconfigured
from crannog.exchange.dns import encode_name
from crannog.exchange.resolution import find_in_hosts, find_loopback, parse_resolv_conf
from crannog.transport.address import Address
from crannog.transport.nameservers import Asking, Endpoint, NotResolved, parse_literal
from crannog.transport.stream import Deadline

HOSTS_LIMIT = 1 << 20  # bytes
RESOLV_CONF_LIMIT = 1 << 16
_STUB = "127.0.0.53"  # systemd-resolved(8)
_STUB_FILES = ("/systemd/resolve/stub-resolv.conf", "/systemd/resolve/resolv.conf")
_HINT = "give the address itself, or mount a regular file there"


Resolve: TypeAlias = Callable[[Address, Deadline], tuple[Endpoint, ...]]
"""From a name or number to endpoints, never none; `NotResolved`, `Misconfigured`."""


class Names:
    """A resolver of our own.

    Args:
        directory: where `hosts` and `resolv.conf` are.
        random: that many random bytes.
        port: of the servers; 53 but for tests.
    """

    def __init__(
        self,
        directory: str = "/etc",
        *,
        random: Callable[[int], bytes] = os.urandom,
        port: int = 53,
    ) -> None:
        self._directory = directory
        self._random = random
        self._port = port

    def resolve(self, address: Address, deadline: Deadline) -> tuple[Endpoint, ...]:
        """The endpoints of `address`: IPv4 before IPv6, otherwise as the file or server has them.

        Raises:
            NotResolved: nobody knows the name, or nobody answered in time.
            Misconfigured: it cannot be a host's name.
        """
        literal = parse_literal(address.host, address.port)
        if literal is not None:
            return (literal,)
        name = address.host
        try:
            encode_name(name)
        except FormatError as error:
            raise Misconfigured(error.message, hint=error.hint) from error
        found = find_loopback(name)
        if not found:
            found = find_in_hosts(self._file("hosts", HOSTS_LIMIT), name)
        if not found:
            resolving = parse_resolv_conf(self._file("resolv.conf", RESOLV_CONF_LIMIT))
            found = Asking(resolving, self._port, self._random, deadline).find(name)
        endpoints = [parse_literal(each, address.port) for each in found]
        usable = [each for each in endpoints if each is not None]
        if not usable:
            raise NotResolved(f"name {name!r} has no address")
        return tuple(sorted(usable, key=lambda each: each.family == socket.AF_INET6))

    def _file(self, name: str, limit: int) -> bytes:
        path = f"{self._directory}/{name}"
        try:
            return read_plain_file(self._directory, name, limit)
        except _LinkFound as found:
            if name == "resolv.conf" and found.target.endswith(_STUB_FILES):
                # What that file says; the service listens there whichever of the two it is.
                return f"nameserver {_STUB}\n".encode()
            raise NotResolved(
                f"{path} is a link to {found.target[:200]!r}, which is not followed", hint=_HINT
            ) from found
        except OSError as error:
            reason = (error.strerror or "unreadable").lower()
            raise NotResolved(f"{path}: {reason}", hint=_HINT) from error


class _LinkFound(Exception):
    def __init__(self, target: str) -> None:
        super().__init__(target)
        self.target = target


def read_plain_file(directory: str, name: str, limit: int) -> bytes:
    """The bytes of a regular file, up to `limit`; empty where it is not there.

    Opened without following a link and, before it is known to be a regular file, without effect.

    Raises:
        OSError: it cannot be read, is no regular file (EINVAL) or too large (EFBIG).
    """
    nothing = b""
    try:
        above = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return nothing
    try:
        handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
    except FileNotFoundError:
        return nothing
    finally:
        os.close(above)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISLNK(mode):
            raise _LinkFound(os.readlink("", dir_fd=handle))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
        with open(os.open(f"/proc/self/fd/{handle}", flags), "rb", buffering=0) as file:
            data = bytearray()
            while part := file.read(limit + 1 - len(data)):
                data += part
    finally:
        os.close(handle)
    if len(data) > limit:
        raise OSError(errno.EFBIG, f"larger than {limit} bytes")
    return bytes(data)


resolve: Resolve = Names().resolve
"""The launcher's resolver: this machine's two files, random bytes of the kernel."""
