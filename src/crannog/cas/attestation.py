"""The enclave API on 18765: one connection, one nonce, one evidence, one configuration.

The shell around `AttestationServer`: TLS, deadlines, the nonce, log lines. Whether evidence is
authentic is `crannog.evidence.verify`'s question, whether it suits the session the service's. A
connection that begins as an enrolment is `crannog.cas.enrolment.connection`'s.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from OpenSSL import SSL

from crannog.cas.api.metrics import Metrics
from crannog.cas.enrolment.connection import EnrolmentApi
from crannog.cas.refusals import may_know, public_refusal
from crannog.cas.service import CasService
from crannog.errors import Error, FormatError, StorageFailed, TooLarge, Unavailable, chain
from crannog.evidence.claims import Claims
from crannog.evidence.report import NONCE_SIZE, ROLE_SERVICE, Channel, report_data
from crannog.evidence.verify import Expected, verify_bound
from crannog.exchange.attestation import AttestationServer, Evidence, Hello
from crannog.exchange.configuration import Configuration
from crannog.exchange.enrolment import is_enrolment
from crannog.exchange.refusal import Refusal
from crannog.transport.framed import feed
from crannog.transport.listener import Slot
from crannog.transport.log import Log, Sparse, quoted
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import server_stream


class EnclaveLimits(NamedTuple):
    """Seconds: for the TLS handshake, and for all of the exchange after it."""

    handshake_seconds: float
    request_seconds: float


class EnclaveApi:
    """Handles connections on 18765.

    Args:
        service: the CAS's use cases.
        context: TLS, which requires a client certificate.
        server_key: the SubjectPublicKeyInfo in the context's certificate, DER.
        enrolments: handles the other exchange on this port.
        limits: deadlines.
        log: lines for the operator.
        metrics: counts.
        now: the clock.
        random: randomness of the nonces.
    """

    def __init__(
        self,
        service: CasService,
        context: SSL.Context,
        server_key: bytes,
        *,
        enrolments: EnrolmentApi,
        limits: EnclaveLimits,
        log: Log,
        metrics: Metrics,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._service = service
        self._context = context
        self._server_key = server_key
        self._enrolments = enrolments
        self._limits = limits
        self._log = log
        self._metrics = metrics
        self._sparse = Sparse(per_second=50)
        self._now = now
        self._random = random

    def serve(self, slot: Slot) -> None:
        """One connection from handshake to close.

        Raises:
            Unavailable: the peer was slow, gone, or spoke no TLS; it is counted, not logged whole.
            FormatError: hostile bytes; the peer was told.
        """
        stream = server_stream(self._context, slot.socket)
        try:
            stream.handshake(Deadline.after(self._limits.handshake_seconds))
            self._converse(stream, slot, Deadline.after(self._limits.request_seconds))
        finally:
            stream.close()

    def _converse(self, stream: TlsStream, slot: Slot, deadline: Deadline) -> None:
        opening = b""
        while (enrolment := is_enrolment(opening)) is None:
            data = stream.receive(deadline)
            if not data and opening:
                raise Unavailable("connection was cut off in the middle of a message")
            if not data:
                return
            opening += data
        if enrolment:
            self._enrolments.run(stream, slot, self.channel(stream), opening, deadline)
        else:
            _Attestation(self, stream, slot).run(opening, deadline)

    def channel(self, stream: TlsStream) -> Channel:
        """What evidence and proofs on this connection have to be bound to."""
        client_key = stream.peer_key()
        if client_key is None:  # the context requires one
            raise FormatError("the peer showed no certificate")
        return Channel(stream.exporter(), client_key, self._server_key)

    def decide(
        self, hello: Hello, nonce: bytes, evidence: Evidence, channel: Channel, seen: _Seen
    ) -> Configuration:
        """The configuration for evidence on this channel; raises what refuses it."""
        expected = Expected(
            report_data(role=ROLE_SERVICE, nonce=nonce, channel=channel, config_id=hello.config_id),
            hello.config_id,
            evidence.launcher,
        )
        try:
            seen.claims = verify_bound(
                evidence.envelopes, expected, trust=self._service.trust(), now=self._now()
            )
        except Error as error:
            self._service.refused(hello.config_id, error, peer=seen.peer, request_id=seen.id)
            raise
        # Anybody can sign for simulation: where that proves nothing it fills no log either.
        proved = may_know(self._service.minimum_level, seen.claims)
        if proved or self._sparse.take() is not None:
            self._log.info(
                f"Received configuration request for config id {quoted(hello.config_id)}",
                level=seen.claims.level.value,
                method=seen.claims.method,
                peer=seen.peer,
                request_id=seen.id,
            )
        configuration = self._service.configure(
            hello.config_id,
            seen.claims,
            otp=evidence.otp,
            service_access_token=evidence.service_access_token,
            peer=seen.peer,
            request_id=seen.id,
        )
        self._log.info(
            f"Provisioned configuration {quoted(hello.config_id)}",
            level=configuration.level.value,
            session_hash=configuration.session_hash,
            request_id=seen.id,
        )
        self._metrics.attestation("provisioned", configuration.level)
        return configuration

    def refusal(self, error: Error, config_id: str, seen: _Seen) -> Refusal:
        """What the peer hears of `error`; the operator's log has the whole of it."""
        claims = seen.claims
        self._metrics.attestation(error.code, None if claims is None else claims.level)
        values = {"peer": seen.peer, "request_id": seen.id, "code": error.code}
        reason = ": ".join(chain(error))
        if isinstance(error, StorageFailed):
            self._log.error(f"Refused configuration {quoted(config_id)}", reason=reason, **values)
        elif config_id and (dropped := self._sparse.take()) is not None:
            # Anybody can cause these; the audit log has each that came with authentic evidence.
            self._log.warning(
                f"Refused configuration {quoted(config_id)}",
                reason=reason,
                **values,
                dropped=dropped,
            )
        public = public_refusal(
            error, minimum=self._service.minimum_level, claims=seen.claims, request_id=seen.id
        )
        return Refusal(public.code, public.messages, public.hint, seen.id, public.retry)

    def count(self, error: Error) -> None:
        """Count what is not worth a line in the audit log."""
        self._service.count(error)

    def nonce(self) -> bytes:
        """A fresh one."""
        return self._random(NONCE_SIZE)


