"""Writes the vectors of docs/formats/cas-database.md, with an encoder of its own.

`python -m vectors.cas.generate` writes all of them, the same every time.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

Vector: TypeAlias = dict[str, object]

DIRECTORY = Path(__file__).parent
MASTER = bytes(range(32))
DATABASE = bytes(range(100, 116))
SALT = bytes(range(200, 232))
ZERO = bytes(32)
USES = {
    "seal": 32,
    "version chain": 32,
    "audit chain": 32,
    "state": 32,
    "operator": 32,
    "key check": 16,
}


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 with SHA-256, for at most two blocks."""
    extracted = hmac.digest(salt, secret, "sha256")
    first = hmac.digest(extracted, info + b"\1", "sha256")
    second = hmac.digest(extracted, first + info + b"\2", "sha256")
    return (first + second)[:length]


def derived(use: str) -> bytes:
    """The key of the database for that use."""
    return hkdf(MASTER, DATABASE, b"crannog cas " + use.encode() + b" v1", USES[use])


def parts(values: Sequence[bytes]) -> bytes:
    """Each value after its length."""
    return b"".join(struct.pack(">I", len(value)) + value for value in values)


def number(value: int) -> bytes:
    """64 bits, big-endian."""
    return struct.pack(">Q", value)


def sealed(row: Sequence[bytes], plain: bytes, *, database: bytes = DATABASE) -> bytes:
    """`plain`, sealed for that row."""
    material = hkdf(derived("seal"), SALT, b"crannog cas sealed value v1", 44)
    associated = parts([b"crannog sealed v1", database, *row])
    return b"\1" + SALT + AESGCM(material[:32]).encrypt(material[32:], plain, associated)


ROW = (b"document", b"hello", number(1), b"ab" * 32)


def sealed_vector(fact: str, expect: str, data: bytes, row: Sequence[bytes] = ROW) -> Vector:
    """A sealed value and what opening it gives."""
    return {
        "fact": fact,
        "expect": expect,
        "kind": "sealed",
        "master": MASTER.hex(),
        "database": DATABASE.hex(),
        "row": [part.hex() for part in row],
        "sealed": data.hex(),
        "plain": b"the document".hex(),
    }


def sealed_vectors() -> dict[str, Vector]:
    """Sealed values: one that opens, and how others do not."""
    good = sealed(ROW, b"the document")
    flipped = good[:40] + bytes([good[40] ^ 1]) + good[41:]
    refused = "not-authentic"
    return {
        "sealed": sealed_vector("a sealed document opens for its row", "success", good),
        "sealed-flipped": sealed_vector("a flipped bit in the ciphertext", refused, flipped),
        "sealed-salt": sealed_vector(
            "a flipped bit in the salt", refused, good[:5] + bytes([good[5] ^ 1]) + good[6:]
        ),
        "sealed-cut": sealed_vector("the last byte is missing", refused, good[:-1]),
        "sealed-short": sealed_vector("shorter than any sealed value", refused, good[:48]),
        "sealed-version": sealed_vector("an unknown format", refused, b"\2" + good[1:]),
        "sealed-other-kind": sealed_vector(
            "the secrets of the same version", refused, good, (b"secrets", *ROW[1:])
        ),
        "sealed-other-version": sealed_vector(
            "the same session's second version", refused, good, (*ROW[:2], number(2), ROW[3])
        ),
        "sealed-other-database": sealed_vector(
            "another database under the same master key",
            refused,
            sealed(ROW, b"the document", database=ZERO[:16]),
        ),
    }


def chain_vectors() -> dict[str, Vector]:
    """MACs of two versions, two records and the state that binds them."""
    versions, previous = [], ZERO
    for sequence, (session, count, predecessor) in enumerate(
        [("hello", 1, ""), ("hello", 2, "11" * 32)], 1
    ):
        digests = [hashlib.sha256(f"{kind} {count}".encode()).digest() for kind in "ds"]
        session_hash = f"{count}{count}" * 32
        created = "2026-01-31T12:00:00.000000Z"
        previous = hmac.digest(
            derived("version chain"),
            parts(
                [
                    previous,
                    number(sequence),
                    session.encode(),
                    number(count),
                    session_hash.encode(),
                    predecessor.encode(),
                    created.encode(),
                    *digests,
                ]
            ),
            "sha256",
        )
        versions.append(
            {
                "sequence": sequence,
                "name": session,
                "number": count,
                "hash": session_hash,
                "predecessor": predecessor,
                "created": created,
                "document": digests[0].hex(),
                "secrets": digests[1].hex(),
                "mac": previous.hex(),
            }
        )
    records, head = [], ZERO
    for sequence, record in enumerate(
        [
            '{"at":"2026-01-31T12:00:00.000000Z","event":"database created"}',
            '{"at":"2026-01-31T12:00:01.000000Z","event":"session read","session":"hello"}',
        ],
        1,
    ):
        message = parts([head, number(sequence), record.encode()])
        head = hmac.digest(derived("audit chain"), message, "sha256")
        records.append({"sequence": sequence, "record": record, "mac": head.hex()})
    authority = hashlib.sha256(parts([b"cas", b"certificate", b"sealed"])).digest()
    bound = [
        DATABASE,
        derived("key check"),
        b"simulation",
        authority,
        number(2),
        previous,
        number(2),
        head,
    ]
    state = hmac.digest(derived("state"), parts(bound), "sha256")
    accepted = [
        ["las-key", "aa" * 32, "node 1", "2026-01-31T12:00:02.000000Z"],
        ["las-key", "bb" * 32, "", "2026-01-31T12:00:01.000000Z"],
        ["launcher", "0f" * 32, "release 1", "2026-01-31T12:00:03.000000Z"],
    ]
    listed = hashlib.sha256(parts([text.encode() for row in accepted for text in row])).digest()
    trusting = hmac.digest(derived("state"), parts([*bound, listed]), "sha256")
    return {
        "chains": {
            "fact": "two versions, two audit records, and the state that binds both heads",
            "expect": "success",
            "kind": "chains",
            "master": MASTER.hex(),
            "database": DATABASE.hex(),
            "versions": versions,
            "records": records,
            "level": "simulation",
            "authority": [["cas", b"certificate".hex(), b"sealed".hex()]],
            "state": state.hex(),
            "accepted": accepted,
            "state_with_accepted": trusting.hex(),
            "head": f"2:{head.hex()}",
        }
    }


def key_vectors() -> dict[str, Vector]:
    """The keys that a master key and a database's identity give."""
    return {
        "keys": {
            "fact": "the keys of a database",
            "expect": "success",
            "kind": "keys",
            "master": MASTER.hex(),
            "database": DATABASE.hex(),
            "keys": {use: derived(use).hex() for use in USES},
        }
    }


def vectors() -> dict[str, Vector]:
    """All of them by name."""
    return sealed_vectors() | chain_vectors() | key_vectors()


def text(vector: Vector) -> str:
    """The file's content."""
    return json.dumps(vector, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, vector in vectors().items():
        (DIRECTORY / f"{name}.json").write_text(text(vector))
