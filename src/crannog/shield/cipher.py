"""AES-256-GCM, as `cryptography` has it, without its modules for everything else.

`cryptography.hazmat.primitives.ciphers.aead` is one assignment, and importing it imports block
ciphers, modes and their retired ones: 6 ms of every start. A test holds both to be the same class.
HMAC is `cryptography`'s as well: `hmac` and `hashlib` load a second OpenSSL, which takes 3 ms more.
"""

from __future__ import annotations

from _operator import _compare_digest as compare_digest  # which is hmac.compare_digest

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.hmac import HMAC

AESGCM = openssl.aead.AESGCM

__all__ = ["AESGCM", "InvalidTag", "compare_digest", "hmac_sha256"]


def hmac_sha256(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA-256 (RFC 2104) of `data`, 32 bytes."""
    code = HMAC(key, SHA256())
    code.update(data)
    return code.finalize()
