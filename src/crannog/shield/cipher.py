"""AES-256-GCM, as `cryptography` has it, without its modules for everything else.

`cryptography.hazmat.primitives.ciphers.aead` is one assignment, and importing it imports block
ciphers, modes and their retired ones: 6 ms of every start. A test holds both to be the same class.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.bindings._rust import openssl

AESGCM = openssl.aead.AESGCM

__all__ = ["AESGCM", "InvalidTag"]
