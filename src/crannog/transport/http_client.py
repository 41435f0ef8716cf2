"""A bounded HTTPS client for the command line: one request, one connection, one deadline.

Speaks TLS 1.3 to a CAS's client API with an optional client certificate. The server is checked by
hand against a pin (its key, or an authority it chains to) where one is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import h11

from crannog.errors import FormatError, TooLarge, Unavailable
from crannog.transport.address import Address
from crannog.transport.retry import ONCE, Retry, with_retry
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.system_names import resolve_by_system
from crannog.transport.tls import Identity, Pin, client_context
from crannog.transport.tls_client import open_tls

MAX_ANSWER = 16 * 1024 * 1024
DEFAULT_SECONDS = 30.0


class Answer(NamedTuple):
    """What the server said.

    Attributes:
        status: the HTTP status.
        headers: names in lower case.
        body: its bytes.
        chain: the certificates that the server showed, DER, leaf first.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes
    chain: tuple[bytes, ...]


class HttpClient:
    """Requests to one server.

    Args:
        address: where.
        identity: the client certificate, or None.
        pin: what is known of the server; None accepts any key.
        what: names the server in errors.
        seconds: bound of one request.
        retry: how long an unreachable server is tried again. Only for requests that never reached
            it: a request that was sent is not sent twice.
    """

    def __init__(
        self,
        address: Address,
        *,
        identity: Identity | None = None,
        pin: Pin | None = None,
        what: str = "CAS",
        seconds: float = DEFAULT_SECONDS,
        retry: Retry = ONCE,
    ) -> None:
        self._address = address
        self._context = client_context(identity)
        self._pin = pin
        self._what = what
        self._seconds = seconds
        self._retry = retry

    def request(self, method: str, target: str, body: bytes | None = None) -> Answer:
        """The answer to one request; `target` is the percent-encoded path and query.

        Raises:
            Unavailable: not reached, cut off or timed out.
            Denied: not the pinned server; it got nothing but a TLS handshake.
            FormatError: it does not speak HTTP.
            TooLarge: an answer over 16 MiB.
        """
        stream = with_retry(self._open, self._retry)
        try:
            return exchange(
                stream, self._address, method, target, body, Deadline.after(self._seconds)
            )
        finally:
            stream.close()

    def server_chain(self) -> tuple[bytes, ...]:
        """The certificates that the server shows, DER, leaf first, after the pin's check."""
        stream = with_retry(self._open, self._retry)
        try:
            return stream.peer_chain()
        finally:
            stream.close()

    def _open(self) -> TlsStream:
        return open_tls(
            self._address,
            self._context,
            self._pin,
            Deadline.after(self._seconds),
            what=self._what,
            hint="is this address the CAS's port for clients (8081)?",
            resolve=resolve_by_system,
        )


def exchange(
    stream: TlsStream,
    address: Address,
    method: str,
    target: str,
    body: bytes | None,
    deadline: Deadline,
    *,
    accept: str = "application/json",
    more: tuple[tuple[str, str], ...] = (),
    limit: int = MAX_ANSWER,
) -> Answer:
    """The answer to one request on a stream after its handshake.

    Args:
        stream: carries nothing before and nothing afterwards.
        address: the server's, for the Host field.
        method: GET, POST, ….
        target: the percent-encoded path and query.
        body: None for none.
        deadline: for all of it.
        accept: the media types that are wanted.
        more: further header fields; may be secret.
        limit: bytes of the answer's body.

    Raises:
        Unavailable: cut off or timed out.
        FormatError: it does not speak HTTP.
        TooLarge: an answer over the limit.
    """
    connection = h11.Connection(h11.CLIENT)
    headers = [("Host", str(address)), ("User-Agent", "crannog"), ("Accept", accept)]
    headers += [("Connection", "close"), *more]
    if body is not None:
        headers.append(("Content-Type", "application/octet-stream"))
        headers.append(("Content-Length", str(len(body))))
    try:
        request = h11.Request(method=method, target=target, headers=headers)
        data = connection.send(request) or b""
        if body:
            data += connection.send(h11.Data(data=body)) or b""
        data += connection.send(h11.EndOfMessage()) or b""
    except h11.LocalProtocolError as error:
        raise ValueError(f"not a request: {method} {target[:80]!r}") from error
    try:
        stream.send(data, deadline)
    except Unavailable as error:
        # A server that refuses early answers and stops reading; the answer says why.
        return _read(stream, connection, deadline, limit, unsent=error)
    return _read(stream, connection, deadline, limit, unsent=None)


def _read(
    stream: TlsStream,
    connection: h11.Connection,
    deadline: Deadline,
    limit: int,
    *,
    unsent: Unavailable | None,
) -> Answer:
    head: h11.Response | None = None
    body = bytearray()
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            raise FormatError(f"not an HTTP/1.1 response: {str(error)[:200]}") from error
        if event is h11.NEED_DATA:
            try:
                connection.receive_data(stream.receive(deadline))
            except Unavailable as error:
                raise (unsent or error) from None
        elif isinstance(event, h11.Response):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > limit:
                raise TooLarge(f"answer has more than {limit} bytes")
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {
                name.decode("latin-1").lower(): value.decode("latin-1")
                for name, value in head.headers
            }
            return Answer(head.status_code, headers, bytes(body), stream.peer_chain())
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            raise Unavailable("connection was closed before the answer")
