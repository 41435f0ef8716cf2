"""Writes the vectors of docs/formats/operator.md, with an encoder of its own.

`python -m vectors.operator.generate` writes all of them, the same every time.
"""

from __future__ import annotations

import hmac
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

Vector: TypeAlias = dict[str, object]

DIRECTORY = Path(__file__).parent
KEY = bytes(range(32))
DATABASE = bytes(range(100, 116))
NONCE = bytes(range(200, 232))
SUBJECT = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
HEAD = "4:" + "ab" * 32


def mac(*parts: bytes) -> str:
    """The MAC of an order or of an answer, hex."""
    message = b"".join(struct.pack(">I", len(part)) + part for part in parts)
    return hmac.digest(KEY, message, "sha256").hex()


def order_mac(action: str, subject: str, note: str, nonce: bytes = NONCE) -> str:
    """The MAC of an order."""
    return mac(b"order", nonce, action.encode(), subject.encode(), note.encode())


def framed(message: dict[str, object]) -> str:
    """A frame, hex."""
    text = json.dumps(message, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data = text.encode()
    return (struct.pack(">I", len(data)) + data).hex()


def order(**changes: object) -> str:
    """The frame of an order, with some fields changed after its MAC was made."""
    message: dict[str, object] = {
        "type": "order",
        "protocol": "crannog-operator/1",
        "action": "las-add",
        "subject": SUBJECT,
        "note": "node 1",
        "mac": order_mac("las-add", SUBJECT, "node 1"),
    }
    return framed({**message, **changes})


def done(**changes: object) -> str:
    """The frame of an answer, likewise."""
    message: dict[str, object] = {
        "type": "done",
        "head": HEAD,
        "mac": mac(b"done", NONCE, HEAD.encode()),
    }
    return framed({**message, **changes})


def vector(fact: str, end: str, received: Sequence[str], **outcome: object) -> Vector:
    """What an end receives, in order, and what comes of the last of it."""
    return {
        "fact": fact,
        "end": end,
        "key": KEY.hex(),
        "database": DATABASE.hex(),
        "nonce": NONCE.hex(),
        "bytes": list(received),
        **outcome,
    }


def vectors() -> dict[str, Vector]:
    """All of them by name."""
    challenge = framed(
        {
            "type": "challenge",
            "protocol": "crannog-operator/1",
            "database": DATABASE.hex(),
            "nonce": NONCE.hex(),
        }
    )
    unknown = {"action": "las-take", "mac": order_mac("las-take", SUBJECT, "node 1")}
    forged = "not-authentic"
    return {
        "order": vector(
            "an authentic order", "cas", [order()], order=["las-add", SUBJECT, "node 1"]
        ),
        "order-other-subject": vector(
            "another key than the one that was authenticated",
            "cas",
            [order(subject="aa" * 32)],
            error=forged,
        ),
        "order-other-action": vector(
            "another action than the one that was authenticated",
            "cas",
            [order(action="las-remove")],
            error=forged,
        ),
        "order-other-note": vector("another note", "cas", [order(note="")], error=forged),
        "order-other-connection": vector(
            "an order for another connection's nonce",
            "cas",
            [order(mac=order_mac("las-add", SUBJECT, "node 1", bytes(32)))],
            error=forged,
        ),
        "order-moved-text": vector(
            "the same bytes, cut at another place",
            "cas",
            [order(subject=SUBJECT + "n", note="ode 1")],
            error=forged,
        ),
        "order-unknown-action": vector(
            "an authentic order of an action that is not known",
            "cas",
            [order(**unknown)],
            error="malformed",
        ),
        "order-unknown-field": vector(
            "an unknown field", "cas", [order(by="me")], error="malformed"
        ),
        "order-other-protocol": vector(
            "another protocol", "cas", [order(protocol="crannog-operator/2")], error="malformed"
        ),
        "challenge": vector("the first message", "operator", [challenge], event="Challenge"),
        "done": vector("an order was carried out", "operator", [challenge, done()], event="Done"),
        "done-forged": vector(
            "an answer of somebody without the master key",
            "operator",
            [challenge, done(head="5:" + "ab" * 32)],
            error=forged,
        ),
        "done-at-once": vector(
            "an answer before the challenge", "operator", [done()], error="malformed"
        ),
    }


def text(vector: Vector) -> str:
    """The file's content."""
    return json.dumps(vector, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, made in vectors().items():
        (DIRECTORY / f"{name}.json").write_text(text(made))
