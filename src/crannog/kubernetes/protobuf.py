"""The part of the protocol buffers' wire format that the kubelet's device plugin API uses.

Texts, flags, messages and maps of texts, in proto3. Decides what is well-formed, and passes over
fields that it does not know, as the format wants. What a field means is `messages`' question.
ADR 1011 says why this is not the protobuf library; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from crannog.errors import FormatError

_VARINT = 0
_FIXED64 = 1
_BYTES = 2
_FIXED32 = 5
_FIXED_SIZE = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT = 10


def text(number: int, value: str) -> bytes:
    """A field with a text; nothing at all where it is empty, as proto3 does."""
    return _bytes(number, value.encode()) if value else b""


def flag(number: int, value: bool) -> bytes:
    """A field with true; nothing at all for false."""
    return _varint(number << 3 | _VARINT) + b"\x01" if value else b""


def texts(number: int, values: Iterable[str]) -> bytes:
    """A repeated field; empty ones count."""
    return b"".join(_bytes(number, value.encode()) for value in values)


def messages(number: int, values: Iterable[bytes]) -> bytes:
    """A repeated field of messages that are encoded already; one of them is a single field."""
    return b"".join(_bytes(number, value) for value in values)


def mapping(number: int, values: Mapping[str, str]) -> bytes:
    """A map of texts, in the order of its keys so that the same map has the same bytes."""
    return messages(number, (text(1, key) + text(2, values[key]) for key in sorted(values)))


class Fields:
    """The fields of one message, by number.

    Args:
        data: the message's bytes.
        what: names it in errors.

    Raises:
        FormatError: a field is cut off, or of a type that proto3 does not have.
    """

    def __init__(self, data: bytes, what: str) -> None:
        self._what = what
        self._found: dict[int, list[bytes | int]] = {}
        position = 0
        while position < len(data):
            start = position
            tag, position = self._read_varint(data, position)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise FormatError(f"{what}: {number} is no field's number", offset=start)
            value: bytes | int
            if kind == _VARINT:
                value, position = self._read_varint(data, position)
            else:
                length = _FIXED_SIZE.get(kind)
                if length is None:
                    if kind != _BYTES:
                        raise FormatError(f"{what}: wire type {kind} is unknown", offset=start)
                    length, position = self._read_varint(data, position)
                if length > len(data) - position:
                    raise FormatError(f"{what}: field {number} is cut off", offset=start)
                value = data[position : position + length]
                position += length
            self._found.setdefault(number << 3 | kind, []).append(value)

    def text(self, number: int) -> str:
        """A text; the last one where there are several, empty where there is none."""
        found = self.texts(number)
        return found[-1] if found else ""

    def texts(self, number: int) -> tuple[str, ...]:
        """A repeated field of texts."""
        try:
            return tuple(each.decode() for each in self.messages(number))
        except UnicodeDecodeError as error:
            raise FormatError(f"{self._what}: field {number} is not UTF-8") from error

    def flag(self, number: int) -> bool:
        """True or false; false where it is missing."""
        found = self._of_kind(number, _VARINT)
        return bool(found and found[-1])

    def messages(self, number: int) -> tuple[bytes, ...]:
        """A repeated field of messages, each still encoded."""
        return tuple(each for each in self._of_kind(number, _BYTES) if isinstance(each, bytes))

    def mapping(self, number: int) -> dict[str, str]:
        """A map of texts; the later of two entries with one key counts."""
        entries = (Fields(entry, self._what) for entry in self.messages(number))
        return {entry.text(1): entry.text(2) for entry in entries}

    def _of_kind(self, number: int, kind: int) -> list[bytes | int]:
        for other in (_VARINT, _FIXED64, _BYTES, _FIXED32):
            if other != kind and number << 3 | other in self._found:
                raise FormatError(
                    f"{self._what}: field {number} has wire type {other}, expected {kind}"
                )
        return self._found.get(number << 3 | kind, [])

    def _read_varint(self, data: bytes, position: int) -> tuple[int, int]:
        value = 0
        for count in range(_MAX_VARINT):
            if position + count >= len(data):
                raise FormatError(f"{self._what}: a number is cut off", offset=position)
            byte = data[position + count]
            value |= (byte & 0x7F) << 7 * count
            if byte < 0x80:
                return value & (1 << 64) - 1, position + count + 1
        raise FormatError(f"{self._what}: a number has more than 10 bytes", offset=position)


def _bytes(number: int, value: bytes) -> bytes:
    return _varint(number << 3 | _BYTES) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