class _Seen:
    """What is known of the peer so far."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.id = secrets.token_hex(8)
        self.claims: Claims | None = None


class _Attestation:
    """One exchange on one connection."""

    def __init__(self, api: EnclaveApi, stream: TlsStream, slot: Slot) -> None:
        self._api = api
        self._stream = stream
        self._slot = slot
        self._end = AttestationServer()
        self._seen = _Seen(slot.peer)

    def run(self, opening: bytes, deadline: Deadline) -> None:
        """Speak until configuration or refusal went out, or the peer left.

        Args:
            opening: what was read already.
            deadline: for all of it.
        """
        self._end.receive(opening)
        hello = self._next(deadline)
        if not isinstance(hello, Hello):
            return
        with self._slot.busy():
            nonce = self._api.nonce()
            self._stream.send(self._end.challenge(nonce), deadline)
        evidence = self._next(deadline)
        if not isinstance(evidence, Evidence):
            return
        with self._slot.busy():
            try:
                channel = self._api.channel(self._stream)
                configuration = self._api.decide(hello, nonce, evidence, channel, self._seen)
                answer = self._end.configuration(configuration)
            except Error as error:
                answer = self._end.refusal(self._api.refusal(error, hello.config_id, self._seen))
            with self._slot.delivery():
                self._stream.send(answer, deadline)

    def _next(self, deadline: Deadline) -> Hello | Evidence | None:
        try:
            while (event := self._end.next_event()) is None:
                if not feed(self._stream, self._end, deadline):
                    return None
        except (FormatError, TooLarge) as error:
            # Strangers' bytes: told by name, counted, and nothing of them kept.
            self._api.count(error)
            refusal = self._api.refusal(error, "", self._seen)
            self._stream.send(self._end.refusal(refusal), deadline)
            raise
        return event
