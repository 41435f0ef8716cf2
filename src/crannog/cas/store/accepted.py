"""Whom this CAS trusts above simulation: enrolled LASes, accepted launcher releases.

A frozen list with the digest that the state row's MAC binds, so that who can write the database
but has not the master key can neither add an entry nor drop one. What an entry is worth is
`crannog.evidence`'s question. Format: docs/formats/cas-database.md.
"""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple

from crannog.cas.store import sealing
from crannog.errors import AlreadyExists, FormatError, NotFound, TooLarge
from crannog.wire import parse_hex

MAX_ENTRIES = 4096
"""Of each kind. A transaction that changes the list writes all of it."""

MAX_NOTE = 200


class Kind(Enum):
    """What is accepted; the values are stored."""

    LAS_KEY = "las-key"
    LAUNCHER = "launcher"


class Entry(NamedTuple):
    """One accepted key or digest.

    Attributes:
        kind: which of the two.
        value: 64 lower-case hex digits: an Ed25519 public key, or a launcher's digest.
        note: what the operator wrote about it; may be empty.
        added: when, as `records.timestamp` writes it.
    """

    kind: Kind
    value: str
    note: str
    added: str


class Accepted:
    """All entries; never changed, each change makes another.

    Attributes:
        entries: ordered by kind, then value.
        digest: binds all of them; empty where there is none, as in databases of the first schema.
        las_keys: the enrolled keys, 32 bytes each.
        launchers: the accepted digests, 32 bytes each.
    """

    __slots__ = ("_by_name", "digest", "entries", "las_keys", "launchers")

    def __init__(self, entries: tuple[Entry, ...] = ()) -> None:
        self.entries = tuple(sorted(entries, key=lambda one: (one.kind.value, one.value)))
        self._by_name = {(one.kind, one.value): one for one in self.entries}
        self.digest = _digest(self.entries) if entries else b""
        self.las_keys = self._values(Kind.LAS_KEY)
        self.launchers = self._values(Kind.LAUNCHER)

    def of(self, kind: Kind) -> tuple[Entry, ...]:
        """The entries of one kind, in the order of their values."""
        return tuple(one for one in self.entries if one.kind is kind)

    def with_entry(self, entry: Entry) -> Accepted:
        """The list with `entry` in it.

        Raises:
            AlreadyExists: it is there.
            TooLarge: there are `MAX_ENTRIES` of its kind.
        """
        found = self._by_name.get((entry.kind, entry.value))
        if found is not None:
            note = f" ({found.note})" if found.note else ""
            raise AlreadyExists(
                f"{NAMES[entry.kind]} {entry.value} is accepted since {found.added}{note}",
                hint="nothing was changed; remove it first to write another note",
            )
        if len(self.of(entry.kind)) >= MAX_ENTRIES:
            raise TooLarge(
                f"{MAX_ENTRIES} entries of kind {entry.kind.value} are accepted, expected no more",
                hint="remove those that are not used any more",
            )
        return Accepted((*self.entries, entry))

    def without(self, kind: Kind, value: str) -> Accepted:
        """The list without that entry.

        Raises:
            NotFound: it is not there.
        """
        if (kind, value) not in self._by_name:
            raise NotFound(
                f"{NAMES[kind]} {value} is not accepted by this CAS",
                hint=f"crannog cas {COMMANDS[kind]} list prints those that are",
            )
        return Accepted(
            tuple(one for one in self.entries if (one.kind, one.value) != (kind, value))
        )

    def without_kind(self, kind: Kind) -> Accepted:
        """The list without any entry of that kind."""
        return Accepted(tuple(one for one in self.entries if one.kind is not kind))

    def _values(self, kind: Kind) -> frozenset[bytes]:
        return frozenset(bytes.fromhex(one.value) for one in self.of(kind))


NAMES = {Kind.LAS_KEY: "LAS key", Kind.LAUNCHER: "launcher digest"}
COMMANDS = {Kind.LAS_KEY: "las", Kind.LAUNCHER: "launcher"}
NOTHING = Accepted()


def make_entry(kind: Kind, value: bytes, note: str, added: str) -> Entry:
    """An entry that may be stored.

    Raises:
        FormatError: the note is too long, or not one line of printable text.
    """
    if len(note) > MAX_NOTE or not note.isprintable():
        raise FormatError(
            f"the note has {len(note)} characters, expected one line of at most {MAX_NOTE} "
            "printable ones"
        )
    return Entry(kind, value.hex(), note, added)


def stored_entry(kind: object, value: object, note: object, added: object) -> Entry:
    """The entry of a row; `ValueError`, `TypeError` or `FormatError` where it can be none."""
    if not (isinstance(value, str) and isinstance(note, str) and isinstance(added, str)):
        raise TypeError("not texts")
    parse_hex(value, 32, "accepted value")
    return Entry(Kind(kind), value, note, added)


def _digest(entries: tuple[Entry, ...]) -> bytes:
    return sealing.digest(
        sealing.lengths(
            part.encode()
            for one in entries
            for part in (one.kind.value, one.value, one.note, one.added)
        )
    )
