"""Addresses as the variables and options spell them: HOST, HOST:PORT, [V6]:PORT, V6, unix:PATH."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple

from crannog.errors import Misconfigured

CLIENT_API_PORT = 8081
ENCLAVE_API_PORT = 18765
LAS_PORT = 18766


class Address(NamedTuple):
    """A TCP endpoint by name or number."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str, default_port: int, what: str) -> Address:
    """The endpoint that `text` names; `what` (a variable, an option) is named in errors.

    Raises:
        Misconfigured: no host, or a port that is none.
    """
    host, port = text, str(default_port)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise Misconfigured(f"{what} is {text[:80]!r}, expected [ADDRESS]:PORT")
        port = rest[1:] or port
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
        port = port or str(default_port)
    if not host or len(host) > 253 or any(c.isspace() or not c.isprintable() for c in host):
        raise Misconfigured(f"{what} is {text[:80]!r}, expected HOST or HOST:PORT")
    if not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536):
        raise Misconfigured(f"{what}: port is {port[:20]!r}, expected 0 to 65535")
    if ":" in host:
        try:
            ipaddress.IPv6Address(host.partition("%")[0])
        except ValueError as error:
            raise Misconfigured(f"{what} is {text[:80]!r}, expected HOST or HOST:PORT") from error
    return Address(host, int(port))


def is_numeric(host: str) -> bool:
    """Whether `host` is an IP address, which TLS does not send as a server name."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return True
