"""The short way to AES-GCM leads to the same place."""

from __future__ import annotations

import hmac

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import aead

from crannog.shield import cipher


def test_cipher_is_the_public_one() -> None:
    assert cipher.AESGCM is aead.AESGCM
    assert cipher.InvalidTag is InvalidTag


def test_hmac_and_comparison_are_the_librarys() -> None:
    for data in (b"", b"x" * 1000):
        assert cipher.hmac_sha256(b"k" * 32, data) == hmac.digest(b"k" * 32, data, "sha256")
    assert cipher.compare_digest(b"ab", b"ab")
    assert not cipher.compare_digest(b"ab", b"ac")
    assert not cipher.compare_digest(b"ab", b"a")
