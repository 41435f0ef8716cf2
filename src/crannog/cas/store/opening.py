"""The way into a store: locked, migrated, verified; or created.

What `open_store` returns has verified the chain of session versions, the state row, the CAS's own
keys and the end of the audit chain; the whole audit chain is `crannog.cas.audit`'s.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.engine import Connection, Engine

from crannog.cas.keys import KeyProvider
from crannog.cas.store import database, schema, sealing
from crannog.cas.store.batch import Batch
from crannog.cas.store.reading import (
    read_authority,
    read_identity,
    read_state,
    read_versions,
    verify_tail,
)
from crannog.cas.store.records import (
    Event,
    Record,
    authority_digest,
    authority_identity,
    first_state,
)
from crannog.cas.store.sealing import Randomness, derive_keys
from crannog.cas.store.store import Store
from crannog.errors import IntegrityError, Misconfigured
from crannog.levels import Level
from crannog.pki.authority import create_authority


def open_store(
    path: Path,
    *,
    keys: KeyProvider,
    now: datetime,
    minimum_level: Level | None = None,
    random: Randomness = os.urandom,
    after_commit: Callable[[], None] | None = None,
) -> Store:
    """Open the database at `path`, or create it.

    Args:
        path: the SQLite file; its directory is made (mode 0700) where it is missing.
        keys: where the master key is.
        now: the present, for what is created.
        minimum_level: has to be given for a new database; where it is given for an existing one it
            has to be the same.
        random: randomness for keys, salts and identities.
        after_commit: see `writer.Writer`; for tests.

    Raises:
        Conflict: another CAS holds the database.
        Misconfigured: no level for a new database, another level than the database's, a newer
            schema, the wrong master key, or none for an existing database.
        IntegrityError: somebody without the master key has changed the database.
        StorageFailed: the disk refused, or this is not a database.
    """
    with database.failures(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The lock lies beside the file itself, whatever link it was named by.
        path = path.resolve()
    with contextlib.ExitStack() as undo:
        lock = database.Lock(path)
        undo.callback(lock.release)
        master = _master_key(path, keys, minimum_level, random)
        database.create_file(path)
        engine = database.connect(path)
        undo.callback(engine.dispose)
        with _transaction(path, engine) as connection:
            schema.migrate(connection, where=f"database {path}")
            identity = read_identity(connection)
            if identity is None:
                identity = _create(
                    connection, path, master, _required(minimum_level), now=now, random=random
                )
            derived = derive_keys(master, identity)
            state = read_state(connection, derived, where=keys.describe())
            versions = read_versions(connection, derived, state)
            verify_tail(connection, derived, state)
            read_authority(connection, derived, state.authority)
        if minimum_level not in (None, state.level):
            raise Misconfigured(
                f"minimum level is given as {_required(minimum_level).value}, "
                f"but the database was created with {state.level.value}",
                hint="leave it out, or change it with the audited command",
            )
        undo.pop_all()
    return Store(
        path,
        engine,
        lock,
        derived,
        state,
        versions,
        random=random,
        after_commit=after_commit,
    )


def _required(level: Level | None) -> Level:
    if level is None:
        raise Misconfigured(
            "a new database needs a minimum level, one of simulation, node, hardware",
            hint="crannog cas serve --minimum-level LEVEL, in a container docker run … crannog/cas"
            " --minimum-level LEVEL; simulation proves nothing and is for development",
        )
    return level


def _master_key(path: Path, keys: KeyProvider, level: Level | None, random: Randomness) -> bytes:
    master = keys.load()
    if master is not None:
        return master
    with database.failures(path):
        there = path.exists() and path.stat().st_size > 0
    if there:
        # A new key would open nothing of what is there.
        raise Misconfigured(
            f"{keys.describe()} holds no master key, and database {path} is there",
            hint="restore the key from where it was kept; without it the database stays closed",
        )
    _required(level)
    return keys.create(random)


def _create(
    connection: Connection,
    path: Path,
    master: bytes,
    level: Level,
    *,
    now: datetime,
    random: Randomness,
) -> bytes:
    """Give an empty database its identity, keys and first audit record."""
    tables = (schema.versions, schema.sealed, schema.audit, schema.authority, schema.accepted)
    for table in tables:
        if connection.execute(select(table).limit(1)).first() is not None:
            raise IntegrityError(
                f"database {path}: its state is missing, and it is not empty",
                hint="restore it from a backup",
            )
    identity = random(16)
    keys = derive_keys(master, identity)
    rows = [
        {
            "name": one.name,
            "certificate": one.certificate,
            "key": sealing.seal(keys, authority_identity(one), one.key, random),
        }
        for one in create_authority(now=now, random=random).stored()
    ]
    connection.execute(insert(schema.authority), rows)
    bound = authority_digest(
        (str(row["name"]), bytes(row["certificate"]), bytes(row["key"]))  # type: ignore[arg-type]
        for row in rows
    )
    batch = Batch(keys, first_state(level, bound), {})
    batch.add_record(Record(now, Event.DATABASE_CREATED, notes=(("level", level.value),)))
    state = batch.state()
    connection.execute(
        insert(schema.audit),
        [{"sequence": one, "record": record, "mac": mac} for one, record, mac in batch.audit_rows],
    )
    connection.execute(
        insert(schema.state).values(
            id=1,
            database=identity,
            key_check=keys.check,
            minimum_level=level.value,
            authority=bound,
            versions=state.versions,
            versions_mac=state.versions_mac,
            audit=state.audit,
            audit_mac=state.audit_mac,
            mac=state.mac,
        )
    )
    return identity


@contextlib.contextmanager
def _transaction(path: Path, engine: Engine) -> Iterator[Connection]:
    with database.failures(path), engine.connect() as plain:
        connection = plain.execution_options(**{database.WRITE: True})
        with connection.begin():
            yield connection
