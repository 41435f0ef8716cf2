"""The signed statement: a LAS, or the launcher itself, says what a process is.

The level and the method are inside what is signed, so that no one on the way can change them. What
the signature is worth is decided by the verifier from the key, not by the text
(docs/formats/evidence.md, "statement").
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from crannog.errors import FormatError, IntegrityError
from crannog.evidence.envelope import Envelope
from crannog.evidence.subject import (
    Container,
    Pins,
    container_message,
    parse_container,
    parse_pins,
    pins_message,
)
from crannog.levels import Level, parse_level
from crannog.wire import Fields, encode_base64, encode_json, parse_object

MEDIA_TYPE = "application/vnd.crannog.las-statement+json"
METHOD_LAUNCHER = "launcher"
METHOD_LAS_TCP = "las/tcp"
METHOD_LAS_UNIX = "las/unix"
METHOD_WITNESS = "las/witness"
"""A LAS that found in the container runtime's own records how the process was started."""

MAX_REASON = 1000
"""Characters of a reason; a longer one is cut by who signs."""

_LABEL = b"crannog statement v1"
_LIMIT = 23 * 1024  # in base64 and signed it fits an envelope


class Statement(NamedTuple):
    """What is signed; see also `crannog.evidence.claims.Claims`.

    Attributes:
        reason: why the level is not higher, by the signer; "" at level node.
        pins: at level node those of the container's record, otherwise as the process says.
        container: whose init the process is; None where nobody looked, or at less than node.
    """

    level: Level
    method: str
    mrenclave: bytes
    report_data: bytes
    launcher: bytes
    config_id: str
    cas: str
    issued_at: int
    reason: str = ""
    pins: Pins = Pins()
    container: Container | None = None


def encode_statement(statement: Statement) -> bytes:
    """The canonical bytes that are signed."""
    return encode_json(
        {
            "type": "statement/2",
            "level": statement.level.value,
            "method": statement.method,
            "mrenclave": statement.mrenclave.hex(),
            "report_data": statement.report_data.hex(),
            "launcher": statement.launcher.hex(),
            "config_id": statement.config_id,
            "cas": statement.cas,
            "issued_at": statement.issued_at,
            "reason": statement.reason,
            "pins": pins_message(statement.pins),
            "container": None
            if statement.container is None
            else container_message(statement.container),
        }
    )


def parse_statement(data: bytes) -> Statement:
    """The statement of exactly these bytes; `FormatError` for anything but the canonical form."""
    fields = Fields(parse_object(data, limit=_LIMIT, what="statement"), "statement")
    fields.constant("type", "statement/2")
    statement = Statement(
        level=parse_level(fields.text("level", limit=40)),
        method=fields.text("method", limit=40),
        mrenclave=fields.hex("mrenclave", 32),
        report_data=fields.hex("report_data", 64),
        launcher=fields.hex("launcher", 32),
        config_id=fields.text("config_id", limit=1024),
        cas=fields.text("cas", limit=300),
        issued_at=fields.number("issued_at"),
        reason=fields.text("reason", limit=MAX_REASON),
        pins=parse_pins(fields.object("pins")),
        container=None if fields.null("container") else parse_container(fields.object("container")),
    )
    fields.end()
    if encode_statement(statement) != data:
        raise FormatError("statement is not in canonical form")
    return statement


def sign_statement(statement: Statement, key: Ed25519PrivateKey) -> Envelope:
    """The envelope of `statement` signed with `key`."""
    payload = encode_statement(statement)
    data = encode_json(
        {
            "payload": encode_base64(payload),
            "public_key": key.public_key().public_bytes_raw().hex(),
            "signature": key.sign(_signed(payload)).hex(),
        }
    )
    return Envelope(MEDIA_TYPE, data)


def open_statement(data: bytes) -> tuple[Statement, bytes]:
    """The statement in an envelope's bytes and the public key that signed it (32 bytes).

    Decides that the signature fits the key it comes with, and nothing about whose key that is.

    Raises:
        FormatError: not of this format.
        IntegrityError: the signature does not fit.
    """
    fields = Fields(
        parse_object(data, limit=2 * _LIMIT, what="signed statement"), "signed statement"
    )
    payload = fields.data("payload", limit=_LIMIT)
    public_key = fields.hex("public_key", 32)
    signature = fields.hex("signature", 64)
    fields.end()
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _signed(payload))
    except (InvalidSignature, ValueError) as error:
        raise IntegrityError("the statement's signature does not fit its key") from error
    return parse_statement(payload), public_key


def _signed(payload: bytes) -> bytes:
    # Label and lengths: a signature made here means nothing anywhere else.
    parts = (_LABEL, MEDIA_TYPE.encode(), payload)
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)
