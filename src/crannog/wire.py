"""Bounded, strict readers and writers for bytes that come from somebody else.

Hex is lower-case and of an exact length, base64 is canonical, JSON has no duplicate keys, no
floats where none are expected and a bounded depth, and every length has a ceiling. Everything here
raises `FormatError` and nothing else on hostile input.

A *frame* is a 32-bit big-endian length in bytes followed by that many bytes; it is how messages
travel on 18765, 18766 and the LAS socket (docs/formats/frames.md).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import struct
from collections.abc import Mapping
from typing import TypeAlias, cast

from crannog.errors import FormatError, TooLarge

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

FRAME_HEADER = 4
MAX_JSON_DEPTH = 32

_HEX = "0123456789abcdef"


def parse_hex(text: object, length: int, what: str) -> bytes:
    """The `length` bytes that lower-case hex `text` stands for; `what` names it in the error.

    The value itself is not repeated in errors: keys pass through here.
    """
    if not isinstance(text, str):
        raise FormatError(f"{what} is {_kind(text)}, expected {2 * length} hex digits")
    if len(text) != 2 * length:
        raise FormatError(f"{what} has {len(text)} characters, expected {2 * length} hex digits")
    if text.strip(_HEX):
        raise FormatError(f"{what} is not lower-case hex, expected {2 * length} hex digits")
    return bytes.fromhex(text)


def parse_base64(text: object, what: str, *, limit: int) -> bytes:
    """The bytes of canonical, padded base64 (RFC 4648 section 4), at most `limit` of them."""
    if not isinstance(text, str):
        raise FormatError(f"{what} is {_kind(text)}, expected base64")
    if len(text) > 4 * ((limit + 2) // 3):
        raise TooLarge(
            f"{what} has {len(text)} characters of base64, expected at most {limit} bytes"
        )
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise FormatError(f"{what} is not base64") from error
    # No malleability: one text for one value.
    if base64.b64encode(data).decode() != text:
        raise FormatError(f"{what} is not canonical base64")
    return data


def encode_base64(data: bytes) -> str:
    """Padded base64 (RFC 4648 section 4)."""
    return base64.b64encode(data).decode("ascii")


def encode_json(value: object) -> bytes:
    """The canonical form: UTF-8, keys sorted, no spaces, no escapes that JSON does not require."""
    return _ENCODER.encode(value).encode("utf-8")


def parse_json(data: bytes, *, limit: int, what: str = "message") -> Json:
    """The JSON value of `data`, of at most `limit` bytes.

    Refuses duplicate keys, NaN and infinities, lone surrogates, more than `MAX_JSON_DEPTH` levels,
    integers of more than 20 digits, and anything after the value.
    """
    if len(data) > limit:
        raise TooLarge(f"{what} has {len(data)} bytes, expected at most {limit}")
    # Checked before parsing, since the parser recurses: brackets inside strings count too.
    if data.count(b"[") + data.count(b"{") > MAX_JSON_DEPTH and _depth(data) > MAX_JSON_DEPTH:
        raise FormatError(f"{what} is nested deeper than {MAX_JSON_DEPTH} levels")
    try:
        text = data.decode("utf-8")
        value = cast("Json", _DECODER.decode(text))
        if "\\u" in text:
            encode_json(value)  # a lone surrogate has no UTF-8
    except FormatError as error:
        raise FormatError(f"{what}: {error.message}") from error
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{what} is not JSON") from error
    return value


def parse_object(data: bytes, *, limit: int, what: str = "message") -> dict[str, Json]:
    """As `parse_json`, where the value has to be an object."""
    value = parse_json(data, limit=limit, what=what)
    if not isinstance(value, dict):
        raise FormatError(f"{what} is {_kind(value)}, expected an object")
    return value


class Fields:
    """Takes the fields of an object out by name and type, and refuses what is left over.

    Usage: take every field with `text`, `number`, …, then call `end()`.
    """

    def __init__(self, value: Mapping[str, Json], what: str) -> None:
        self._left = dict(value)
        self._what = what

    def _take(self, name: str) -> Json:
        if name not in self._left:
            raise FormatError(f"{self._what} has no field {name!r}")
        return self._left.pop(name)

    def has(self, name: str) -> bool:
        """Whether the field is still there to be taken."""
        return name in self._left

    def null(self, name: str) -> bool:
        """Whether the field, which has to be there, is null; takes it when it is."""
        if name not in self._left:
            raise FormatError(f"{self._what} has no field {name!r}")
        if self._left[name] is None:
            del self._left[name]
            return True
        return False

    def text(self, name: str, *, limit: int = 4096) -> str:
        """A string of at most `limit` characters."""
        value = self._take(name)
        if not isinstance(value, str):
            raise FormatError(f"{self._what}: {name} is {_kind(value)}, expected a string")
        if len(value) > limit:
            raise TooLarge(
                f"{self._what}: {name} has {len(value)} characters, expected at most {limit}"
            )
        return value

    def optional_text(self, name: str, *, limit: int = 4096) -> str | None:
        """A string, or None where the field is missing or null."""
        if self._left.get(name) is None:
            self._left.pop(name, None)
            return None
        return self.text(name, limit=limit)

    def number(self, name: str, *, low: int = 0, high: int = 2**63 - 1) -> int:
        """An integer from `low` to `high`."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool):
            raise FormatError(f"{self._what}: {name} is {_kind(value)}, expected an integer")
        if not low <= value <= high:
            raise FormatError(f"{self._what}: {name} is {value}, expected {low} to {high}")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self._take(name)
        if not isinstance(value, bool):
            raise FormatError(f"{self._what}: {name} is {_kind(value)}, expected true or false")
        return value

    def hex(self, name: str, length: int) -> bytes:
        """Exactly `length` bytes in lower-case hex."""
        return parse_hex(self._take(name), length, f"{self._what}: {name}")

    def data(self, name: str, *, limit: int) -> bytes:
        """At most `limit` bytes in canonical base64."""
        return parse_base64(self._take(name), f"{self._what}: {name}", limit=limit)

    def items(self, name: str, *, limit: int) -> list[Json]:
        """A list of at most `limit` values."""
        value = self._take(name)
        if not isinstance(value, list):
            raise FormatError(f"{self._what}: {name} is {_kind(value)}, expected a list")
        if len(value) > limit:
            raise TooLarge(f"{self._what}: {name} has {len(value)} items, expected at most {limit}")
        return value

    def texts(self, name: str, *, limit: int, characters: int = 4096) -> tuple[str, ...]:
        """A list of at most `limit` strings of at most `characters` each."""
        found: list[str] = []
        for item in self.items(name, limit=limit):
            if not isinstance(item, str):
                raise FormatError(f"{self._what}: {name} holds {_kind(item)}, expected strings")
            if len(item) > characters:
                raise TooLarge(f"{self._what}: {name} holds a string of {len(item)} characters")
            found.append(item)
        return tuple(found)

    def object(self, name: str) -> dict[str, Json]:
        """An object; take it apart with `Fields` of its own."""
        value = self._take(name)
        if not isinstance(value, dict):
            raise FormatError(f"{self._what}: {name} is {_kind(value)}, expected an object")
        return value

    def constant(self, name: str, expected: str) -> None:
        """The field has to be exactly `expected`: a message's type, a protocol's version."""
        value = self.text(name)
        if value != expected:
            raise FormatError(f"{self._what}: {name} is {value[:80]!r}, expected {expected!r}")

    def end(self) -> None:
        """Refuse what nobody took: unknown means refuse."""
        if self._left:
            names = ", ".join(repr(name[:40]) for name in sorted(self._left)[:5])
            raise FormatError(f"{self._what} has unknown fields: {names}")


