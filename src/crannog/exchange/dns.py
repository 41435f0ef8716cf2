"""DNS messages as a stub resolver needs them (RFC 1035, 3596): one question, and its answer.

Decides which bytes are the answer to a question that was asked, and which addresses it gives. Pure:
identity and the mixed case of the name come from the caller, who also sends, waits and tries again.
No EDNS: an answer that does not fit into a datagram says so and is asked for again over TCP.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from crannog.errors import FormatError

NO_ERROR = 0
NO_SUCH_NAME = 3

MAX_ADDRESSES = 32
_MAX_NAME = 255  # bytes, RFC 1035 section 3.1
_MAX_LABEL = 63
_MAX_RECORDS = 512
_MAX_LINKS = 16  # CNAMEs after one another
_HEADER = 12
_QUESTION = 4  # bytes after the name: type and class
_RECORD = 10  # bytes after the name: type, class, time to live, length
_INTERNET = 1
_CNAME = 5
_RESPONSE = 0x8000
_OPCODE = 0x7800
_TRUNCATED = 0x0200
_RECURSION_DESIRED = 0x0100
_LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")


class Kind(IntEnum):
    """What is asked for."""

    A = 1
    AAAA = 28


class Answer(NamedTuple):
    """What a server answered.

    Attributes:
        code: the response code; `NO_ERROR`, `NO_SUCH_NAME` or that of a failure.
        truncated: it did not fit; nothing of it was read.
        exact: the name came back in the letters' case in which it was sent.
        addresses: 4 or 16 bytes each, in the server's order, at most `MAX_ADDRESSES`.
    """

    code: int
    truncated: bool
    exact: bool
    addresses: tuple[bytes, ...]


def encode_name(name: str) -> bytes:
    """The name on the wire; one trailing dot is the root's and means nothing more here.

    Raises:
        FormatError: not the name of a host: an empty or too long label, other characters than
            letters, digits, `-` and `_`, or too long as a whole.
    """
    encoded = bytearray()
    for label in name.removesuffix(".").split("."):
        raw = label.encode("utf-8", "surrogateescape")
        if not 0 < len(raw) <= _MAX_LABEL:
            raise FormatError(f"host name {name[:80]!r} has a part of {len(raw)} bytes")
        if not _LETTERS.issuperset(raw.lower()):
            raise FormatError(
                f"host name {name[:80]!r} has other characters than letters, digits, - and _",
                hint="names in other scripts are spelled xn--… in the DNS",
            )
        encoded += bytes((len(raw),)) + raw
    encoded.append(0)
    if len(encoded) > _MAX_NAME:
        raise FormatError(f"host name has {len(encoded)} bytes, expected at most {_MAX_NAME}")
    return bytes(encoded)


def mix_case(name: bytes, random: bytes) -> bytes:
    """The name with each letter's case by a bit of `random`, which who guesses has to guess too.

    Args:
        name: as `encode_name` made it.
        random: at least a bit for each byte of the name.
    """
    bits = int.from_bytes(random, "big")
    mixed = bytearray(name)
    # A label's length is at most 63 and so below every letter.
    for position, byte in enumerate(name):
        if chr(byte).isalpha() and bits >> position & 1:
            mixed[position] = byte ^ 0x20
    return bytes(mixed)


def encode_query(identity: int, name: bytes, kind: Kind) -> bytes:
    """The question for a recursive server; `identity` is 16 random bits."""
    return (
        identity.to_bytes(2, "big")
        + _RECURSION_DESIRED.to_bytes(2, "big")
        + b"\x00\x01\x00\x00\x00\x00\x00\x00"
        + name
        + int(kind).to_bytes(2, "big")
        + _INTERNET.to_bytes(2, "big")
    )


def parse_answer(data: bytes, *, identity: int, name: bytes, kind: Kind) -> Answer:
    """The answer to the question of `encode_query` with the same arguments.

    CNAMEs in it are followed, whatever their order. Authority and additional records are not read.

    Raises:
        FormatError: not an answer to this question, or malformed. Whoever waits on a datagram
            socket goes on waiting: anybody may have sent it.
    """
    if len(data) < _HEADER:
        raise FormatError(f"DNS message has {len(data)} bytes, expected at least {_HEADER}")
    flags = _number(data, 2)
    if _number(data, 0) != identity or not flags & _RESPONSE or flags & _OPCODE:
        raise FormatError("DNS message is not the answer to this question")
    code = flags & 15
    if _number(data, 4) == 0 and code not in (NO_ERROR, NO_SUCH_NAME):
        return Answer(code, False, True, ())  # some servers repeat nothing when they refuse
    if _number(data, 4) != 1:
        raise FormatError("DNS answer does not repeat its question", offset=4)
    asked, position = _read_name(data, _HEADER)
    if asked.lower() != name.lower() or _number(data, position) != kind:
        raise FormatError("DNS answer is to another question", offset=_HEADER)
    if _number(data, position + 2) != _INTERNET:
        raise FormatError("DNS answer is of another class", offset=position + 2)
    exact = asked == name
    if flags & _TRUNCATED:
        return Answer(code, True, exact, ())
    records = _number(data, 6)
    if records > _MAX_RECORDS:
        raise FormatError(f"DNS answer has {records} records, expected at most {_MAX_RECORDS}")
    found = _read_records(data, position + _QUESTION, records, kind)
    return Answer(code, False, exact, found.addresses(asked.lower()))


class _Records:
    """The answer section: addresses and aliases by owner, in lower case."""

    def __init__(self) -> None:
        self.hosts: dict[bytes, list[bytes]] = {}
        self.aliases: dict[bytes, bytes] = {}

    def addresses(self, name: bytes) -> tuple[bytes, ...]:
        for _ in range(_MAX_LINKS + 1):
            if name in self.hosts:
                return tuple(self.hosts[name][:MAX_ADDRESSES])
            if name not in self.aliases:
                return ()
            name = self.aliases[name]
        raise FormatError(f"DNS answer has more than {_MAX_LINKS} aliases in a row")


def _read_records(data: bytes, position: int, count: int, kind: Kind) -> _Records:
    found = _Records()
    size = 4 if kind is Kind.A else 16
    for _ in range(count):
        owner, position = _read_name(data, position)
        what, space = _number(data, position), _number(data, position + 2)
        length = _number(data, position + 8)
        start = position + _RECORD
        position = start + length
        if position > len(data):
            raise FormatError("DNS answer ends within a record", offset=start)
        if space != _INTERNET:
            continue
        if what == kind:
            if length != size:
                raise FormatError(f"DNS address has {length} bytes, expected {size}", offset=start)
            found.hosts.setdefault(owner.lower(), []).append(data[start:position])
        elif what == _CNAME:
            target, end = _read_name(data, start)
            if end != position:
                raise FormatError("DNS alias has another length than its record", offset=start)
            found.aliases.setdefault(owner.lower(), target.lower())
    return found


def _read_name(data: bytes, position: int) -> tuple[bytes, int]:
    """The name at `position` without compression, and where the bytes after it begin.

    A pointer has to lead to before where the name, or its part so far, began, so that it ends.
    """
    name = bytearray()
    end = -1
    begun = position
    while True:
        if position >= len(data):
            raise FormatError("DNS message ends within a name", offset=position)
        length = data[position]
        if length & 0xC0 == 0xC0:
            target = _number(data, position) & 0x3FFF
            end = position + 2 if end < 0 else end
            if target >= begun:
                raise FormatError("DNS name points forward or to itself", offset=position)
            begun = position = target
            continue
        if length > _MAX_LABEL:
            raise FormatError(f"DNS label of type {length >> 6}", offset=position)
        after = position + 1 + length
        name += data[position:after]
        if after > len(data) or len(name) > _MAX_NAME:
            raise FormatError("DNS name is too long", offset=position)
        position = after
        if length == 0:
            return bytes(name), position if end < 0 else end


def _number(data: bytes, position: int) -> int:
    if position + 2 > len(data):
        raise FormatError("DNS message is cut off", offset=position)
    return int.from_bytes(data[position : position + 2], "big")
