"""HTTP/1.1 for servers on a stream, TLS or plain, by h11: bounded bodies, deadlines, keep-alive.

Decides framing only. What a request means, and what an error looks like, is the application's.
`Expect: 100-continue` is answered once the length is known to be acceptable, so that a client with
a body that is too large hears 413 before it sends it.
"""

from __future__ import annotations

import contextlib
from http import HTTPStatus
from typing import NamedTuple, Protocol

import h11

from crannog.errors import Error, FormatError, TooLarge, Unavailable
from crannog.transport.listener import Slot
from crannog.transport.stream import Deadline, Stream, TimedOut

MAX_HEAD = 32 * 1024
_DISCARD = 16 * 1024 * 1024
_DISCARD_SECONDS = 2.0


class Request(NamedTuple):
    """One request, read whole.

    Attributes:
        method: as sent, upper case by convention.
        target: the request target as sent: path and query, percent-encoded.
        body: its bytes.
        certificate: the client's certificate, DER, or None.
        peer: the peer's address, for the log.
    """

    method: str
    target: str
    body: bytes
    certificate: bytes | None
    peer: str


class Response(NamedTuple):
    """One response; `headers` beside the length, the date and the connection's."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


class HttpStream(Stream, Protocol):
    """What a server needs of a connection beside its two directions."""

    def peer_certificate(self) -> bytes | None:
        """The client's certificate, DER, or None."""

    def finish(self) -> None:
        """Tell the peer that nothing follows."""


class Application(Protocol):
    """What answers. Neither of the two raises."""

    def respond(self, request: Request) -> Response:
        """The answer to a request."""

    def refuse(self, error: Error, peer: str) -> Response:
        """The answer to something that is no request, or too large a one."""


class HttpLimits(NamedTuple):
    """Bounds of one connection: bytes of a body, seconds."""

    body: int = 1024 * 1024
    request_seconds: float = 30.0
    idle_seconds: float = 60.0
    requests: int = 10_000


def serve_http(
    stream: HttpStream, slot: Slot, application: Application, limits: HttpLimits
) -> None:
    """Answer requests until one of the two wants no more.

    Raises:
        Unavailable: the peer was slow or went away in the middle of a request.
        FormatError: it does not speak HTTP; it was told so.
    """
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)
    certificate = stream.peer_certificate()
    first = Deadline.after(limits.request_seconds)
    for _ in range(limits.requests):
        try:
            request = _read(stream, connection, first, limits, slot, certificate)
        except (FormatError, TooLarge, TimedOut) as error:
            with slot.busy():
                refusal = application.refuse(error, slot.peer)
                with slot.delivery():
                    _send(stream, connection, refusal, "", limits)
            _discard(stream)
            if isinstance(error, TooLarge):
                return
            raise
        if request is None:
            return
        with slot.busy():
            response = application.respond(request)
            if slot.draining:
                extra = (*response.headers, ("Connection", "close"))
                response = response._replace(headers=extra)
            with slot.delivery():
                _send(stream, connection, response, request.method, limits)
        if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
            return
        if slot.draining:
            return
        connection.start_next_cycle()
        first = Deadline.after(limits.idle_seconds)


def _read(
    stream: HttpStream,
    connection: h11.Connection,
    first: Deadline,
    limits: HttpLimits,
    slot: Slot,
    certificate: bytes | None,
) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    deadline = first
    begun = connection.trailing_data[0] != b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as error:
            if error.error_status_hint == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
                raise TooLarge(f"request head has more than {MAX_HEAD} bytes") from error
            raise FormatError(f"not an HTTP/1.1 request: {str(error)[:200]}") from error
        if event is h11.NEED_DATA:
            if connection.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[], reason=b"Continue")
                stream.send(connection.send(go_on) or b"", deadline)
            try:
                data = stream.receive(deadline)
            except TimedOut:
                if begun:
                    raise
                return None  # an idle connection that ends
            if data and not begun:
                begun, deadline = True, Deadline.after(limits.request_seconds)
            if not data and begun:
                raise Unavailable("connection was cut off in the middle of a request")
            connection.receive_data(data)
        elif isinstance(event, h11.Request):
            head = event
            begun = True
            _check_length(event, limits)
        elif isinstance(event, h11.Data):
            body += event.data
            if len(body) > limits.body:
                raise _too_large(limits)
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            return Request(
                method=head.method.decode("ascii"),
                target=head.target.decode("latin-1"),
                body=bytes(body),
                certificate=certificate,
                peer=slot.peer,
            )
        else:  # ConnectionClosed, or PAUSED which a server in this state does not see
            return None


def _check_length(head: h11.Request, limits: HttpLimits) -> None:
    for name, value in head.headers:
        # h11 has checked that it is digits, and only one.
        if name == b"content-length" and int(value) > limits.body:
            raise _too_large(limits)


def _too_large(limits: HttpLimits) -> TooLarge:
    return TooLarge(f"request body has more than {limits.body} bytes")


def _send(
    stream: HttpStream,
    connection: h11.Connection,
    response: Response,
    method: str,
    limits: HttpLimits,
) -> None:
    if connection.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
        return
    head = h11.Response(
        status_code=response.status,
        headers=[("Content-Length", str(len(response.body))), *response.headers],
        reason=HTTPStatus(response.status).phrase.encode("ascii"),
    )
    data = connection.send(head) or b""
    if method != "HEAD":
        data += connection.send(h11.Data(data=response.body)) or b""
    data += connection.send(h11.EndOfMessage()) or b""
    stream.send(data, Deadline.after(limits.request_seconds))


def _discard(stream: HttpStream) -> None:
    """Read what is still coming, so that the answer is not lost to a reset of the connection."""
    stream.finish()
    deadline = Deadline.after(_DISCARD_SECONDS)
    left = _DISCARD
    with contextlib.suppress(Unavailable):
        while left > 0:
            data = stream.receive(deadline)
            if not data:
                return
            left -= len(data)
