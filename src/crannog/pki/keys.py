"""Private keys: the types that sessions may ask for, and their PKCS#8 form.

Generating takes its randomness from the operating system, inside the cryptographic library: the
one function here that is not a function of its arguments.
"""

from __future__ import annotations

from enum import Enum
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)

from crannog.errors import FormatError

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

MAX_KEY = 16 * 1024


class KeyType(Enum):
    """The key types of the reference (section 2.7), P-256 where a session says nothing."""

    P256 = "P-256"
    P384 = "P-384"
    ED25519 = "Ed25519"
    RSA2048 = "RSA-2048"
    RSA3072 = "RSA-3072"


def generate_key(kind: KeyType = KeyType.P256) -> PrivateKey:
    """A fresh private key of that type."""
    if kind is KeyType.P256:
        return ec.generate_private_key(ec.SECP256R1())
    if kind is KeyType.P384:
        return ec.generate_private_key(ec.SECP384R1())
    if kind is KeyType.ED25519:
        return ed25519.Ed25519PrivateKey.generate()
    size = 2048 if kind is KeyType.RSA2048 else 3072
    return rsa.generate_private_key(public_exponent=65537, key_size=size)


def generate_p256() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key: every key of the CAS itself."""
    return ec.generate_private_key(ec.SECP256R1())


def key_der(key: PrivateKey) -> bytes:
    """PKCS#8 (RFC 5958), DER, not encrypted: to be sealed or given to a proven program only."""
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def key_pem(key: PrivateKey) -> bytes:
    """PKCS#8, PEM, LF line ends, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def public_der(key: PrivateKey) -> bytes:
    """The SubjectPublicKeyInfo of the key's public half, DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def parse_key(data: bytes, *, what: str = "private key") -> PrivateKey:
    """The private key in PKCS#8 PEM or DER, of a type that sessions may name.

    Raises:
        FormatError: malformed, encrypted, too long or of another type. Never repeats the key.
    """
    if len(data) > MAX_KEY:
        raise FormatError(f"{what} has {len(data)} bytes, expected at most {MAX_KEY}")
    try:
        pem = data.lstrip().startswith(b"-----")
        key = load_pem_private_key(data, None) if pem else load_der_private_key(data, None)
    except Exception as error:  # the library documents no closed list
        raise FormatError(f"{what} is not an unencrypted PKCS#8 key") from error
    if not _usable(key):
        raise FormatError(
            f"{what} is of another type, expected P-256, P-384, Ed25519 or RSA of 2048 to 4096 bits"
        )
    return key  # type: ignore[return-value]  # `_usable` has looked


def _usable(key: PrivateKeyTypes) -> bool:
    if isinstance(key, rsa.RSAPrivateKey):
        return 2048 <= key.key_size <= 4096
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.curve.name in ("secp256r1", "secp384r1")
    return isinstance(key, ed25519.Ed25519PrivateKey)
