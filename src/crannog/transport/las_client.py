"""What the launcher, and `crannog las probe`, use to reach a LAS: TCP 18766 or a Unix socket."""

from __future__ import annotations

import os
from types import TracebackType
from typing import NamedTuple, TypeAlias

from crannog.errors import Misconfigured, Unavailable
from crannog.evidence.envelope import Envelope
from crannog.exchange.las import LasClient, LasClientEvent, Noted, Quoted, QuoteRequest, Status
from crannog.exchange.refusal import Refusal, refusal_error
from crannog.transport.address import LAS_PORT, Address, parse_address
from crannog.transport.connect import connect, connect_unix
from crannog.transport.names import resolve
from crannog.transport.stream import Deadline, SocketStream

DEFAULT_SECONDS = 10.0
REFUSED = "LAS refused"


class UnixAddress(NamedTuple):
    """The path of a LAS's Unix socket."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


LasAddress: TypeAlias = Address | UnixAddress


def parse_las_address(text: str, what: str) -> LasAddress:
    """HOST, HOST:PORT, unix:PATH or an absolute path; `Misconfigured` for anything else."""
    path = text.removeprefix("unix:")
    if path.startswith("/"):
        if len(os.fsencode(path)) > 107 or "\0" in path:
            raise Misconfigured(f"{what}: a socket's path has at most 107 bytes")
        return UnixAddress(path)
    return parse_address(text, LAS_PORT, what)


class LasConnection:
    """One connection to a LAS; use it as a context manager.

    Args:
        address: where.
        seconds: bound of everything done on this connection together.

    Raises:
        Unavailable: not reached.
    """

    def __init__(self, address: LasAddress, *, seconds: float = DEFAULT_SECONDS) -> None:
        self._deadline = Deadline.after(seconds)
        if isinstance(address, UnixAddress):
            sock = connect_unix(address.path, self._deadline, "LAS")
        else:
            sock = connect(address, self._deadline, "LAS", resolve)
        self._stream = SocketStream(sock)
        self._client = LasClient()

    def __enter__(self) -> LasConnection:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection."""
        self._stream.close()

    def quote(self, request: QuoteRequest) -> Envelope:
        """The LAS's word; `Refused`, `Unavailable`, `FormatError`."""
        event = self._ask(self._client.quote(request))
        assert isinstance(event, Quoted)  # the client's state leaves nothing else
        return event.envelope

    def configured(self) -> None:
        """Give up any further evidence: the configuration has come."""
        event = self._ask(self._client.configured())
        assert isinstance(event, Noted)

    def probe(self) -> Status:
        """What this LAS is; nothing in it is authenticated."""
        event = self._ask(self._client.probe())
        assert isinstance(event, Status)
        return event

    def _ask(self, question: bytes) -> LasClientEvent:
        self._stream.send(question, self._deadline)
        while True:
            event = self._client.next_event()
            if event is not None:
                break
            data = self._stream.receive(self._deadline)
            if not data:
                raise Unavailable("LAS ended the connection before its answer")
            self._client.receive(data)
        if isinstance(event, Refusal):
            raise refusal_error(event, REFUSED)
        return event
