"""What `/etc/hosts` and `/etc/resolv.conf` say, and which names are asked for in which order.

Decides as hosts(5), resolv.conf(5) and resolver(5) have it. Both files are whoever made the
container's: a line that is not understood is passed over, as every resolver does, and what is
kept is bounded. Pure: reading files and asking servers is the transport's.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import NamedTuple

MAX_SERVERS = 3  # MAXNS of resolv.h
MAX_SEARCH = 32  # what a kubelet passes at most
_MAX_HOSTS = 32  # addresses of one name
_LIMITS = {"ndots": (0, 15), "timeout": (1, 30), "attempts": (1, 5)}  # of resolver(5)
_LOOPBACK = ("127.0.0.1", "::1")


class Resolving(NamedTuple):
    """What resolv.conf says.

    Attributes:
        servers: addresses as text, IPv6 with or without `%SCOPE`; never empty.
        search: domains that are appended to short names.
        ndots: a name with at least that many dots is asked for as it is first.
        timeout: seconds for one server in one round.
        attempts: rounds over all servers.
        tcp: `options use-vc`: no datagrams.
    """

    servers: tuple[str, ...] = ("127.0.0.1",)
    search: tuple[str, ...] = ()
    ndots: int = 1
    timeout: int = 5
    attempts: int = 2
    tcp: bool = False


def parse_resolv_conf(data: bytes) -> Resolving:
    """What these bytes say; defaults for what they do not, as resolver(5)."""
    servers: list[str] = []
    search: tuple[str, ...] = ()
    options: dict[str, int] = {}
    tcp = False
    for keyword, *words in _lines(data, comments=b"#;"):
        if keyword == "nameserver" and words:
            if len(servers) < MAX_SERVERS and is_address(words[0]):
                servers.append(words[0])
        elif keyword in ("search", "domain") and words:
            kept = [word for word in words if len(word) <= 253]
            search = tuple(kept[: MAX_SEARCH if keyword == "search" else 1])
        elif keyword == "options":
            for word in words:
                name, _, value = word.partition(":")
                tcp = tcp or word == "use-vc"
                if name in _LIMITS and value.isascii() and value.isdigit() and len(value) < 10:
                    low, high = _LIMITS[name]
                    options[name] = max(low, min(high, int(value)))
    return Resolving()._replace(
        servers=tuple(servers) or ("127.0.0.1",), search=search, tcp=tcp, **options
    )


def find_in_hosts(data: bytes, name: str) -> tuple[str, ...]:
    """The addresses of `name` in these bytes of /etc/hosts, in their order, each once."""
    wanted = name.removesuffix(".").lower()
    found: dict[str, None] = {}
    for address, *names in _lines(data, comments=b"#"):
        if any(each.lower() == wanted for each in names) and is_address(address):
            found[address] = None
            if len(found) == _MAX_HOSTS:
                break
    return tuple(found)


def find_loopback(name: str) -> tuple[str, ...]:
    """The addresses of `localhost` and the names below it (RFC 6761 section 6.3); else none."""
    wanted = name.removesuffix(".").lower()
    return _LOOPBACK if wanted == "localhost" or wanted.endswith(".localhost") else ()


def names_to_ask(name: str, resolving: Resolving) -> tuple[str, ...]:
    """The full names to ask for, in their order, until one is known: the search list by ndots.

    A name that ends in a dot is asked for as it is and by itself.
    """
    if name.endswith("."):
        return (name,)
    searched = [f"{name}.{domain.strip('.')}." for domain in resolving.search if domain.strip(".")]
    itself = f"{name}."
    if name.count(".") >= resolving.ndots:
        return tuple(dict.fromkeys((itself, *searched)))
    return tuple(dict.fromkeys((*searched, itself)))


def is_address(text: str) -> bool:
    """Whether `text` is an IP address, IPv6 with or without a scope."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return len(text) <= 80


def _lines(data: bytes, *, comments: bytes) -> Iterator[list[str]]:
    for line in data.split(b"\n"):
        for mark in comments:
            line = line.partition(bytes((mark,)))[0]
        words = line.split()
        if words and line.isascii() and b"\0" not in line:
            yield [word.decode("ascii") for word in words]
