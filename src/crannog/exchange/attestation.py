"""The attestation exchange on 18765: messages and both ends, without any I/O.

One connection is one attestation:

    launcher                                CAS
      hello(config id)        ->
                              <-   challenge(nonce)
      evidence(envelopes, …)  ->
                              <-   configuration | refusal

Each end takes bytes as they come (`receive`), says what they mean (`next_event`), and makes the
bytes to send. What comes out of order, twice, or after the end is refused; after an error of the
peer the server may still send one refusal. Format: docs/formats/attestation.md.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from crannog.errors import Error, FormatError, TooLarge
from crannog.evidence.envelope import (
    MAX_ENVELOPES,
    Envelope,
    envelope_message,
    parse_envelope,
)
from crannog.evidence.report import NONCE_SIZE
from crannog.exchange import limits
from crannog.exchange.configuration import (
    Configuration,
    configuration_message,
    parse_configuration,
)
from crannog.exchange.refusal import Refusal, parse_refusal, refusal_message
from crannog.wire import Fields, FrameBuffer, Json, encode_json, frame, parse_object

PROTOCOL = "crannog-attestation/1"


class Hello(NamedTuple):
    """The launcher's first message: what it wants to become."""

    config_id: str


class Challenge(NamedTuple):
    """The CAS's nonce for this connection, 32 bytes."""

    nonce: bytes


class Evidence(NamedTuple):
    """The launcher's second and last message.

    Attributes:
        envelopes: evidence, one to four.
        launcher: digest of the launcher, 32 bytes.
        otp: one-time password, or None. A secret.
        service_access_token: or None. A secret.
    """

    envelopes: tuple[Envelope, ...]
    launcher: bytes
    otp: str | None
    service_access_token: str | None

    def __repr__(self) -> str:
        return f"Evidence({len(self.envelopes)} envelopes, launcher={self.launcher.hex()})"


ServerEvent: TypeAlias = Hello | Evidence
ClientEvent: TypeAlias = Challenge | Configuration | Refusal


class _State(Enum):
    SEND_HELLO = auto()
    AWAIT_HELLO = auto()
    SEND_CHALLENGE = auto()
    AWAIT_CHALLENGE = auto()
    SEND_EVIDENCE = auto()
    AWAIT_EVIDENCE = auto()
    SEND_RESULT = auto()
    AWAIT_RESULT = auto()
    DONE = auto()
    FAILED = auto()


class AttestationClient:
    """The launcher's end."""

    def __init__(self) -> None:
        self._buffer = FrameBuffer(limit=limits.ATTESTATION_TO_CLIENT)
        self._state = _State.SEND_HELLO

    def hello(self, config_id: str) -> bytes:
        """The frame that asks for that configuration id."""
        self._turn(_State.SEND_HELLO, _State.AWAIT_CHALLENGE)
        return _frame_to_server({"type": "hello", "protocol": PROTOCOL, "config_id": config_id})

    def evidence(self, evidence: Evidence) -> bytes:
        """The frame with the evidence; only after the challenge, only once.

        Raises:
            FormatError: the CAS sent more than its challenge. (A) Nothing that came before the
                evidence is taken for a configuration.
        """
        if self._buffer.pending:
            self._state = _State.FAILED
            raise FormatError("CAS sent more than its challenge before there was evidence")
        self._turn(_State.SEND_EVIDENCE, _State.AWAIT_RESULT)
        return _frame_to_server(
            {
                "type": "evidence",
                "envelopes": [envelope_message(envelope) for envelope in evidence.envelopes],
                "launcher": evidence.launcher.hex(),
                "otp": evidence.otp,
                "service_access_token": evidence.service_access_token,
            }
        )

    def receive(self, data: bytes) -> None:
        """Bytes as they came from the CAS."""
        self._buffer.receive(data)

    def next_event(self) -> ClientEvent | None:
        """What the CAS said next, or None until more bytes come.

        Raises:
            FormatError: malformed, or not what may come now.
            TooLarge: over a bound.
        """
        try:
            payload = self._buffer.next_frame()
            if payload is None:
                return None
            return self._event(
                parse_object(payload, limit=limits.ATTESTATION_TO_CLIENT, what="message")
            )
        except Error:
            self._state = _State.FAILED
            raise

    def _event(self, message: dict[str, Json]) -> ClientEvent:
        kind = _kind(message)
        waiting = self._state in (_State.AWAIT_CHALLENGE, _State.AWAIT_RESULT)
        if kind == "refusal" and waiting:
            self._state = _State.DONE
            return parse_refusal(message)
        if kind == "challenge" and self._state is _State.AWAIT_CHALLENGE:
            fields = Fields(message, "challenge")
            fields.constant("type", "challenge")
            challenge = Challenge(fields.hex("nonce", NONCE_SIZE))
            fields.end()
            self._state = _State.SEND_EVIDENCE
            return challenge
        if kind == "configuration" and self._state is _State.AWAIT_RESULT:
            configuration = parse_configuration(message)
            self._state = _State.DONE
            return configuration
        raise _unexpected(kind, self._state)

    def _turn(self, expected: _State, to: _State) -> None:
        self._state = _turn(self._state, expected, to)


