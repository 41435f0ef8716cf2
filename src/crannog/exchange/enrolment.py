"""The enrolment of a LAS by token on 18765: messages, both ends and the proof, without any I/O.

    LAS                                     CAS
      enrol                   ->
                              <-   challenge(nonce)
      enrolment(key, token, proof) ->
                              <-   enrolled | refusal

One connection is one enrolment. What a token is worth is not decided here; that its bearer holds
the LAS's key, on this connection, is (`prove`, `check_proof`). Format: docs/formats/enrolment.md.
"""

from __future__ import annotations

import hashlib
import struct
from enum import Enum, auto
from typing import NamedTuple, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crannog.errors import Error, FormatError, IntegrityError
from crannog.evidence.report import NONCE_SIZE, Channel, report_data
from crannog.exchange import limits
from crannog.exchange.refusal import Refusal, parse_refusal, refusal_message
from crannog.wire import Fields, FrameBuffer, Json, encode_json, frame, parse_object

PROTOCOL = "crannog-enrolment/1"
ROLE_LAS = b"las enrolment"
_LABEL = b"crannog enrolment v1"
_LIMIT = limits.LAS_FRAME
_NODE = 253
_LATEST = 253402300799
"""The last second of the year 9999, the latest that a log line can name."""

OPENING = frame(encode_json({"type": "enrol", "protocol": PROTOCOL}), limit=_LIMIT)
"""The first frame, always these bytes: by them the CAS tells its port's two exchanges apart."""


def is_enrolment(data: bytes) -> bool | None:
    """Whether a connection that begins with `data` is an enrolment; None until more bytes come."""
    if len(data) >= len(OPENING):
        return data.startswith(OPENING)
    return None if data == OPENING[: len(data)] else False


class Challenge(NamedTuple):
    """The CAS's nonce for this connection, 32 bytes."""

    nonce: bytes


class Enrolment(NamedTuple):
    """The LAS's second and last message.

    Attributes:
        public_key: the LAS's Ed25519 key, 32 bytes.
        token: the service account token. A secret.
        proof: as `prove` makes it, 64 bytes.
    """

    public_key: bytes
    token: str
    proof: bytes

    def __repr__(self) -> str:
        return f"Enrolment(public_key={self.public_key.hex()})"


class Enrolled(NamedTuple):
    """The key is enrolled.

    Attributes:
        expires: until when, seconds since the epoch; None where it is enrolled by hand.
        node: the node that the token names.
    """

    expires: int | None
    node: str


ClientEvent: TypeAlias = Challenge | Enrolled | Refusal


def prove(key: Ed25519PrivateKey, token: str, *, nonce: bytes, channel: Channel) -> Enrolment:
    """The message that shows `token` and proves possession of `key` on that connection."""
    proof = key.sign(_signed(token, nonce, channel))
    return Enrolment(key.public_key().public_bytes_raw(), token, proof)


def check_proof(enrolment: Enrolment, *, nonce: bytes, channel: Channel) -> None:
    """Return when whoever sent `enrolment` on that connection holds the key.

    The key itself is taken as it is: refuse those of small order before.

    Raises:
        IntegrityError: the proof does not fit.
    """
    try:
        Ed25519PublicKey.from_public_bytes(enrolment.public_key).verify(
            enrolment.proof, _signed(enrolment.token, nonce, channel)
        )
    except (InvalidSignature, ValueError) as error:
        raise IntegrityError(
            "the proof does not fit the LAS's key, this connection and this token"
        ) from error


def _signed(token: str, nonce: bytes, channel: Channel) -> bytes:
    bound = report_data(role=ROLE_LAS, nonce=nonce, channel=channel, config_id="")
    # Label and lengths: a signature made here means nothing anywhere else.
    parts = (_LABEL, bound, hashlib.sha256(token.encode("utf-8", "replace")).digest())
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


class _State(Enum):
    FIRST = auto()
    CHALLENGE = auto()
    ENROLMENT = auto()
    RESULT = auto()
    DONE = auto()


