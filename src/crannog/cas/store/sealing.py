"""What keeps the database's contents closed and its rows in their places.

Every key is derived from the master key and the database's own random identity with HKDF-SHA-256
(RFC 5869), one label per use, so that nothing sealed or authenticated here means anything in
another database or another place. Formats: docs/formats/cas-database.md.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from crannog.errors import IntegrityError

Randomness: TypeAlias = Callable[[int], bytes]

SEALED_VERSION = b"\x01"
SALT_SIZE = 32
TAG_SIZE = 16
MAC_SIZE = 32
_NONCE_SIZE = 12
OVERHEAD = len(SEALED_VERSION) + SALT_SIZE + TAG_SIZE

# What the first record of each chain follows.
GENESIS = bytes(MAC_SIZE)


class Keys(NamedTuple):
    """The keys of one database. `repr` shows none of them.

    Attributes:
        database: the database's identity, 16 random bytes, public.
        seal: from which each sealed value's own key is derived.
        versions: authenticates the chain of session versions.
        audit: authenticates the audit chain.
        state: authenticates the row that binds both heads, the level, the CAS's keys and whom it
            trusts.
        operator: authenticates orders to a running CAS.
        check: 16 public bytes that tell a wrong master key from a changed database.
    """

    database: bytes
    seal: bytes
    versions: bytes
    audit: bytes
    state: bytes
    operator: bytes
    check: bytes

    def __repr__(self) -> str:
        return f"Keys(database={self.database.hex()})"


def derive_keys(master: bytes, database: bytes) -> Keys:
    """The keys of the database with that identity under that master key."""

    def derive(use: str, length: int = 32) -> bytes:
        return _hkdf(master, database, f"crannog cas {use} v1".encode(), length)

    return Keys(
        database=database,
        seal=derive("seal"),
        versions=derive("version chain"),
        audit=derive("audit chain"),
        state=derive("state"),
        operator=derive("operator"),
        check=derive("key check", 16),
    )


def lengths(parts: Iterable[bytes]) -> bytes:
    """The parts, each after its length in 32 bits, so that no two lists give the same bytes."""
    return b"".join(struct.pack(">I", len(part)) + part for part in parts)


def mac(key: bytes, parts: Iterable[bytes]) -> bytes:
    """HMAC-SHA-256 over the length-prefixed parts."""
    return hmac.digest(key, lengths(parts), "sha256")


def same(one: bytes, other: bytes) -> bool:
    """Whether two MACs are equal, in constant time."""
    return hmac.compare_digest(one, other)


def digest(data: bytes) -> bytes:
    """SHA-256: what a chain's record holds of a sealed value."""
    return hashlib.sha256(data).digest()


def seal(keys: Keys, identity: tuple[bytes, ...], plain: bytes, random: Randomness) -> bytes:
    """`plain` closed by AES-256-GCM, openable only as the row of that identity.

    Each value has a key and nonce of its own, derived from 32 random bytes, so that no number of
    values brings a nonce near repetition (NIST SP 800-38D section 8.3).

    Args:
        keys: the database's keys.
        identity: what the row is: its kind, its name, the session version that releases it.
        plain: what to close.
        random: randomness for the salt.
    """
    salt = random(SALT_SIZE)
    cipher, nonce = _cipher(keys, salt)
    header = SEALED_VERSION + salt
    return header + cipher.encrypt(nonce, plain, _associated(keys, identity))


def unseal(keys: Keys, identity: tuple[bytes, ...], sealed: bytes) -> bytes:
    """What was closed for exactly that identity.

    Raises:
        IntegrityError: another key, a changed byte, another row's value. It says no more.
    """
    if len(sealed) < OVERHEAD or not sealed.startswith(SEALED_VERSION):
        raise IntegrityError("sealed value is not of a format known here")
    salt = sealed[len(SEALED_VERSION) : len(SEALED_VERSION) + SALT_SIZE]
    cipher, nonce = _cipher(keys, salt)
    body = sealed[len(SEALED_VERSION) + SALT_SIZE :]
    try:
        return cipher.decrypt(nonce, body, _associated(keys, identity))
    except InvalidTag as error:
        raise IntegrityError("sealed value is not authentic") from error


def _associated(keys: Keys, identity: tuple[bytes, ...]) -> bytes:
    return lengths((b"crannog sealed v1", keys.database, *identity))


def _cipher(keys: Keys, salt: bytes) -> tuple[AESGCM, bytes]:
    material = _hkdf(keys.seal, salt, b"crannog cas sealed value v1", 32 + _NONCE_SIZE)
    return AESGCM(material[:32]), material[32:]


def _hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(hashes.SHA256(), length, salt, info).derive(secret)
