"""One bounded HTTP/1.1 request over TLS 1.3: what the command line uses to reach a CAS.

A connection holds one request. The server is judged before anything is sent to it; without a pin it
is not judged at all, which is the caller's to say aloud.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import NamedTuple

import h11

from crannog import __version__
from crannog.errors import FormatError, TooLarge, Unavailable
from crannog.transport.address import Address, is_numeric
from crannog.transport.connect import connect
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import (
    Identity,
    Pin,
    check_server,
    client_context,
    client_stream,
    now_utc,
)

MAX_HEAD = 32 * 1024
MAX_BODY = 4 * 1024 * 1024
DEFAULT_SECONDS = 60.0


class Reply(NamedTuple):
    """What the server answered; `body` has at most `MAX_BODY` bytes."""

    status: int
    body: bytes

    @property
    def status_line(self) -> str:
        """The status as people know it: `400 Bad Request`."""
        try:
            return f"{self.status} {HTTPStatus(self.status).phrase}"
        except ValueError:
            return str(self.status)


def send_request(
    server: Address,
    method: str,
    target: str,
    body: bytes = b"",
    *,
    identity: Identity | None = None,
    pin: Pin | None = None,
    seconds: float = DEFAULT_SECONDS,
) -> Reply:
    """Send one request and read its answer whole.

    Args:
        server: whom.
        method: GET, POST.
        target: path and query, percent-encoded.
        body: sent with its length.
        identity: the client's certificate and key, or None for none.
        pin: what the server has to be; None takes anybody.
        seconds: for everything together.

    Raises:
        Denied: not the pinned server; it got nothing but a TLS handshake.
        FormatError: it does not speak HTTP.
        TooLarge: its answer is over `MAX_BODY`.
        Unavailable: not reached, or cut off.
    """
    deadline = Deadline.after(seconds)
    name = None if is_numeric(server.host) else server.host
    stream = client_stream(client_context(identity), connect(server, deadline, "CAS"), name)
    try:
        stream.handshake(deadline)
        if pin is not None:
            check_server(stream, pin, what=f"CAS at {server}", now=now_utc())
        return _exchange(stream, str(server), method, target, body, deadline)
    finally:
        stream.close()


def _exchange(
    stream: TlsStream, host: str, method: str, target: str, body: bytes, deadline: Deadline
) -> Reply:
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    request = h11.Request(
        method=method,
        target=target,
        headers=[
            ("Host", host),
            ("User-Agent", f"crannog/{__version__}"),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
        ],
    )
    data = connection.send(request) or b""
    data += connection.send(h11.Data(body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    # A server that refuses early answers before it has read all: its answer counts.
    failure: Unavailable | None = None
    try:
        stream.send(data, deadline)
    except Unavailable as error:
        failure = error
    try:
        return _receive(stream, connection, deadline)
    except Unavailable as error:
        raise failure or error from error


def _receive(stream: TlsStream, connection: h11.Connection, deadline: Deadline) -> Reply:
    status = 0
    body = bytearray()
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise FormatError(
                "the server's answer is not HTTP",
                hint="is this the address of the CAS's client API (8081)?",
            ) from error
        if event is h11.NEED_DATA:
            connection.receive_data(stream.receive(deadline))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > MAX_BODY:
                raise TooLarge(f"the server's answer has more than {MAX_BODY} bytes")
        elif isinstance(event, h11.EndOfMessage):
            return Reply(status, bytes(body))
        elif isinstance(event, h11.ConnectionClosed):
            raise Unavailable("the server ended the connection before its answer")