class EnrolmentClient:
    """The LAS's end."""

    def __init__(self) -> None:
        self._buffer = FrameBuffer(limit=_LIMIT)
        self._state = _State.FIRST

    def enrol(self) -> bytes:
        """The first frame."""
        self._state = _turn(self._state, _State.FIRST, _State.CHALLENGE)
        return OPENING

    def enrolment(self, enrolment: Enrolment) -> bytes:
        """The frame with token and proof; only after the challenge, only once."""
        self._state = _turn(self._state, _State.ENROLMENT, _State.RESULT)
        return _frame(
            {
                "type": "enrolment",
                "public_key": enrolment.public_key.hex(),
                "token": enrolment.token,
                "proof": enrolment.proof.hex(),
            }
        )

    def receive(self, data: bytes) -> None:
        """Bytes as they came from the CAS."""
        self._buffer.receive(data)

    def next_event(self) -> ClientEvent | None:
        """What the CAS said next, or None until more bytes come.

        Raises:
            FormatError, TooLarge: malformed, or not what may come now.
        """
        payload = self._buffer.next_frame()
        if payload is None:
            return None
        message = parse_object(payload, limit=_LIMIT, what="message")
        waiting = self._state in (_State.CHALLENGE, _State.RESULT)
        if waiting and message.get("type") == "refusal":
            self._state = _State.DONE
            return parse_refusal(message)
        fields = Fields(message, "message")
        if self._state is _State.CHALLENGE:
            fields.constant("type", "challenge")
            challenge = Challenge(fields.hex("nonce", NONCE_SIZE))
            fields.end()
            self._state = _State.ENROLMENT
            return challenge
        if self._state is _State.RESULT:
            fields.constant("type", "enrolled")
            expires = None if fields.null("expires") else fields.number("expires", high=_LATEST)
            enrolled = Enrolled(expires, _printable(fields.text("node", limit=_NODE)))
            fields.end()
            self._state = _State.DONE
            return enrolled
        raise FormatError("CAS sent a message when none was expected")


class EnrolmentServer:
    """The CAS's end, after `is_enrolment`. A nonce goes out once, and one token comes in."""

    def __init__(self) -> None:
        self._buffer = FrameBuffer(limit=_LIMIT)
        self._state = _State.FIRST

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their message."""
        return self._buffer.pending

    def receive(self, data: bytes) -> None:
        """Bytes as they came from the LAS, the first frame included."""
        self._buffer.receive(data)

    def opened(self) -> bool:
        """Whether the first frame is there, which is taken; `FormatError` for another one."""
        payload = self._next(_State.FIRST)
        if payload is None:
            return False
        fields = Fields(parse_object(payload, limit=_LIMIT, what="message"), "enrol")
        fields.constant("type", "enrol")
        fields.constant("protocol", PROTOCOL)
        fields.end()
        self._state = _State.CHALLENGE
        return True

    def challenge(self, nonce: bytes) -> bytes:
        """The frame with this connection's nonce; `RuntimeError` when one went out already."""
        self._state = _turn(self._state, _State.CHALLENGE, _State.ENROLMENT)
        return _frame({"type": "challenge", "nonce": nonce.hex()})

    def next_event(self) -> Enrolment | None:
        """The LAS's message after the challenge, or None until more bytes come.

        Raises:
            FormatError, TooLarge: it is none, or not what may come now.
        """
        payload = self._next(_State.ENROLMENT)
        if payload is None:
            return None
        fields = Fields(parse_object(payload, limit=_LIMIT, what="message"), "enrolment")
        fields.constant("type", "enrolment")
        enrolment = Enrolment(
            fields.hex("public_key", 32),
            fields.text("token", limit=limits.SERVICE_TOKEN),
            fields.hex("proof", 64),
        )
        fields.end()
        self._state = _State.RESULT
        return enrolment

    def enrolled(self, enrolled: Enrolled) -> bytes:
        """The frame that ends the exchange well."""
        self._state = _turn(self._state, _State.RESULT, _State.DONE)
        return _frame({"type": "enrolled", "expires": enrolled.expires, "node": enrolled.node})

    def refusal(self, refusal: Refusal) -> bytes:
        """The frame that ends the exchange; possible until then at any time, after errors too."""
        if self._state is _State.DONE:
            raise RuntimeError("refusal after the end of the exchange")
        self._state = _State.DONE
        return _frame(refusal_message(refusal))

    def _next(self, expected: _State) -> bytes | None:
        try:
            if self._buffer.pending and self._state is not expected:
                raise FormatError("message when none was expected")
            payload = self._buffer.next_frame()
            if payload is not None and self._buffer.pending:
                # Each of the LAS's messages waits for an answer; nothing honest is behind it.
                raise FormatError("more than one message at once")
        except Error:
            self._state = _State.RESULT  # nothing but a refusal may follow
            raise
        return payload


def _turn(state: _State, expected: _State, to: _State) -> _State:
    if state is not expected:
        raise RuntimeError(f"out of order: state {state.name}, expected {expected.name}")
    return to


def _printable(text: str) -> str:
    return "".join(one if one.isprintable() else "?" for one in text)


def _frame(message: dict[str, Json]) -> bytes:
    return frame(encode_json(message), limit=_LIMIT)
