"""The short way to AES-GCM leads to the same place."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import aead

from crannog.shield import cipher


def test_cipher_is_the_public_one() -> None:
    assert cipher.AESGCM is aead.AESGCM
    assert cipher.InvalidTag is InvalidTag
