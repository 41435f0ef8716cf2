"""Group commit: one thread writes, everybody who waits meanwhile shares its next transaction.

A request is a function that adds to a `Batch` or refuses with one of our errors. `submit` returns
when the transaction that holds the request is on disk, and never before. Where the transaction
fails each request in it gets the error, and the state in memory stays what the disk has.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

from sqlalchemy import Insert, Update, bindparam, delete, insert, select, update
from sqlalchemy.engine import Connection, Engine

from crannog.cas.store import schema
from crannog.cas.store.batch import Batch
from crannog.cas.store.database import WRITE, errorname, storage_failed
from crannog.cas.store.records import State, Version
from crannog.cas.store.sealing import Keys
from crannog.errors import StorageFailed, Unavailable

T = TypeVar("T")

MAX_WAITING = 4096
MAX_BATCH = 512
_ADD_VERSIONS = insert(schema.versions)
_ADD_SEALED = insert(schema.sealed)
_DROP_ACCEPTED = delete(schema.accepted)
_ADD_ACCEPTED = insert(schema.accepted)
_ADD_AUDIT = insert(schema.audit).values(
    {name: bindparam(name) for name in ("sequence", "record", "mac")}
)
_CHANGED = ("minimum_level", "versions", "versions_mac", "audit", "audit_mac", "mac")
_REPLACE_STATE = (
    update(schema.state)
    .where(schema.state.c.id == 1, schema.state.c.mac == bindparam("before"))
    .values({name: bindparam(f"new_{name}") for name in _CHANGED})
)


class _Statement:
    """A statement that SQLAlchemy has compiled once, run by the driver.

    For the two of every transaction: preparing one costs SQLAlchemy more than it costs SQLite to
    run it.
    """

    def __init__(self, statement: Insert | Update, engine: Engine) -> None:
        compiled = statement.compile(dialect=engine.dialect)
        self._text = str(compiled)
        self._names = tuple(compiled.positiontup or ())
        self._constants = compiled.params

    def run(self, connection: Connection, rows: list[dict[str, object]]) -> int:
        """Run it for each row of parameters; returns the number of rows changed."""
        named = [{**self._constants, **row} for row in rows]
        if not self._names:  # a driver that takes parameters by name
            return connection.exec_driver_sql(self._text, named).rowcount
        ordered = [tuple(row[name] for name in self._names) for row in named]
        return connection.exec_driver_sql(self._text, ordered).rowcount


class _Ticket(Generic[T]):
    """A request on its way. A bare lock is what a thread waits on: the cheapest there is."""

    __slots__ = ("_done", "_error", "_result", "request")

    def __init__(self, request: Callable[[Batch], T]) -> None:
        self.request = request
        self._done = threading.Lock()
        self._done.acquire()
        self._error: Exception | None = None
        self._result: list[T] = []

    def apply(self, batch: Batch) -> bool:
        mark = batch.mark()
        try:
            self._result.append(self.request(batch))
        except Exception as error:  # noqa: BLE001  # the requester's, raised again in `wait`
            batch.restore(mark)
            self._error = error
        return self._error is None

    def fail(self, error: StorageFailed) -> None:
        self._error = error

    def finish(self) -> None:
        self._done.release()

    def wait(self) -> T:
        self._done.acquire()
        if self._error is not None:
            raise self._error
        return self._result[0]


class Writer:
    """The one thread that writes.

    Args:
        engine: where to; of its own, so that readers never keep it waiting.
        path: the database, for messages.
        keys: what authenticates the chains.
        state: what the disk holds now.
        latest: the newest version of each session; the writer's own from here on.
        on_commit: called with each committed batch before its requests are answered; makes it
            visible to readers.
        after_commit: called between a commit and its replies. Tests kill the process there.
    """

    def __init__(
        self,
        engine: Engine,
        path: Path,
        keys: Keys,
        state: State,
        latest: dict[str, Version],
        *,
        on_commit: Callable[[Batch, State], None],
        after_commit: Callable[[], None] | None = None,
    ) -> None:
        self._engine = engine
        self._path = path
        self._keys = keys
        self.state = state
        self._latest = latest
        self._on_commit = on_commit
        self._after_commit = after_commit
        self._waiting: deque[_Ticket[object]] = deque()
        self._wake = threading.Condition(threading.Lock())
        self._idle = False
        self._closing = False
        self._broken: StorageFailed | None = None
        self._doubtful: Batch | None = None
        self._connection: Connection | None = None
        self._add_audit = _Statement(_ADD_AUDIT, engine)
        self._replace_state = _Statement(_REPLACE_STATE, engine)
        self._thread = threading.Thread(target=self._run, name="cas-writer", daemon=True)
        self._thread.start()

    def submit(self, request: Callable[[Batch], T]) -> T:
        """Have `request` applied and committed; returns what it returned.

        Raises:
            StorageFailed: the commit failed; nothing of the request is stored.
            Unavailable: too many wait already, or the store is closed.
            Whatever `request` raises.
        """
        ticket = _Ticket(request)
        with self._wake:
            if self._closing:
                raise Unavailable("the store is closed")
            if len(self._waiting) >= MAX_WAITING:
                raise Unavailable(f"{MAX_WAITING} requests wait for the disk already")
            self._waiting.append(ticket)  # type: ignore[arg-type]  # invariant; only wait() reads
            if self._idle:
                self._wake.notify()
        return ticket.wait()

    def close(self) -> None:
        """Commit what waits, then end and let go of the database."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
        self._engine.dispose()

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._waiting and not self._closing:
                    self._idle = True
                    self._wake.wait()
                    self._idle = False
                if not self._waiting:
                    break
                count = min(len(self._waiting), MAX_BATCH)
                tickets = [self._waiting.popleft() for _ in range(count)]
            self._serve(tickets)
        self._disconnect()

    def _serve(self, tickets: list[_Ticket[object]]) -> None:
        try:
            self._commit(tickets)
        except StorageFailed as error:
            self._fail(tickets, error)
        except BaseException as error:  # noqa: BLE001  # told to whoever waits
            # A bug of ours. Whoever waits must not wait for ever, and nothing may be written on
            # top of a state that nobody understands.
            self._broken = StorageFailed(
                "the store stopped after an internal error",
                hint="restart the CAS",
                internal=repr(error),
            )
            self._fail(tickets, self._broken)
        finally:
            for ticket in tickets:
                ticket.finish()

    @staticmethod
    def _fail(tickets: list[_Ticket[object]], error: StorageFailed) -> None:
        for ticket in tickets:
            # One object each: who raises it adds a traceback and a cause of its own.
            ticket.fail(StorageFailed(error.message, hint=error.hint, internal=error.internal))

    def _commit(self, tickets: list[_Ticket[object]]) -> None:
        if self._broken is not None:
            raise self._broken
        try:
            self._settle()
            batch = Batch(self._keys, self.state, self._latest)
            applied = [ticket for ticket in tickets if ticket.apply(batch)]
            if not applied:
                return
            state = batch.state()
            self._write(batch, state)
        except StorageFailed:
            self._disconnect()
            raise
        except Exception as error:
            failure = storage_failed(self._path, error)
            self._disconnect()
            if not failure.internal.startswith("SQLITE_"):
                raise
            if "FSYNC" in errorname(error):
                # What an fsync that failed has dropped, a later one that succeeds does not bring
                # back: nothing may be promised on top of it.
                self._broken = failure
            raise failure from error
        if self._after_commit is not None:
            self._after_commit()
        self._install(batch, state)

    def _write(self, batch: Batch, state: State) -> None:
        connection = self._connect()
        with connection.begin():
            if batch.version_rows:
                connection.execute(_ADD_VERSIONS, [_version_row(row) for row in batch.version_rows])
                connection.execute(
                    _ADD_SEALED,
                    [
                        {"sequence": number, "document": document, "secrets": secrets}
                        for number, document, secrets in batch.sealed_rows
                    ],
                )
            if batch.audit_rows:
                self._add_audit.run(
                    connection,
                    [
                        {"sequence": number, "record": record, "mac": mac}
                        for number, record, mac in batch.audit_rows
                    ],
                )
            if state.accepted is not self.state.accepted:
                self._write_accepted(connection, state)
            changes: dict[str, object] = {
                "before": self.state.mac,
                "new_minimum_level": state.level.value,
                "new_versions": state.versions,
                "new_versions_mac": state.versions_mac,
                "new_audit": state.audit,
                "new_audit_mac": state.audit_mac,
                "new_mac": state.mac,
            }
            if self._replace_state.run(connection, [changes]) != 1:
                self._broken = StorageFailed(
                    f"database {self._path}: somebody else has written to it",
                    hint="verify the audit log, find out who, then restart the CAS",
                )
                raise self._broken
            # Until the next batch has seen what became of it: an error while committing does not
            # say that nothing was committed.
            self._doubtful = batch
        self._doubtful = None

    @staticmethod
    def _write_accepted(connection: Connection, state: State) -> None:
        # Bounded and rarely changed: written whole, so that the rows are what the MAC was made of.
        connection.execute(_DROP_ACCEPTED)
        rows = [
            {
                "kind": one.kind.value,
                "value": one.value,
                "note": one.note,
                "added": one.added,
                "enrolment": "" if one.enrolment is None else one.enrolment.encode(),
            }
            for one in state.accepted.entries
        ]
        if rows:
            connection.execute(_ADD_ACCEPTED, rows)

    def _settle(self) -> None:
        """After a commit that failed: what the disk holds is what is true."""
        batch = self._doubtful
        if batch is None:
            return
        with self._connect().begin():
            found = self._connect().execute(select(schema.state.c.mac)).scalar_one()
        self._doubtful = None
        state = batch.state()
        if found == state.mac:
            self._install(batch, state)
        elif found != self.state.mac:
            self._broken = StorageFailed(
                f"database {self._path}: it is neither before nor after the last commit",
                hint="verify the audit log, then restart the CAS",
            )
            raise self._broken

    def _install(self, batch: Batch, state: State) -> None:
        self.state = state
        self._latest.update(batch.added)
        self._on_commit(batch, state)

    def _connect(self) -> Connection:
        if self._connection is None:
            self._connection = self._engine.connect().execution_options(**{WRITE: True})
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.invalidate()
            connection.close()


def _version_row(version: Version) -> dict[str, object]:
    return {
        "sequence": version.sequence,
        "name": version.name,
        "number": version.number,
        "hash": version.hash,
        "predecessor": version.predecessor,
        "created": version.created,
        "document_digest": version.document,
        "secrets_digest": version.secrets,
        "mac": version.mac,
    }
