"""What the launcher uses to reach the CAS: TLS 1.3, the attestation exchange, nothing more.

One `attest` is one connection with a fresh key. Evidence is made by a function that the caller
gives, after the handshake and from the report data of exactly that connection. Nothing is sent to
a server that is not the pinned one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from crannog.errors import FormatError, Unavailable
from crannog.evidence.envelope import Envelope
from crannog.evidence.report import ROLE_SERVICE, Channel, report_data
from crannog.exchange.attestation import (
    AttestationClient,
    Challenge,
    ClientEvent,
    Evidence,
)
from crannog.exchange.configuration import Configuration
from crannog.exchange.refusal import Refusal, refusal_error
from crannog.transport.address import Address
from crannog.transport.names import resolve
from crannog.transport.retry import ONCE, Retry, with_retry
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import Pin, client_context, fresh_identity
from crannog.transport.tls_client import open_tls

MakeEvidence: TypeAlias = Callable[[bytes], tuple[Envelope, ...]]
"""From the 64 bytes of report data to envelopes: asks the LAS, or signs by itself."""

DEFAULT_SECONDS = 30.0
REFUSED = "CAS sent an attestation/configuration error"
"""The reference's text in front of whatever the CAS says."""


class Wanted(NamedTuple):
    """What is asked of the CAS.

    Attributes:
        config_id: `SESSION/SERVICE`, without the one-time password.
        launcher: digest of this launcher, 32 bytes.
        otp: one-time password, or None. A secret.
        service_access_token: or None. A secret.
    """

    config_id: str
    launcher: bytes
    otp: str | None = None
    service_access_token: str | None = None

    def __repr__(self) -> str:
        return f"Wanted(config_id={self.config_id!r})"


def attest(
    cas: Address,
    wanted: Wanted,
    make_evidence: MakeEvidence,
    *,
    pin: Pin | None = None,
    retry: Retry = ONCE,
    seconds: float = DEFAULT_SECONDS,
) -> Configuration:
    """The configuration that the CAS hands out for the evidence.

    Args:
        cas: where the CAS's enclave API is.
        wanted: what is asked for.
        make_evidence: called once per try with that connection's report data.
        pin: what is known of the CAS's key; None accepts any, as LIMITATIONS.md says.
        retry: how long an unreachable CAS, or LAS, is tried again.
        seconds: bound of one try.

    Raises:
        Refused: the CAS said no, with its cause chain.
        Denied: not the pinned CAS; it got nothing but a TLS handshake.
        FormatError: it does not speak the protocol.
        Unavailable: not reached in time, or it said that trying again may help.
    """

    def attempt() -> Configuration:
        deadline = Deadline.after(seconds)
        stream, client_key = _open(cas, pin, deadline)
        try:
            return _exchange(stream, client_key, wanted, make_evidence, deadline)
        finally:
            stream.close()

    return with_retry(attempt, retry)


def _open(cas: Address, pin: Pin | None, deadline: Deadline) -> tuple[TlsStream, bytes]:
    identity = fresh_identity()
    stream = open_tls(
        cas,
        client_context(identity),
        pin,
        deadline,
        what="CAS",
        hint="is this address the CAS's port for programs (18765)?",
        resolve=resolve,
    )
    return stream, identity.public_key()


def _exchange(
    stream: TlsStream,
    client_key: bytes,
    wanted: Wanted,
    make_evidence: MakeEvidence,
    deadline: Deadline,
) -> Configuration:
    server_key = stream.peer_key()
    if server_key is None:
        raise FormatError("CAS showed no certificate")
    channel = Channel(stream.exporter(), client_key, server_key)
    client = AttestationClient()
    stream.send(client.hello(wanted.config_id), deadline)
    event = _answer(stream, client, deadline)
    if isinstance(event, Challenge):
        bound = report_data(
            role=ROLE_SERVICE, nonce=event.nonce, channel=channel, config_id=wanted.config_id
        )
        evidence = Evidence(
            make_evidence(bound), wanted.launcher, wanted.otp, wanted.service_access_token
        )
        stream.send(client.evidence(evidence), deadline)
        event = _answer(stream, client, deadline)
    if isinstance(event, Configuration):
        return event
    assert isinstance(event, Refusal)  # the client's state machine leaves nothing else
    raise refusal_error(event, REFUSED)


def _answer(stream: TlsStream, client: AttestationClient, deadline: Deadline) -> ClientEvent:
    while True:
        event = client.next_event()
        if event is not None:
            return event
        data = stream.receive(deadline)
        if not data:
            raise Unavailable("CAS ended the connection before its answer")
        client.receive(data)