class AttestationServer:
    """The CAS's end. A nonce goes out once, and one evidence comes in, per connection."""

    def __init__(self) -> None:
        self._buffer = FrameBuffer(limit=limits.ATTESTATION_TO_SERVER)
        self._state = _State.AWAIT_HELLO

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their message."""
        return self._buffer.pending

    def receive(self, data: bytes) -> None:
        """Bytes as they came from the launcher."""
        self._buffer.receive(data)

    def next_event(self) -> ServerEvent | None:
        """What the launcher said next, or None until more bytes come.

        Raises:
            FormatError: malformed, or not what may come now, as a second evidence is.
            TooLarge: over a bound.
        """
        try:
            if self._buffer.pending and self._state not in (
                _State.AWAIT_HELLO,
                _State.AWAIT_EVIDENCE,
            ):
                raise FormatError(f"message when {_EXPECTED[self._state]}")
            payload = self._buffer.next_frame()
            if payload is None:
                return None
            if self._buffer.pending:
                # Each of the launcher's messages waits for an answer; nothing honest is behind it.
                raise FormatError("more than one message at once")
            return self._event(
                parse_object(payload, limit=limits.ATTESTATION_TO_SERVER, what="message")
            )
        except Error:
            self._state = _State.FAILED
            raise

    def challenge(self, nonce: bytes) -> bytes:
        """The frame with this connection's nonce; `RuntimeError` when one went out already."""
        if len(nonce) != NONCE_SIZE:
            raise ValueError(f"nonce of {len(nonce)} bytes")
        self._state = _turn(self._state, _State.SEND_CHALLENGE, _State.AWAIT_EVIDENCE)
        return frame(
            encode_json({"type": "challenge", "nonce": nonce.hex()}),
            limit=limits.ATTESTATION_TO_CLIENT,
        )

    def configuration(self, configuration: Configuration) -> bytes:
        """The frame that ends the exchange well; `TooLarge` when all of it together is."""
        payload = encode_json(configuration_message(configuration))
        if len(payload) > limits.ATTESTATION_TO_CLIENT:
            raise TooLarge(
                f"configuration has {len(payload)} bytes, "
                f"expected at most {limits.ATTESTATION_TO_CLIENT}"
            )
        made = frame(payload, limit=limits.ATTESTATION_TO_CLIENT)
        self._state = _turn(self._state, _State.SEND_RESULT, _State.DONE)
        return made

    def refusal(self, refusal: Refusal) -> bytes:
        """The frame that ends the exchange; possible until then at any time, after errors too."""
        if self._state is _State.DONE:
            raise RuntimeError("refusal after the end of the exchange")
        self._state = _State.DONE
        return frame(encode_json(refusal_message(refusal)), limit=limits.ATTESTATION_TO_CLIENT)

    @property
    def finished(self) -> bool:
        """Whether configuration or refusal went out."""
        return self._state is _State.DONE

    def _event(self, message: dict[str, Json]) -> ServerEvent:
        kind = _kind(message)
        if kind == "hello" and self._state is _State.AWAIT_HELLO:
            fields = Fields(message, "hello")
            fields.constant("type", "hello")
            fields.constant("protocol", PROTOCOL)
            hello = Hello(fields.text("config_id", limit=limits.CONFIG_ID))
            fields.end()
            if "@" in hello.config_id:
                # No name holds one. What follows it is a secret that would be logged and echoed.
                raise FormatError(
                    "hello: config_id holds an @, expected SESSION/SERVICE",
                    hint="a one-time password goes into the evidence, as otp",
                )
            self._state = _State.SEND_CHALLENGE
            return hello
        if kind == "evidence" and self._state is _State.AWAIT_EVIDENCE:
            evidence = _parse_evidence(message)
            self._state = _State.SEND_RESULT
            return evidence
        raise _unexpected(kind, self._state)


def _parse_evidence(message: dict[str, Json]) -> Evidence:
    fields = Fields(message, "evidence")
    fields.constant("type", "evidence")
    evidence = Evidence(
        envelopes=tuple(
            parse_envelope(item) for item in fields.items("envelopes", limit=MAX_ENVELOPES)
        ),
        launcher=fields.hex("launcher", 32),
        otp=fields.optional_text("otp", limit=limits.TOKEN),
        service_access_token=fields.optional_text("service_access_token", limit=limits.TOKEN),
    )
    fields.end()
    if not evidence.envelopes:
        raise FormatError("evidence: envelopes is empty, expected at least one")
    return evidence


_EXPECTED = {
    _State.SEND_HELLO: "nothing was asked yet",
    _State.AWAIT_HELLO: "hello was expected",
    _State.SEND_CHALLENGE: "the challenge was not answered yet",
    _State.AWAIT_CHALLENGE: "challenge or refusal was expected",
    _State.SEND_EVIDENCE: "the evidence was not sent yet",
    _State.AWAIT_EVIDENCE: "evidence was expected",
    _State.SEND_RESULT: "one evidence was already given on this connection",
    _State.AWAIT_RESULT: "configuration or refusal was expected",
    _State.DONE: "the exchange had ended",
    _State.FAILED: "the exchange had failed",
}


def _unexpected(kind: str, state: _State) -> FormatError:
    return FormatError(f"message of type {kind[:40]!r} when {_EXPECTED[state]}")


def _turn(state: _State, expected: _State, to: _State) -> _State:
    if state is not expected:
        raise RuntimeError(f"out of order: state {state.name}, expected {expected.name}")
    return to


def _kind(message: dict[str, Json]) -> str:
    kind = message.get("type")
    if not isinstance(kind, str):
        raise FormatError("message has no type")
    return kind


def _frame_to_server(message: dict[str, Json]) -> bytes:
    return frame(encode_json(message), limit=limits.ATTESTATION_TO_SERVER)
