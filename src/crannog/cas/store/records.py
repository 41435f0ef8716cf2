"""The rows that are chained, and what exactly each MAC covers.

Two chains, each record authenticated together with its predecessor's MAC, and one state row that
binds both heads, the minimum level, the CAS's keys and whom it trusts. Who can write the database
but has not the master key can drop everything after some point and put the state row of that time
back, which is a rollback of the whole database and is detected by a head that somebody has kept
(`AuditHead`); nothing else goes unnoticed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from enum import Enum
from typing import NamedTuple

from crannog.cas.store import sealing
from crannog.cas.store.accepted import NOTHING, Accepted
from crannog.cas.store.sealing import GENESIS, MAC_SIZE, Keys
from crannog.errors import FormatError, IntegrityError
from crannog.levels import Level, parse_level
from crannog.pki.authority import StoredKey
from crannog.wire import Json, encode_json, parse_hex, parse_object

# What is cut keeps a record below this: 4 fields and 20 notes, 6 bytes a character at most.
MAX_RECORD = 128 * 1024
_MAX_TEXT = 512
_MAX_NOTES = 20


class Event(Enum):
    """What the audit log tells of."""

    DATABASE_CREATED = "database created"
    CAS_STARTED = "CAS started"
    CAS_STOPPED = "CAS stopped"
    MINIMUM_LEVEL_CHANGED = "minimum level changed"
    LAS_ENROLLED = "LAS enrolled"
    LAS_REMOVED = "LAS removed"
    LAS_READMITTED = "LAS readmitted"
    LAS_REFUSED = "LAS enrolment refused"
    LAUNCHER_ACCEPTED = "launcher accepted"
    LAUNCHER_REMOVED = "launcher removed"
    LAUNCHERS_CLEARED = "launcher list cleared"
    SESSION_CREATED = "session created"
    SESSION_UPDATED = "session updated"
    SESSION_READ = "session read"
    REQUEST_REFUSED = "request refused"
    SERVICE_ATTESTED = "service attested"
    ATTESTATION_REFUSED = "attestation refused"


class Record(NamedTuple):
    """One line of the audit log, before it has its place in the chain.

    Session names are not confidential and stand here; values of secrets, tokens and one-time
    passwords never do. `notes` are (name, value) pairs beside the fixed fields, 20 at most. Texts
    are cut at 512 characters.
    """

    at: datetime
    event: Event
    session: str = ""
    session_hash: str = ""
    service: str = ""
    actor: str = ""
    notes: tuple[tuple[str, str], ...] = ()

    def encode(self) -> bytes:
        """The canonical JSON that is stored and authenticated."""
        fields: dict[str, Json] = {"at": timestamp(self.at), "event": self.event.value}
        if self.session:
            fields["session"] = _cut(self.session)
        if self.session_hash:
            fields["hash"] = _cut(self.session_hash)
        if self.service:
            fields["service"] = _cut(self.service)
        if self.actor:
            fields["actor"] = _cut(self.actor)
        if self.notes:
            fields["notes"] = {_cut(name): _cut(value) for name, value in self.notes[:_MAX_NOTES]}
        return encode_json(fields)


class AuditHead(NamedTuple):
    """Where the audit log ends: what a user keeps so that a rolled back CAS is found out.

    Attributes:
        sequence: the number of the last record; 0 for none.
        mac: its MAC, 32 bytes, which nobody without the master key can make.
    """

    sequence: int
    mac: bytes

    def __str__(self) -> str:
        return f"{self.sequence}:{self.mac.hex()}"


def parse_head(text: str) -> AuditHead:
    """The head that `NUMBER:64 HEX` stands for; `FormatError` otherwise."""
    number, _, rest = text.partition(":")
    if not (number.isascii() and number.isdecimal() and len(number) <= 18):
        raise FormatError(f"audit head is {text[:90]!r}, expected NUMBER:HEX as the CAS prints it")
    return AuditHead(int(number), parse_hex(rest, MAC_SIZE, "audit head"))


class Version(NamedTuple):
    """One version of a session, as the chain of versions knows it.

    Attributes:
        sequence: its place in the chain, from 1.
        name: the session's name.
        number: which version of that session, from 1.
        hash: the session hash, 64 hex.
        predecessor: the hash of version `number` - 1, "" for the first.
        created: when, as `timestamp` writes it.
        document: SHA-256 of the sealed document.
        secrets: SHA-256 of the sealed secrets.
        mac: the chain's MAC up to here.
    """

    sequence: int
    name: str
    number: int
    hash: str
    predecessor: str
    created: str
    document: bytes
    secrets: bytes
    mac: bytes

    def expected_mac(self, keys: Keys, previous: bytes) -> bytes:
        """The MAC this record has to have after a record with the MAC `previous`."""
        return sealing.mac(
            keys.versions,
            (
                previous,
                _number(self.sequence),
                self.name.encode(),
                _number(self.number),
                self.hash.encode(),
                self.predecessor.encode(),
                self.created.encode(),
                self.document,
                self.secrets,
            ),
        )

    def identity(self, kind: bytes) -> tuple[bytes, ...]:
        """What a value of this version is sealed for: `kind` is b"document" or b"secrets"."""
        return version_identity(kind, self.name, self.number, self.hash)


def version_identity(kind: bytes, name: str, number: int, session_hash: str) -> tuple[bytes, ...]:
    """The identity of a sealed value: its kind, its row, and the version that releases it."""
    return (kind, name.encode(), _number(number), session_hash.encode())


def audit_mac(keys: Keys, previous: bytes, sequence: int, record: bytes) -> bytes:
    """The MAC of the audit record number `sequence`, after one with the MAC `previous`."""
    return sealing.mac(keys.audit, (previous, _number(sequence), record))


class State(NamedTuple):
    """What the single state row binds together; `mac` covers everything before it.

    Attributes:
        level: the minimum level.
        authority: digest of the CAS's own keys as stored (`authority_digest`).
        versions: number of session versions.
        versions_mac: the MAC of the last one.
        audit: number of audit records.
        audit_mac: the MAC of the last one.
        accepted: enrolled LASes and accepted launchers.
        mac: HMAC over all of it.
    """

    level: Level
    authority: bytes
    versions: int
    versions_mac: bytes
    audit: int
    audit_mac: bytes
    accepted: Accepted = NOTHING
    mac: bytes = b""

    def signed(self, keys: Keys) -> State:
        """The same with its MAC."""
        return self._replace(mac=self.expected_mac(keys))

    def expected_mac(self, keys: Keys) -> bytes:
        """The MAC that this row has to have."""
        return sealing.mac(
            keys.state,
            (
                keys.database,
                keys.check,
                self.level.value.encode(),
                self.authority,
                _number(self.versions),
                self.versions_mac,
                _number(self.audit),
                self.audit_mac,
                # No part where nothing is accepted: so it was before there was such a list.
                *((self.accepted.digest,) if self.accepted.digest else ()),
            ),
        )

    @property
    def head(self) -> AuditHead:
        """The audit log's head."""
        return AuditHead(self.audit, self.audit_mac)


