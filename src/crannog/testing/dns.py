"""A DNS server for tests: real datagrams and streams on 127.0.0.1, records from a dictionary.

It answers what it is told to, rightly or wrongly: cut off, in another case, from nobody, late.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import NamedTuple, TypeAlias

_A, _CNAME, _AAAA = 1, 5, 28


class Query(NamedTuple):
    """A question as it came.

    Attributes:
        name: as it was spelt, without the trailing dot.
        kind: 1 for A, 28 for AAAA.
        stream: whether it came over TCP.
        message: all of it.
    """

    name: str
    kind: int
    stream: bool
    message: bytes


Change: TypeAlias = Callable[[Query, bytes], bytes | None]
"""From a question and the proper answer to what is sent instead; None sends nothing."""


class FakeDns:
    """Listens for datagrams and streams on one free port; a context manager.

    Args:
        records: addresses, or one name (an alias), by name in lower case. A name that is not there
            does not exist; one with an empty tuple exists and has no address.
        change: what becomes of each answer.
        address: where to listen.
        port: 0 for a free one.

    Attributes:
        port: where it listens.
        queries: what was asked, in its order.
    """

    def __init__(
        self,
        records: Mapping[str, tuple[str, ...] | str],
        *,
        change: Change = lambda _query, answer: answer,
        address: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self._records = records
        self._change = change
        self._stream = socket.create_server((address, port))
        self.port: int = self._stream.getsockname()[1]
        self._datagram = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._datagram.bind((address, self.port))
        self.queries: list[Query] = []
        self._threads = [
            threading.Thread(target=serve, daemon=True)
            for serve in (self._serve_datagrams, self._serve_streams)
        ]

    def __enter__(self) -> FakeDns:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._stream.shutdown(socket.SHUT_RDWR)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._datagram.getsockname())
        for thread in self._threads:
            thread.join(10)
        self._stream.close()
        self._datagram.close()

    def _serve_datagrams(self) -> None:
        while True:
            message, sender = self._datagram.recvfrom(4096)
            if not message:
                return
            answer = self._answer(message, stream=False)
            if answer is not None:
                self._datagram.sendto(answer, sender)

    def _serve_streams(self) -> None:
        while True:
            try:
                accepted, _ = self._stream.accept()
            except OSError:
                return
            with accepted, accepted.makefile("rb") as file:
                length = int.from_bytes(file.read(2), "big")
                answer = self._answer(file.read(length), stream=True)
                if answer is not None:
                    accepted.sendall(len(answer).to_bytes(2, "big") + answer)

    def _answer(self, message: bytes, *, stream: bool) -> bytes | None:
        name, end = _spelt(message)
        kind = int.from_bytes(message[end : end + 2], "big")
        query = Query(name, kind, stream, message)
        self.queries.append(query)
        return self._change(query, answer_to(query, self._records))


def answer_to(query: Query, records: Mapping[str, tuple[str, ...] | str]) -> bytes:
    """The proper answer from these records, aliases first, as a recursive server gives it."""
    found: list[bytes] = []
    name = query.name.lower()
    known = records.get(name)
    while isinstance(known, str):
        found.append(_record(name, _CNAME, _encoded(known)))
        name = known.lower()
        known = records.get(name)
    for address in known or ():
        packed = ipaddress.ip_address(address).packed
        if (_A if len(packed) == 4 else _AAAA) == query.kind:
            found.append(_record(name, query.kind, packed))
    code = 3 if known is None else 0
    _, end = _spelt(query.message)
    return (
        query.message[:2]
        + (0x8180 | code).to_bytes(2, "big")
        + b"\0\1"
        + len(found).to_bytes(2, "big")
        + bytes(4)
        + query.message[12 : end + 4]
        + b"".join(found)
    )


def _record(name: str, kind: int, data: bytes) -> bytes:
    head = kind.to_bytes(2, "big") + b"\0\1\0\0\0\x3c" + len(data).to_bytes(2, "big")
    return _encoded(name) + head + data


def _encoded(name: str) -> bytes:
    labels = [label.encode() for label in name.split(".")]
    return b"".join(bytes((len(label),)) + label for label in labels) + b"\0"


def _spelt(message: bytes) -> tuple[str, int]:
    labels: list[str] = []
    position = 12
    while length := message[position]:
        labels.append(message[position + 1 : position + 1 + length].decode())
        position += 1 + length
    return ".".join(labels), position + 1
