"""Whom this CAS trusts above simulation: enrolled LASes, accepted launcher releases.

A frozen list with the digest that the state row's MAC binds, so that who can write the database
but has not the master key can neither add an entry nor drop one. What an entry is worth is
`crannog.evidence`'s question. Format: docs/formats/cas-database.md.
"""

from __future__ import annotations

import functools
from enum import Enum
from typing import NamedTuple

from crannog.cas.store import sealing
from crannog.errors import AlreadyExists, FormatError, NotFound, TooLarge
from crannog.wire import Fields, encode_json, parse_hex, parse_object

MAX_ENTRIES = 4096
"""Of each kind. A transaction that changes the list writes all of it."""

MAX_NOTE = 200
_MAX_ENROLMENT = 16 * 1024


class Kind(Enum):
    """What is accepted; the values are stored."""

    LAS_KEY = "las-key"
    """A LAS that the operator has enrolled."""

    LAS_TOKEN = "las-token"
    """A LAS that a token has enrolled, until it expires."""

    LAS_BARRED = "las-barred"
    """A LAS that the operator has removed: no token enrols it."""

    LAUNCHER = "launcher"


class Enrolment(NamedTuple):
    """What the token said by which a LAS was enrolled; times in seconds since the epoch.

    Attributes:
        issuer: the cluster's name for itself.
        subject: the service account.
        node: the node of the pod.
        pod: the LAS's.
        pod_uid: likewise.
        issued: when the token was issued.
        expires: from when on the key counts no more.
    """

    issuer: str
    subject: str
    node: str
    pod: str
    pod_uid: str
    issued: int
    expires: int

    @property
    def place(self) -> tuple[str, str, str]:
        """Where there is one LAS at a time: a node, as that cluster and service account has it."""
        return self.issuer, self.subject, self.node

    def encode(self) -> str:
        """The canonical JSON that is stored and bound."""
        return _encoded(self)


@functools.lru_cache(2 * MAX_ENTRIES)
def _encoded(enrolment: Enrolment) -> str:
    # A change of one entry binds all of them anew; the others are what they were.
    return encode_json(enrolment._asdict()).decode()


class Entry(NamedTuple):
    """One accepted key or digest.

    Attributes:
        kind: which of them.
        value: 64 lower-case hex digits: an Ed25519 public key, or a launcher's digest.
        note: what the operator wrote about it; may be empty.
        added: when, as `records.timestamp` writes it.
        enrolment: of `LAS_TOKEN` always; of `LAS_KEY` and `LAS_BARRED` the last token that this key
            was shown with, where there was one; of `LAUNCHER` never.
    """

    kind: Kind
    value: str
    note: str
    added: str
    enrolment: Enrolment | None = None


class Accepted:
    """All entries; never changed, each change makes another.

    Attributes:
        entries: ordered by kind, then value.
        las_keys: the keys that the operator has enrolled, 32 bytes each. Those that tokens have
            enrolled count until they expire: `enrolments.live_keys`.
        launchers: the accepted digests, 32 bytes each.
    """

    __slots__ = ("_by_name", "_digest", "entries", "las_keys", "launchers")

    def __init__(self, entries: tuple[Entry, ...] = ()) -> None:
        self.entries = tuple(sorted(entries, key=lambda one: (one.kind.value, one.value)))
        self._by_name = {(one.kind, one.value): one for one in self.entries}
        self._digest: bytes | None = None
        self.las_keys = self._values(Kind.LAS_KEY)
        self.launchers = self._values(Kind.LAUNCHER)

    @property
    def digest(self) -> bytes:
        """Binds all entries; empty where there is none, as in databases of the first schema."""
        if self._digest is None:
            self._digest = _digest(self.entries) if self.entries else b""
        return self._digest

    def is_full(self, kind: Kind) -> bool:
        """Whether `with_entry` refuses a further one of that kind."""
        return len(self.of(kind)) >= MAX_ENTRIES

    def of(self, kind: Kind) -> tuple[Entry, ...]:
        """The entries of one kind, in the order of their values."""
        return tuple(one for one in self.entries if one.kind is kind)

    def find(self, kind: Kind, value: str) -> Entry | None:
        """That entry, or None."""
        return self._by_name.get((kind, value))

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
        if self.is_full(entry.kind):
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


NAMES = {
    Kind.LAS_KEY: "LAS key",
    Kind.LAS_TOKEN: "LAS key",
    Kind.LAS_BARRED: "removed LAS key",
    Kind.LAUNCHER: "launcher digest",
}
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


def stored_entry(
    kind: object, value: object, note: object, added: object, enrolment: object = ""
) -> Entry:
    """The entry of a row; `ValueError`, `TypeError` or `FormatError` where it can be none."""
    if not (isinstance(value, str) and isinstance(note, str) and isinstance(added, str)):
        raise TypeError("not texts")
    if not isinstance(enrolment, str):
        raise TypeError("not a text")
    parse_hex(value, 32, "accepted value")
    found = Kind(kind)
    if found is Kind.LAUNCHER and enrolment:
        raise ValueError("an enrolment where there can be none")
    if found is not Kind.LAS_TOKEN and not enrolment:
        return Entry(found, value, note, added)
    return Entry(found, value, note, added, _parse_enrolment(enrolment))


def _parse_enrolment(text: str) -> Enrolment:
    data = text.encode("utf-8", "replace")
    fields = Fields(parse_object(data, limit=_MAX_ENROLMENT, what="enrolment"), "enrolment")
    issuer, subject = fields.text("issuer"), fields.text("subject")
    node, pod, pod_uid = fields.text("node"), fields.text("pod"), fields.text("pod_uid")
    enrolment = Enrolment(
        issuer, subject, node, pod, pod_uid, fields.number("issued"), fields.number("expires")
    )
    fields.end()
    if enrolment.encode() != text:
        raise FormatError("enrolment is not in canonical form")
    return enrolment


def _digest(entries: tuple[Entry, ...]) -> bytes:
    return sealing.digest(sealing.lengths(part.encode() for one in entries for part in _parts(one)))


def _parts(entry: Entry) -> tuple[str, ...]:
    # An enrolment begins with a brace, which no kind does, so no two lists give the same parts.
    parts = (entry.kind.value, entry.value, entry.note, entry.added)
    return parts if entry.enrolment is None else (*parts, entry.enrolment.encode())
