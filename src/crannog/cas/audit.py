"""The audit log as its readers see it: exported as JSON lines, and verified from end to end.

Verifying needs the master key, since the chain is a MAC chain: who can write the database but has
not the key cannot change, drop, reorder or add a record unseen. What no chain shows by itself is
that the whole database was put back to an earlier state; a head that somebody has kept does.
Format and exit codes: docs/formats/audit-log.md.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

from sqlalchemy import select
from sqlalchemy.engine import Connection

from crannog.cas.keys import KeyProvider
from crannog.cas.store import database, schema
from crannog.cas.store.accepted import Accepted
from crannog.cas.store.reading import (
    read_audit,
    read_authority,
    read_identity,
    read_state,
    read_versions,
    typed_columns,
)
from crannog.cas.store.records import (
    AuditHead,
    State,
    Version,
    audit_mac,
    decode_record,
)
from crannog.cas.store.sealing import GENESIS, Keys, derive_keys, same
from crannog.cas.store.store import open_version
from crannog.errors import Error, FormatError, IntegrityError, Misconfigured, StorageFailed
from crannog.wire import encode_json


class Severity(IntEnum):
    """What a verification found, as an exit code; the higher the worse, as in the reference."""

    VERIFIED = 0
    UNREADABLE = 14
    WRONG_KEY = 15
    SESSIONS_CHANGED = 16
    STATE_CHANGED = 17
    ROLLED_BACK = 18
    OTHER_HISTORY = 19
    RECORDS_CHANGED = 20


class Finding(NamedTuple):
    """One thing that is wrong: how bad, and a line that says what."""

    severity: Severity
    message: str


class Verification(NamedTuple):
    """What verifying a database found.

    Attributes:
        findings: what is wrong, the worst first; empty where everything holds.
        head: the log's head; None where it could not be established.
        records: how many audit records were read.
        versions: how many session versions were read.
    """

    findings: tuple[Finding, ...]
    head: AuditHead | None
    records: int
    versions: int

    @property
    def severity(self) -> Severity:
        """The worst of the findings, which is the exit code."""
        return max((one.severity for one in self.findings), default=Severity.VERIFIED)


def verify_audit_log(
    path: Path, *, keys: KeyProvider, expect_head: AuditHead | None = None
) -> Verification:
    """Verify everything in the database at `path`, in one snapshot; a CAS may be writing to it.

    Args:
        path: the SQLite file.
        keys: where the master key is.
        expect_head: a head that was kept; the log has to contain it.

    Returns:
        What was found. Only what is wrong with the arguments is raised.

    Raises:
        Misconfigured: the master key is missing or not usable.
    """
    master = keys.load()
    if master is None:
        raise Misconfigured(f"{keys.describe()} holds no master key")
    try:
        with snapshot(path) as connection:
            schema.check_schema(connection, where=f"database {path}")
            return _Verifier(connection, master, keys.describe()).run(expect_head)
    except StorageFailed as error:
        return _failed(Severity.UNREADABLE, error)
    except Misconfigured as error:
        return _failed(Severity.WRONG_KEY, error)
    except IntegrityError as error:
        return _failed(Severity.STATE_CHANGED, error)


def export_audit_log(path: Path, *, keys: KeyProvider, after: int = 0) -> Iterator[bytes]:
    """The audit log from record `after` + 1 as JSON lines, each verified against the one before.

    A line is the record with its number (`seq`) and its MAC (`mac`) in it.

    Raises:
        Misconfigured: the master key is missing or another database's.
        IntegrityError: a record is not authentic; the lines before it are.
        StorageFailed: the database cannot be read.
    """
    master = keys.load()
    if master is None:
        raise Misconfigured(f"{keys.describe()} holds no master key")
    with snapshot(path) as connection:
        derived = derive_keys(master, _identity(connection))
        state = read_state(connection, derived, where=keys.describe())
        previous, number = GENESIS, 0
        with typed_columns("an audit record"):
            for sequence, record, mac in read_audit(connection):
                number += 1
                expected = audit_mac(derived, previous, sequence, record)
                if sequence != number or not same(mac, expected):
                    raise IntegrityError(f"audit record {number} is not authentic or missing")
                previous = mac
                if number > after:
                    yield encode_json({**decode_record(record), "seq": number, "mac": mac.hex()})
        if number != state.audit:
            raise IntegrityError(f"the audit log ends at {number}, expected {state.audit}")


def read_accepted(path: Path, *, keys: KeyProvider) -> Accepted:
    """Enrolled LASes and accepted launchers in the database at `path`; a CAS may be running.

    Raises:
        Misconfigured: the master key is missing or another database's, or the schema is newer.
        IntegrityError: the list, or what binds it, is not authentic.
        StorageFailed: the database cannot be read.
    """
    master = keys.load()
    if master is None:
        raise Misconfigured(f"{keys.describe()} holds no master key")
    with snapshot(path) as connection:
        schema.check_schema(connection, where=f"database {path}")
        derived = derive_keys(master, _identity(connection))
        return read_state(connection, derived, where=keys.describe()).accepted


class _Verifier:
    def __init__(self, connection: Connection, master: bytes, where: str) -> None:
        self._connection = connection
        self._master = master
        self._where = where
        self._findings: list[Finding] = []
        self._records = 0
        self._announced: list[str] = []

    def run(self, expect_head: AuditHead | None) -> Verification:
        keys = derive_keys(self._master, _identity(self._connection))
        # (1) the row that binds both heads, the level and the CAS's keys
        state = read_state(self._connection, keys, where=self._where)
        try:
            read_authority(self._connection, keys, state.authority)
        except Error as error:
            self._add(Severity.STATE_CHANGED, error.message)
        # (2) the audit chain from its first record to that head, and through the head kept
        self._audit(keys, state, expect_head)
        # (3) the chain of session versions, and every sealed document and secret of it
        versions = self._versions(keys, state)
        # (4) both chains tell the same story
        if versions is not None and [one.mac.hex() for one in versions] != self._announced:
            self._add(
                Severity.SESSIONS_CHANGED,
                "the session versions are not those that the audit log tells of",
            )
        worst_first = sorted(self._findings, key=lambda one: -one.severity)
        changed = any(one.severity is Severity.RECORDS_CHANGED for one in worst_first)
        head = None if changed else state.head
        return Verification(tuple(worst_first), head, self._records, len(versions or ()))

    def _add(self, severity: Severity, message: str) -> None:
        self._findings.append(Finding(severity, message))

    def _audit(self, keys: Keys, state: State, expect: AuditHead | None) -> None:
        previous = GENESIS
        seen: bytes | None = GENESIS if expect is not None and expect.sequence == 0 else None
        try:
            with typed_columns("an audit record"):
                for sequence, record, mac in read_audit(self._connection):
                    number = self._records + 1
                    if sequence != number:
                        self._add(Severity.RECORDS_CHANGED, f"audit record {number} is missing")
                        return
                    if not same(mac, audit_mac(keys, previous, sequence, record)):
                        self._add(
                            Severity.RECORDS_CHANGED,
                            f"audit record {number} is not authentic: it was changed, moved or "
                            "comes from another database",
                        )
                        return
                    self._announce(record)
                    previous = mac
                    self._records = number
                    if expect is not None and expect.sequence == number:
                        seen = mac
        except IntegrityError as error:
            self._add(Severity.RECORDS_CHANGED, error.message)
            return
        if self._records != state.audit or not same(previous, state.audit_mac):
            self._add(
                Severity.RECORDS_CHANGED,
                f"the audit log ends at record {self._records}, expected {state.audit}",
            )
            return
        self._expect(expect, seen)

    def _expect(self, expect: AuditHead | None, seen: bytes | None) -> None:
        if expect is None:
            return
        if seen is None:
            self._add(
                Severity.ROLLED_BACK,
                f"the audit log has {self._records} records, and the head that was kept is number "
                f"{expect.sequence}: the database was put back to an earlier state",
            )
        elif not same(seen, expect.mac):
            self._add(
                Severity.OTHER_HISTORY,
                f"audit record {expect.sequence} is not the one that was kept: the database was "
                "put back to an earlier state and has gone on from there, or is another one",
            )

    def _announce(self, record: bytes) -> None:
        try:
            notes = decode_record(record).get("notes")
        except FormatError:
            return
        version = notes.get("version") if isinstance(notes, dict) else None
        if isinstance(version, str):
            self._announced.append(version)

    def _versions(self, keys: Keys, state: State) -> list[Version] | None:
        try:
            versions = read_versions(self._connection, keys, state)
        except IntegrityError as error:
            self._add(Severity.SESSIONS_CHANGED, error.message)
            return None
        columns = schema.sealed.c
        rows = self._connection.execution_options(yield_per=100).execute(
            select(columns.sequence, columns.document, columns.secrets).order_by(columns.sequence)
        )
        count = 0
        try:
            with typed_columns("a sealed document"):
                for row in rows:
                    count += 1
                    if count > len(versions) or row[0] != count:
                        raise IntegrityError(f"sealed document {count} is missing, or one too many")
                    open_version(keys, versions[count - 1], (row[1], row[2]))
            if count != len(versions):
                raise IntegrityError(f"found {count} sealed documents, expected {len(versions)}")
        except IntegrityError as error:
            self._add(Severity.SESSIONS_CHANGED, error.message)
        return versions


def _failed(severity: Severity, error: Error) -> Verification:
    return Verification((Finding(severity, error.message),), None, 0, 0)


def _identity(connection: Connection) -> bytes:
    found = read_identity(connection)
    if found is None:
        raise IntegrityError("the database has no state row")
    return found


@contextlib.contextmanager
def snapshot(path: Path) -> Iterator[Connection]:
    """The database as it is now, read only; a CAS may be writing to it.

    Raises:
        StorageFailed: there is none, or it cannot be read.
    """
    if not path.is_file():
        raise StorageFailed(f"database {path} does not exist", hint="name the CAS's database file")
    with database.failures(path), contextlib.ExitStack() as stack:
        engine = database.connect(path, read_only=True)
        stack.callback(engine.dispose)
        connection = stack.enter_context(engine.connect())
        stack.enter_context(connection.begin())
        yield connection
