"""What a LAS uses to enrol at a CAS by token: one connection with a fresh key, one exchange.

The token goes to the pinned server alone; without a pin to whoever answers there.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import FormatError, Unavailable
from crannog.evidence.report import Channel
from crannog.exchange.enrolment import (
    Challenge,
    ClientEvent,
    Enrolled,
    EnrolmentClient,
    prove,
)
from crannog.exchange.refusal import Refusal, refusal_error
from crannog.transport.address import Address
from crannog.transport.names import Resolve, resolve
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import Pin, client_context, fresh_identity
from crannog.transport.tls_client import open_tls

DEFAULT_SECONDS = 30.0


def enrol(
    cas: Address,
    token: str,
    key: Ed25519PrivateKey,
    *,
    pin: Pin | None,
    seconds: float = DEFAULT_SECONDS,
    resolving: Resolve = resolve,
) -> Enrolled:
    """Show `token` for `key`; returns when the CAS has it on disk.

    Args:
        cas: the CAS's port for programs.
        token: a service account token. A secret.
        key: the LAS's.
        pin: what is known of the CAS's key; None gives the token to whoever answers.
        seconds: bound of all of it.
        resolving: from the CAS's name to addresses.

    Raises:
        Refused: the CAS said no, with its cause chain.
        Denied: not the pinned CAS; it got nothing but a TLS handshake.
        FormatError, TooLarge: it does not speak the protocol.
        Unavailable: not reached in time, or it said that trying again may help.
    """
    deadline = Deadline.after(seconds)
    identity = fresh_identity()
    stream = open_tls(
        cas,
        client_context(identity),
        pin,
        deadline,
        what="CAS",
        hint="is this address the CAS's port for programs (18765)?",
        resolve=resolving,
    )
    try:
        server_key = stream.peer_key()
        if server_key is None:
            raise FormatError("CAS showed no certificate")
        channel = Channel(stream.exporter(), identity.public_key(), server_key)
        client = EnrolmentClient()
        stream.send(client.enrol(), deadline)
        event = _answer(stream, client, deadline)
        if isinstance(event, Challenge):
            message = prove(key, token, nonce=event.nonce, channel=channel)
            stream.send(client.enrolment(message), deadline)
            event = _answer(stream, client, deadline)
    finally:
        stream.close()
    if isinstance(event, Enrolled):
        return event
    assert isinstance(event, Refusal)  # the client's state machine leaves nothing else
    raise refusal_error(event, "the CAS does not enrol this LAS")


def _answer(stream: TlsStream, client: EnrolmentClient, deadline: Deadline) -> ClientEvent:
    while True:
        event = client.next_event()
        if event is not None:
            return event
        data = stream.receive(deadline)
        if not data:
            raise Unavailable("CAS ended the connection before its answer")
        client.receive(data)