def first_state(level: Level, authority: bytes) -> State:
    """The state of a database with nothing in it."""
    return State(level, authority, 0, GENESIS, 0, GENESIS)


def read_level(text: str) -> Level:
    """The stored minimum level; `IntegrityError` where somebody wrote another text."""
    try:
        return parse_level(text)
    except FormatError as error:
        raise IntegrityError("the stored minimum level is not a level") from error


def authority_digest(rows: Iterable[tuple[str, bytes, bytes]]) -> bytes:
    """Binds the CAS's own keys as stored: (name, certificate, sealed key) in the order of names."""
    return sealing.digest(
        sealing.lengths(
            part
            for name, certificate, key in sorted(rows)
            for part in (name.encode(), certificate, key)
        )
    )


def authority_identity(stored: StoredKey) -> tuple[bytes, ...]:
    """What a key of the CAS is sealed for: its name and its certificate."""
    return (b"authority", stored.name.encode(), stored.certificate)


def timestamp(moment: datetime) -> str:
    """RFC 3339 in UTC with microseconds: `2026-01-31T12:00:00.000000Z`."""
    return f"{moment.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def decode_record(record: bytes) -> dict[str, Json]:
    """The fields of a stored audit record; `FormatError` where it is none."""
    return parse_object(record, limit=MAX_RECORD, what="audit record")


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT and text.isascii():
        return text
    return text[:_MAX_TEXT].encode("utf-8", "replace").decode()


def _number(value: int) -> bytes:
    return struct.pack(">Q", value)
