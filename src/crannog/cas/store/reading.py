"""Reading what is chained, with every MAC checked on the way.

Used when a store is opened, and by the audit log's verifier on a database that another process may
be writing: each function works within one transaction, so within one snapshot.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator

from sqlalchemy import inspect, select
from sqlalchemy.engine import Connection

from crannog.cas.store import schema, sealing
from crannog.cas.store.accepted import Accepted, stored_entry
from crannog.cas.store.records import (
    State,
    Version,
    audit_mac,
    authority_digest,
    authority_identity,
    decode_record,
    read_level,
)
from crannog.cas.store.sealing import GENESIS, Keys, same
from crannog.errors import FormatError, IntegrityError, Misconfigured
from crannog.pki.authority import StoredKey
from crannog.wire import Json

# SQLite keeps any type in any column, so whoever can write the file chooses the types.
_FOREIGN_TYPES = (TypeError, ValueError, AttributeError, OverflowError, struct.error, MemoryError)

# How much of the audit chain is verified when a store is opened: half a second's worth of starting
# time would be 100,000 records. `crannog cas verify-audit-log` verifies all of it.
TAIL = 10_000


@contextlib.contextmanager
def typed_columns(what: str) -> Iterator[None]:
    """Turns what a value of a foreign type makes of Python's functions into `IntegrityError`."""
    try:
        yield
    except _FOREIGN_TYPES as error:
        raise IntegrityError(f"{what} has a value of another type: somebody changed it") from error


@typed_columns("the state row")
def read_identity(connection: Connection) -> bytes | None:
    """The database's own identity, 16 bytes, nothing verified; None where nothing is stored yet."""
    found = connection.execute(select(schema.state.c.database)).scalar()
    return None if found is None else bytes(found)


@typed_columns("the state row")
def read_state(connection: Connection, keys: Keys, *, where: str) -> State:
    """The state row, authentic.

    Args:
        connection: within a transaction.
        keys: derived from the master key.
        where: where the master key is from, for the message.

    Raises:
        Misconfigured: the master key is another database's.
        IntegrityError: the row is missing, or somebody has changed it.
    """
    rows = connection.execute(select(schema.state)).all()
    if len(rows) != 1:
        raise IntegrityError(f"the database has {len(rows)} state rows, expected 1")
    row = rows[0]
    if not same(bytes(row.key_check), keys.check):
        raise Misconfigured(
            f"the master key of {where} is not the one that this database was created with",
            hint="name the key file of this database, or the database of this key",
        )
    state = State(
        level=read_level(row.minimum_level),
        authority=bytes(row.authority),
        versions=row.versions,
        versions_mac=bytes(row.versions_mac),
        audit=row.audit,
        audit_mac=bytes(row.audit_mac),
        accepted=_read_accepted(connection),
        mac=bytes(row.mac),
    )
    if min(state.versions, state.audit) < 0 or not same(state.mac, state.expected_mac(keys)):
        raise IntegrityError(
            "the database's state row is not authentic, or the list of enrolled LASes and accepted "
            "launchers that it binds: somebody has changed it"
        )
    return state


@typed_columns("the list of enrolled LASes and accepted launchers")
def _read_accepted(connection: Connection) -> Accepted:
    # A database of the first schema that is only verified has no such table. Who drops it from a
    # later one gains nothing: the state row binds what was in it.
    inspector = inspect(connection)
    if not inspector.has_table(schema.accepted.name):
        return Accepted()
    # Nor has one of the second schema the last column; an entry without it is none of a token's.
    there = {column["name"] for column in inspector.get_columns(schema.accepted.name)}
    columns = [column for column in schema.accepted.c if column.name in there]
    rows = connection.execute(select(*columns)).all()
    try:
        return Accepted(tuple(stored_entry(*row) for row in rows))
    except FormatError as error:
        raise IntegrityError(
            "the list of enrolled LASes and accepted launchers holds what can be neither: "
            "somebody has changed it"
        ) from error


@typed_columns("a session version")
def read_versions(connection: Connection, keys: Keys, state: State) -> list[Version]:
    """Every session version in order, the chain verified from its beginning to the bound head.

    Raises:
        IntegrityError: which record is changed, missing, out of order or too many.
    """
    table = schema.versions
    columns = table.c
    rows = connection.execute(
        select(
            columns.sequence,
            columns.name,
            columns.number,
            columns.hash,
            columns.predecessor,
            columns.created,
            columns.document_digest,
            columns.secrets_digest,
            columns.mac,
        ).order_by(columns.sequence)
    )
    found: list[Version] = []
    previous = GENESIS
    for row in rows:
        version = Version(*row)
        expected = len(found) + 1
        if version.sequence != expected:
            raise IntegrityError(
                f"session version {expected} is missing from the database, "
                f"found number {version.sequence}"
            )
        if not same(bytes(version.mac), version.expected_mac(keys, previous)):
            raise IntegrityError(
                f"session version {expected} is not authentic: somebody has changed it"
            )
        previous = version.mac
        found.append(version)
    if len(found) != state.versions or not same(previous, state.versions_mac):
        raise IntegrityError(
            f"the database holds {len(found)} session versions, expected {state.versions}: "
            "some are missing at the end, or too many"
        )
    return found


