"""The store: read and written. What is stored means nothing to it. `opening.py` is the way in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from sqlalchemy import select
from sqlalchemy.engine import Engine

from crannog.cas.store import database, schema, sealing
from crannog.cas.store.accepted import COMMANDS, NAMES, Accepted, Entry, Kind
from crannog.cas.store.batch import Batch, NewVersion
from crannog.cas.store.reading import read_authority, read_recent
from crannog.cas.store.records import (
    AuditHead,
    Record,
    State,
    Version,
    timestamp,
    version_identity,
)
from crannog.cas.store.sealing import Keys, Randomness
from crannog.cas.store.writer import Writer
from crannog.errors import Denied, IntegrityError, NotFound
from crannog.levels import Level
from crannog.pki.authority import StoredKey
from crannog.wire import Json

T = TypeVar("T")


class Store:
    """An open database. Every method may be called from any thread.

    Writes return after they are on disk. Reads see what is committed and do not wait for writes.
    """

    def __init__(
        self,
        path: Path,
        engine: Engine,
        lock: database.Lock,
        keys: Keys,
        state: State,
        versions: list[Version],
        *,
        random: Randomness,
        after_commit: Callable[[], None] | None,
    ) -> None:
        self._path = path
        self._engine = engine
        self._lock = lock
        self._keys = keys
        self._random = random
        self._by_hash = {version.hash: version for version in versions}
        self._latest = {version.name: version for version in versions}
        self._state = state
        self._closed = False
        self._close = threading.Lock()
        self._writer = Writer(
            database.connect(path),
            path,
            keys,
            state,
            dict(self._latest),
            on_commit=self._publish,
            after_commit=after_commit,
        )

    @property
    def minimum_level(self) -> Level:
        """Below which no evidence is accepted, whatever a session says."""
        return self._state.level

    @property
    def accepted(self) -> Accepted:
        """Enrolled LASes and accepted launchers, as they are on disk."""
        return self._state.accepted

    @property
    def identity(self) -> bytes:
        """The database's own, 16 bytes, public."""
        return self._keys.database

    @property
    def operator_key(self) -> bytes:
        """Authenticates the orders of whoever has the master key (docs/formats/operator.md)."""
        return self._keys.operator

    @property
    def head(self) -> AuditHead:
        """The end of the audit log: what users keep to notice a rollback."""
        return self._state.head

    def latest(self, name: str) -> Version | None:
        """The newest version of that session, or None."""
        return self._latest.get(name)

    def version(self, name: str, session_hash: str) -> Version | None:
        """That version of that session, or None."""
        found = self._by_hash.get(session_hash)
        return found if found is not None and found.name == name else None

    def names(self) -> tuple[str, ...]:
        """The sessions there are, sorted."""
        return tuple(sorted(self._latest.copy()))

    def read(self, version: Version) -> tuple[bytes, bytes]:
        """The document and the secrets of that version.

        Raises:
            IntegrityError: they are not what was stored.
            StorageFailed: the disk or the database refused.
        """
        with database.failures(self._path), self._engine.connect() as connection:
            row = connection.execute(
                select(schema.sealed.c.document, schema.sealed.c.secrets).where(
                    schema.sealed.c.sequence == version.sequence
                )
            ).one_or_none()
        return open_version(self._keys, version, None if row is None else (row[0], row[1]))

    def authority(self) -> tuple[StoredKey, ...]:
        """The CAS's own keys.

        Raises:
            IntegrityError: they are not what was stored.
            StorageFailed: the disk or the database refused.
        """
        with database.failures(self._path), self._engine.connect() as connection:
            return read_authority(connection, self._keys, self._state.authority)

    def recent_records(self, since: datetime) -> list[dict[str, Json]]:
        """The audit records from the first one that is not older than `since`, to the end.

        Raises:
            IntegrityError: one of them is not authentic.
            StorageFailed: the disk or the database refused.
        """
        with database.failures(self._path), self._engine.connect() as connection:
            return read_recent(connection, self._keys, self._state, since=timestamp(since))

    def add_version(
        self,
        *,
        name: str,
        session_hash: str,
        predecessor: Version | None,
        document: bytes,
        secrets: bytes,
        record: Record,
    ) -> Version:
        """Seal and store a version, with its line in the audit log, in one transaction.

        Args:
            name: the session's name.
            session_hash: 64 hex.
            predecessor: the version it replaces; None for the first.
            document: what `read` gives back.
            secrets: likewise.
            record: the audit record of it.

        Raises:
            AlreadyExists: the name is taken and there is no predecessor.
            Conflict: the predecessor is not, or no longer, the newest version.
            StorageFailed: nothing is stored.
        """
        number = 1 if predecessor is None else predecessor.number + 1

        def close(kind: bytes, plain: bytes) -> bytes:
            identity = version_identity(kind, name, number, session_hash)
            return sealing.seal(self._keys, identity, plain, self._random)

        new = NewVersion(
            name=name,
            number=number,
            hash=session_hash,
            predecessor="" if predecessor is None else predecessor.hash,
            created=timestamp(record.at),
            document=close(b"document", document),
            secrets=close(b"secrets", secrets),
        )

        def apply(batch: Batch) -> Version:
            version = batch.add_version(new)
            # The audit log names the version's MAC: one kept head is evidence for both chains.
            batch.add_record(record._replace(notes=(*record.notes, ("version", version.mac.hex()))))
            return version

        return self._writer.submit(apply)

    def append(self, record: Record) -> None:
        """Add a line to the audit log; returns when it is on disk."""
        self._writer.submit(lambda batch: batch.add_record(record))

    def set_minimum_level(self, level: Level, record: Record) -> None:
        """Change the minimum level; `record` says who did."""

        def apply(batch: Batch) -> None:
            notes = (("from", batch.level.value), ("to", level.value))
            batch.set_level(level)
            batch.add_record(record._replace(notes=(*record.notes, *notes)))

        self._writer.submit(apply)

    def accept(self, entry: Entry, record: Record) -> None:
        """Enrol a LAS or accept a launcher; `record` says who did.

        Raises:
            AlreadyExists, TooLarge: nothing is changed.
        """

        def apply(batch: Batch) -> None:
            batch.set_accepted(batch.accepted.with_entry(entry))
            batch.add_record(record)

        self._writer.submit(apply)

    def change_accepted(self, change: Callable[[Accepted], tuple[Accepted, Record | None, T]]) -> T:
        """Change whom the CAS trusts by a function of the list as it is when it is written.

        Args:
            change: gives the next list, its line in the audit log, and what to return. Where it
                gives the same list and no line nothing is written. What it raises changes nothing.
        """

        def apply(batch: Batch) -> T:
            accepted, record, result = change(batch.accepted)
            if accepted is not batch.accepted:
                batch.set_accepted(accepted)
            if record is not None:
                batch.add_record(record)
            return result

        return self._writer.submit(apply)

    def withdraw(self, kind: Kind, value: str, record: Record, *, keep: int = 0) -> None:
        """Take an entry back.

        Args:
            kind: which list.
            value: 64 hex digits.
            record: says who did.
            keep: how many of that kind have to remain.

        Raises:
            NotFound: it is not there.
            Denied: fewer than `keep` would remain.
        """

        def apply(batch: Batch) -> None:
            remaining = batch.accepted.without(kind, value)
            if len(remaining.of(kind)) < keep:
                raise Denied(
                    f"{NAMES[kind]} {value} is the last of the list: without one every "
                    "launcher would be accepted again",
                    hint="add the release that is to be accepted instead first, or empty the list "
                    f"on purpose: crannog cas {COMMANDS[kind]} clear",
                )
            batch.set_accepted(remaining)
            batch.add_record(record)

        self._writer.submit(apply)

    def clear(self, kind: Kind, record: Record) -> None:
        """Take back every entry of that kind; the record notes how many there were.

        Raises:
            NotFound: there is none.
        """

        def apply(batch: Batch) -> None:
            count = len(batch.accepted.of(kind))
            if not count:
                raise NotFound(f"no {NAMES[kind]} is listed by this CAS")
            batch.set_accepted(batch.accepted.without_kind(kind))
            notes = (*record.notes, ("entries", str(count)))
            batch.add_record(record._replace(notes=notes))

        self._writer.submit(apply)

    def close(self) -> None:
        """Commit what waits, close the database, let others have it. May be called twice."""
        with self._close:
            if self._closed:
                return
            self._closed = True
        self._writer.close()
        self._engine.dispose()
        self._lock.release()

    def _publish(self, batch: Batch, state: State) -> None:
        # Each assignment is atomic; a version is known by its hash before it is the newest.
        for version in batch.version_rows:
            self._by_hash[version.hash] = version
        self._latest.update(batch.added)
        self._state = state


