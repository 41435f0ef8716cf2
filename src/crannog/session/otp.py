"""One-time passwords by time (RFC 6238): the codes of a shared secret. Pure; the clock is given.

SHA-1, 6 digits, time-steps of 30 seconds, as authenticator programs take them without being asked.
Who may use a code, and how often, is the question of `crannog.cas.passwords`.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import struct

DIGITS = 6
STEP_SECONDS = 30
MIN_BYTES = 16
MAX_BYTES = 128


def parse_shared_secret(text: str) -> str | None:
    """A base32 text (RFC 4648 section 6) in one form: upper case, without padding.

    Args:
        text: in either case, with or without padding.

    Returns:
        None where it is no base32, or stands for fewer than 16 bytes or more than 128.
    """
    bare = text.upper().rstrip("=")
    if len(text) > 2 * MAX_BYTES or len(text) - len(bare) > 6:
        return None
    try:
        key = base64.b32decode(_padded(bare))
    except (binascii.Error, ValueError):
        return None
    # Bits that no byte holds: two texts would be one secret.
    if base64.b32encode(key).decode().rstrip("=") != bare:
        return None
    return bare if MIN_BYTES <= len(key) <= MAX_BYTES else None


def time_step(seconds: float) -> int:
    """The number of the time-step at `seconds` since the epoch."""
    return int(seconds // STEP_SECONDS)


def one_time_password(shared_secret: str, step: int) -> str:
    """The code of that time-step: 6 digits.

    Args:
        shared_secret: as `parse_shared_secret` gives it.
        step: see `time_step`; not negative.
    """
    mac = hmac.digest(base64.b32decode(_padded(shared_secret)), struct.pack(">Q", step), "sha1")
    # RFC 4226 section 5.3: four bytes from where the last half byte says, the top bit left out.
    (number,) = struct.unpack_from(">I", mac, mac[-1] & 0xF)
    return f"{(number & 0x7FFFFFFF) % 10**DIGITS:0{DIGITS}d}"


def _padded(bare: str) -> str:
    return bare + "=" * (-len(bare) % 8)