def read_audit(connection: Connection, *, after: int = 0) -> Iterator[tuple[int, bytes, bytes]]:
    """The audit records from number `after` + 1: (number, record, MAC), nothing verified."""
    columns = schema.audit.c
    rows = connection.execution_options(yield_per=1000).execute(
        select(columns.sequence, columns.record, columns.mac)
        .where(columns.sequence > after)
        .order_by(columns.sequence)
    )
    for row in rows:
        yield row[0], bytes(row[1]), bytes(row[2])


@typed_columns("an audit record")
def verify_tail(connection: Connection, keys: Keys, state: State, *, tail: int = TAIL) -> None:
    """Check the last `tail` audit records up to the bound head.

    Raises:
        IntegrityError: which record is changed or missing.
    """
    after = max(0, state.audit - tail)
    previous = GENESIS
    if after:
        found = connection.execute(
            select(schema.audit.c.mac).where(schema.audit.c.sequence == after)
        ).scalar()
        if found is None:
            raise IntegrityError(f"audit record {after} is missing from the database")
        previous = bytes(found)
    number = after
    for sequence, record, mac in read_audit(connection, after=after):
        number += 1
        if sequence != number:
            raise IntegrityError(f"audit record {number} is missing from the database")
        if not same(mac, audit_mac(keys, previous, sequence, record)):
            raise IntegrityError(f"audit record {number} is not authentic: somebody changed it")
        previous = mac
    if number != state.audit or not same(previous, state.audit_mac):
        raise IntegrityError(
            f"the audit log ends at record {number}, expected {state.audit}: "
            "records are missing at the end, or too many"
        )


@typed_columns("an audit record")
def read_recent(
    connection: Connection, keys: Keys, state: State, *, since: str
) -> list[dict[str, Json]]:
    """The audit records from the end back to the last one before `since`, in their order.

    Args:
        connection: within a transaction.
        keys: the database's keys.
        state: authentic.
        since: as `records.timestamp` writes it.

    Raises:
        IntegrityError: one of them is changed or missing.
    """
    columns = schema.audit.c
    rows = connection.execution_options(yield_per=200).execute(
        select(columns.sequence, columns.record, columns.mac)
        .where(columns.sequence <= state.audit)
        .order_by(columns.sequence.desc())
    )
    found: list[dict[str, Json]] = []
    later: tuple[int, bytes, bytes] | None = None
    expected = state.audit_mac
    for sequence, data, mac in rows:
        # Each is checked by the one before it, which is read next.
        if later is not None and not same(later[2], audit_mac(keys, mac, later[0], later[1])):
            raise IntegrityError(f"audit record {later[0]} is not authentic: somebody changed it")
        if later is None and not same(mac, expected):
            raise IntegrityError(f"audit record {sequence} is not the last one: some are missing")
        try:
            record = decode_record(bytes(data))
        except FormatError as error:
            raise IntegrityError(f"audit record {sequence} is none: somebody changed it") from error
        if str(record.get("at", "")) < since:
            return found[::-1]
        found.append(record)
        later = sequence, bytes(data), bytes(mac)
    if later is not None and not same(later[2], audit_mac(keys, GENESIS, later[0], later[1])):
        raise IntegrityError(f"audit record {later[0]} is not authentic: somebody changed it")
    return found[::-1]


@typed_columns("the CAS's own keys")
def read_authority(connection: Connection, keys: Keys, bound: bytes) -> tuple[StoredKey, ...]:
    """The CAS's own keys, unsealed.

    Args:
        connection: within a transaction.
        keys: the database's keys.
        bound: the digest that the state row binds.

    Raises:
        IntegrityError: they are not what was stored.
    """
    columns = schema.authority.c
    rows = [
        (str(row[0]), bytes(row[1]), bytes(row[2]))
        for row in connection.execute(select(columns.name, columns.certificate, columns.key))
    ]
    if not same(authority_digest(rows), bound):
        raise IntegrityError("the CAS's own keys are not what was stored: somebody changed them")
    return tuple(
        StoredKey(
            name,
            certificate,
            sealing.unseal(keys, authority_identity(StoredKey(name, certificate, b"")), key),
        )
        for name, certificate, key in rows
    )