def open_version(
    keys: Keys, version: Version, row: tuple[object, object] | None
) -> tuple[bytes, bytes]:
    """The document and secrets in a row of `sealed`, held against the chain's record.

    Raises:
        IntegrityError: the row is missing, changed, or another version's.
    """
    where = f"session {version.name!r} version {version.number}"
    if row is None:
        raise IntegrityError(f"{where}: its document is missing from the database")
    document, secrets = row
    # SQLite keeps any type in any column, so whoever can write the file chooses the types.
    if not (
        isinstance(document, bytes)
        and isinstance(secrets, bytes)
        and sealing.same(sealing.digest(document), version.document)
        and sealing.same(sealing.digest(secrets), version.secrets)
    ):
        raise IntegrityError(f"{where}: the stored document is not the one that was stored")
    return (
        sealing.unseal(keys, version.identity(b"document"), document),
        sealing.unseal(keys, version.identity(b"secrets"), secrets),
    )


def require_version(store: Store, name: str, session_hash: str | None) -> Version:
    """The newest version of a session, or the one of that hash.

    Raises:
        NotFound: there is none.
    """
    found = store.latest(name) if session_hash is None else store.version(name, session_hash)
    if found is None:
        which = "" if session_hash is None else f" with hash {session_hash[:64]!r}"
        raise NotFound(f"Session not found: {name[:128]!r}{which}")
    return found
