"""Which 32 bytes may be enrolled as a LAS's key.

A signature under a point of small order fits almost any message, so that whoever talks an operator
into enrolling one has enrolled everybody. A mistyped digit gives a point off the curve every other
time. Both are refused here, once, and not at each verification.
"""

from __future__ import annotations

from crannog.errors import FormatError
from crannog.wire import parse_hex

_HINT = "a LAS prints its key at its start: awk '/public/ {print $8}'"

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P
_I = pow(2, (_P - 1) // 4, _P)


def parse_las_key(text: str) -> bytes:
    """The Ed25519 public key that `text`, 64 hex digits, stands for.

    Raises:
        FormatError: not 64 hex digits, no point of the curve (RFC 8032 section 5.1.3), or one of
            small order.
    """
    try:
        key = parse_hex(text.strip().lower(), 32, "LAS key")
    except FormatError as error:
        error.hint = _HINT
        raise
    check_las_key(key)
    return key


def check_las_key(key: bytes) -> None:
    """Return when these 32 bytes can be a LAS's key.

    Raises:
        FormatError: no point of the curve (RFC 8032 section 5.1.3), or one of small order.
    """
    point = _decompress(key)
    if point is None:
        raise FormatError(
            f"LAS key {key.hex()} is not an Ed25519 key: no point of the curve", hint=_HINT
        )
    for _ in range(3):
        point = _double(point)
    if point[0] == 0:
        raise FormatError(
            f"LAS key {key.hex()} has small order: its signatures fit any message", hint=_HINT
        )


def _decompress(key: bytes) -> tuple[int, int] | None:
    number = int.from_bytes(key, "little")
    y, sign = number & (2**255 - 1), number >> 255
    if y >= _P:
        return None
    square = (y * y - 1) * pow(_D * y * y + 1, -1, _P) % _P
    x = pow(square, (_P + 3) // 8, _P)
    if x * x % _P != square:
        x = x * _I % _P
    if x * x % _P != square or (x == 0 and sign):
        return None
    return (_P - x if x & 1 != sign else x), y


def _double(point: tuple[int, int]) -> tuple[int, int]:
    # The complete addition law of twisted Edwards curves (a = -1), with both summands the same.
    x, y = point
    product = _D * x * x * y * y % _P
    return (
        2 * x * y * pow(1 + product, -1, _P) % _P,
        (y * y + x * x) * pow(1 - product, -1, _P) % _P,
    )
