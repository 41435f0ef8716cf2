"""The operator's exchange with a running CAS, on a socket of its state directory: no I/O here.

    CAS                                     operator
      challenge(nonce)        ->
                              <-   order(action, subject, note, mac)
      done(head, mac) | refusal ->

Who has the master key may give orders, and nobody else, whatever the socket's mode: each order is
authenticated for this connection's nonce, and so is the answer. One order to a connection.
Format: docs/formats/operator.md.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple, TypeAlias

from crannog.errors import FormatError, IntegrityError
from crannog.exchange import limits
from crannog.exchange.refusal import Refusal, parse_refusal, refusal_message
from crannog.wire import Fields, FrameBuffer, Json, encode_json, frame, parse_object

PROTOCOL = "crannog-operator/1"
NONCE_SIZE = 32
_IDENTITY = 16
_SUBJECT = 200
_NOTE = 400


class Action(Enum):
    """What may be ordered."""

    LAS_ADD = "las-add"
    LAS_REMOVE = "las-remove"
    LAS_READMIT = "las-readmit"
    LAUNCHER_ADD = "launcher-add"
    LAUNCHER_REMOVE = "launcher-remove"
    LAUNCHER_CLEAR = "launcher-clear"


class Order(NamedTuple):
    """One order: `subject` is 64 hex digits, or empty where the action has none."""

    action: Action
    subject: str
    note: str


class Done(NamedTuple):
    """The order is on disk; `head` is the audit log's new head."""

    head: str


class OperatorServer:
    """The CAS's end.

    Args:
        key: what orders are authenticated with, 32 bytes.
        database: the database's identity, 16 bytes, from which the operator derives that key.
        nonce: 32 random bytes, never used before.
    """

    def __init__(self, *, key: bytes, database: bytes, nonce: bytes) -> None:
        self._key = key
        self._database = database
        self._nonce = nonce
        self._buffer = FrameBuffer(limit=limits.LAS_FRAME)

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their message."""
        return self._buffer.pending

    def challenge(self) -> bytes:
        """The first frame."""
        return _frame(
            {
                "type": "challenge",
                "protocol": PROTOCOL,
                "database": self._database.hex(),
                "nonce": self._nonce.hex(),
            }
        )

    def receive(self, data: bytes) -> None:
        """Bytes as they came from the peer."""
        self._buffer.receive(data)

    def next_event(self) -> Order | None:
        """The authentic order, or None until more bytes come.

        Raises:
            FormatError, TooLarge: it is none.
            IntegrityError: whoever sent it has not the master key, or it is another connection's.
        """
        payload = self._buffer.next_frame()
        if payload is None:
            return None
        fields = Fields(parse_object(payload, limit=limits.LAS_FRAME, what="order"), "order")
        fields.constant("type", "order")
        fields.constant("protocol", PROTOCOL)
        name = fields.text("action", limit=40)
        subject, note = fields.text("subject", limit=_SUBJECT), fields.text("note", limit=_NOTE)
        found = fields.hex("mac", 32)
        fields.end()
        if not hmac.compare_digest(found, _order_mac(self._key, self._nonce, name, subject, note)):
            raise IntegrityError(
                "the order is not authentic",
                hint="give the key provider that the CAS was started with",
            )
        try:
            action = Action(name)
        except ValueError as error:
            raise FormatError(
                f"action {name[:40]!r} is not known here",
                hint="the command line is of another release than the CAS that runs",
            ) from error
        return Order(action, subject, note)

    def done(self, done: Done) -> bytes:
        """The answer to an order that was carried out."""
        mac = _mac(self._key, (b"done", self._nonce, done.head.encode()))
        return _frame({"type": "done", "head": done.head, "mac": mac.hex()})

    def refusal(self, refusal: Refusal) -> bytes:
        """The answer to anything else."""
        return _frame(refusal_message(refusal))


class Challenge(NamedTuple):
    """What the operator answers to; `database` says which key."""

    database: bytes
    nonce: bytes


OperatorEvent: TypeAlias = Challenge | Done | Refusal


class OperatorClient:
    """The operator's end."""

    def __init__(self) -> None:
        self._buffer = FrameBuffer(limit=limits.LAS_FRAME)
        self._nonce = b""
        self._key = b""

    def receive(self, data: bytes) -> None:
        """Bytes as they came from the CAS."""
        self._buffer.receive(data)

    def next_event(self) -> OperatorEvent | None:
        """What the CAS says, or None until more bytes come.

        Raises:
            FormatError, TooLarge: no CAS speaks so.
            IntegrityError: `done` from somebody who has not the master key.
        """
        payload = self._buffer.next_frame()
        if payload is None:
            return None
        message = parse_object(payload, limit=limits.LAS_FRAME, what="message")
        kind = message.get("type")
        if kind == "refusal":
            return parse_refusal(message)
        fields = Fields(message, "message")
        if not self._nonce:
            fields.constant("type", "challenge")
            fields.constant("protocol", PROTOCOL)
            challenge = Challenge(
                fields.hex("database", _IDENTITY), fields.hex("nonce", NONCE_SIZE)
            )
            fields.end()
            self._nonce = challenge.nonce
            return challenge
        fields.constant("type", "done")
        done = Done(fields.text("head", limit=_SUBJECT))
        mac = fields.hex("mac", 32)
        fields.end()
        expected = _mac(self._key, (b"done", self._nonce, done.head.encode()))
        if not self._key or not hmac.compare_digest(mac, expected):
            raise IntegrityError("the answer does not come from the CAS of this master key")
        return done

    def order(self, order: Order, *, key: bytes) -> bytes:
        """The frame of `order`, after the challenge has come; `key` is the CAS's operator key."""
        if not self._nonce:
            raise RuntimeError("no challenge has come")
        self._key = key
        name, subject, note = order.action.value, order.subject, order.note
        return _frame(
            {
                "type": "order",
                "protocol": PROTOCOL,
                "action": name,
                "subject": subject,
                "note": note,
                "mac": _order_mac(key, self._nonce, name, subject, note).hex(),
            }
        )


def _order_mac(key: bytes, nonce: bytes, action: str, subject: str, note: str) -> bytes:
    return _mac(key, (b"order", nonce, action.encode(), subject.encode(), note.encode()))


def _mac(key: bytes, parts: Iterable[bytes]) -> bytes:
    message = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return hmac.digest(key, message, "sha256")


def _frame(message: dict[str, Json]) -> bytes:
    return frame(encode_json(message), limit=limits.LAS_FRAME)