def frame(payload: bytes, *, limit: int) -> bytes:
    """The frame of `payload`; our own message over `limit` is our bug, hence `ValueError`."""
    if len(payload) > limit:
        raise ValueError(f"frame of {len(payload)} bytes, limit {limit}")
    return struct.pack(">I", len(payload)) + payload


def frame_length(header: bytes, *, limit: int) -> int:
    """The payload's length in bytes from the 4 bytes of a header, refused when over `limit`."""
    if len(header) != FRAME_HEADER:
        raise FormatError(f"frame header has {len(header)} bytes, expected {FRAME_HEADER}")
    (length,) = struct.unpack(">I", header)
    if length > limit:
        raise TooLarge(f"frame of {length} bytes announced, expected at most {limit}")
    return int(length)


class FrameBuffer:
    """Cuts a stream of received bytes into frames; holds at most one frame plus one read."""

    def __init__(self, *, limit: int) -> None:
        self._limit = limit
        self._data = bytearray()

    def receive(self, data: bytes) -> None:
        """Add bytes as they came from the peer."""
        self._data += data

    def next_frame(self) -> bytes | None:
        """The next whole payload, or None until more bytes come."""
        if len(self._data) < FRAME_HEADER:
            return None
        length = frame_length(bytes(self._data[:FRAME_HEADER]), limit=self._limit)
        if len(self._data) < FRAME_HEADER + length:
            return None
        payload = bytes(self._data[FRAME_HEADER : FRAME_HEADER + length])
        del self._data[: FRAME_HEADER + length]
        return payload

    @property
    def pending(self) -> int:
        """How many bytes wait for the rest of their frame; 0 at a proper end of a stream."""
        return len(self._data)


def _kind(value: object) -> str:
    names = {type(None): "null", bool: "a boolean", int: "an integer", float: "a number"}
    names |= {str: "a string", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _depth(data: bytes) -> int:
    """How deep brackets are nested, those in strings left out; no deeper than is refused."""
    depth = deepest = 0
    for step in _STEP.finditer(data):
        bracket = step[1]
        if bracket in (b"[", b"{"):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_JSON_DEPTH:
                break
        elif bracket:
            depth -= 1
    return deepest


def _no_duplicates(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise FormatError("a key stands twice in one object")
    return found


def _no_constant(name: str) -> Json:
    raise FormatError(f"{name} is not JSON")


def _integer(text: str) -> int:
    if len(text) > 20:
        raise FormatError("an integer has more than 20 digits")
    return int(text)


# From one bracket to the next over all between, strings with the brackets in them. (A) Each byte is
# looked at once: nothing that was passed is given back, and a string that does not end goes to the
# end, or a message of quotes alone would keep the process busy for a minute.
_STEP = re.compile(rb'(?:[^"\[\]{}]++|"(?:[^"\\]++|\\.)*+"?)*+([\[\]{}]|\Z)', re.DOTALL)

# Made once: building them costs as much as a small message.
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False
)
_DECODER = json.JSONDecoder(
    object_pairs_hook=_no_duplicates, parse_constant=_no_constant, parse_int=_integer
)
