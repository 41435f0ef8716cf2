"""The hash that names a public key, and Base58Check (Bitcoin's alphabet), how it is written.

`version byte ‖ payload ‖ first 4 bytes of SHA-256(SHA-256(version ‖ payload))`, as one big-endian
number in base 58; each leading zero byte is a leading `1`. The checksum is against typing errors
only; it proves nothing about who wrote the text.
"""

from __future__ import annotations

import hashlib

from crannog.errors import FormatError

KEY_HASH_VERSION = 0x01
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_CHECKSUM = 4
# 1 + 64 + 4 bytes have at most 95 digits; nothing longer is ever written here.
MAX_CHARACTERS = 100


def key_hash(spki: bytes) -> str:
    """The hash of the key whose SubjectPublicKeyInfo (RFC 5280 section 4.1) is `spki`, DER.

    Base58Check, version 0x01, of SHA-256 over the DER: about 50 characters. The outer form is the
    reference's; what it hashes there is not public, so that a hash that `scone` printed matches
    nobody here (docs/adr/0103-key-hashes.md).
    """
    return encode_check(KEY_HASH_VERSION, hashlib.sha256(spki).digest())


def parse_key_hash(text: str, *, what: str = "key hash") -> bytes:
    """The 32 bytes of a key hash; `FormatError` where it is not one."""
    return decode_check(text, version=KEY_HASH_VERSION, length=32, what=what)


def encode_check(version: int, payload: bytes) -> str:
    """The Base58Check text of `payload` under the version byte `version` (0 to 255)."""
    data = bytes([version]) + payload
    data += _checksum(data)
    number = int.from_bytes(data, "big")
    digits: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        digits.append(_ALPHABET[digit])
    zeros = len(data) - len(data.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def decode_check(text: str, *, version: int, length: int, what: str) -> bytes:
    """The `length` bytes of payload that `text` stands for; `what` names it in the error.

    Raises:
        FormatError: another alphabet, length, version byte or checksum.
    """
    if len(text) > MAX_CHARACTERS:
        raise FormatError(f"{what} has {len(text)} characters, expected at most {MAX_CHARACTERS}")
    number = 0
    for character in text:
        value = _VALUES.get(character)
        if value is None:
            raise FormatError(f"{what} is not base58: {character!r} is not in its alphabet")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    data = b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")
    if len(data) != 1 + length + _CHECKSUM:
        raise FormatError(
            f"{what} holds {max(len(data) - 1 - _CHECKSUM, 0)} bytes, expected {length}"
        )
    body, checksum = data[:-_CHECKSUM], data[-_CHECKSUM:]
    if _checksum(body) != checksum:
        raise FormatError(f"{what} has a wrong checksum: mistyped or cut off")
    if body[0] != version:
        raise FormatError(f"{what} has version byte {body[0]:#04x}, expected {version:#04x}")
    return body[1:]


def _checksum(data: bytes) -> bytes:
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()[:_CHECKSUM]
