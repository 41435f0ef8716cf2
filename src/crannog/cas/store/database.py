"""SQLite under SQLAlchemy: how it is opened, locked, and what its failures are called.

WAL with `synchronous=FULL`: a commit returns after the log is on disk. Nothing here knows what is
stored.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import create_engine, event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

from crannog.cas.keys import sync_directory
from crannog.errors import Conflict, StorageFailed

WRITE = "crannog_write"
_BUSY_SECONDS = 10.0
_READERS = 8

# What the disk says, in the operator's words. Matched by the beginning of SQLite's own name.
_FAILURES = (
    ("SQLITE_FULL", "the disk is full", "free some space; nothing was lost or half-written"),
    (
        "SQLITE_READONLY",
        "it cannot be written",
        "check the mode and the owner of the state directory and that it is not mounted read-only",
    ),
    (
        "SQLITE_CANTOPEN",
        "it cannot be opened",
        "check that the state directory exists and belongs to the user that runs the CAS",
    ),
    ("SQLITE_NOTADB", "it is not a database", "restore it from a backup, or name another file"),
    ("SQLITE_CORRUPT", "it is damaged", "restore it from a backup; the CAS does not guess"),
    ("SQLITE_BUSY", "another process holds it", "end whatever else has it open"),
    ("SQLITE_LOCKED", "another process holds it", "end whatever else has it open"),
    ("SQLITE_AUTH", "access was denied", "check the state directory"),
    (
        "SQLITE_IOERR",
        "the disk refused to read or write",
        "check the disk and its free space; nothing was half-written",
    ),
)


class Lock:
    """Holds `<database>.lock` for as long as it lives: one CAS per database.

    The lock is the kernel's (`flock`), so it ends with the process however that ends. The file
    stays and holds the last holder's process id.
    """

    def __init__(self, database: Path) -> None:
        path = database.with_name(database.name + ".lock")
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageFailed(
                f"lock file {path} cannot be opened: {error.strerror}",
                hint=f"user {os.geteuid()}, who runs the CAS, needs it writable",
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            who = f"process {holder}" if holder.isdecimal() else "another process"
            raise Conflict(
                f"database {database} is held by {who}, expected one CAS per database",
                hint="stop that CAS, or give this one a state directory of its own",
            ) from error
        # Only for the message above: a full disk must not keep a CAS from starting.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another CAS have the database."""
        os.close(self._descriptor)


def create_file(path: Path) -> None:
    """An empty database file that only its owner can open; SQLite's other files take its mode."""
    with failures(path):
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            sync_directory(path.parent)
        except FileExistsError:
            return
        except OSError as error:
            raise StorageFailed(
                f"database {path} cannot be created: {error.strerror}",
                hint=f"user {os.geteuid()}, who runs the CAS, needs it writable",
            ) from error


def connect(path: Path, *, read_only: bool = False) -> Engine:
    """An engine on an existing file; nothing is opened yet.

    Transactions are ours: reads begin deferred and see one snapshot without blocking the writer;
    connections with the execution option `WRITE` begin immediate.

    Args:
        path: the file.
        read_only: change nothing. Where the directory cannot be written either, as on a backup's
            medium, a database that was closed properly is read all the same.
    """
    mode = "ro&immutable=1" if read_only and _is_closed_and_fixed(path) else "rw"
    # Through a creator: SQLAlchemy's own reading of a URL undoes the quoting of the path.
    target = f"file:{quote(os.fsencode(path.absolute()))}?mode={mode}"
    engine = create_engine(
        "sqlite+pysqlite://",
        creator=lambda: sqlite3.connect(
            target, uri=True, timeout=_BUSY_SECONDS, check_same_thread=False
        ),
        poolclass=QueuePool,
        pool_size=_READERS,
        max_overflow=0,
        pool_timeout=_BUSY_SECONDS,
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: sqlite3.Connection, _: ConnectionPoolEntry) -> None:
        connection.isolation_level = None
        connection.execute("PRAGMA trusted_schema=OFF")
        connection.execute("PRAGMA cell_size_check=ON")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA temp_store=MEMORY")
        if read_only:
            connection.execute("PRAGMA query_only=ON")
            return
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get(WRITE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _is_closed_and_fixed(path: Path) -> bool:
    # SQLite reads a database in WAL mode only where it may make two files beside it.
    log = path.with_name(path.name + "-wal")
    writable = os.access(path.parent, os.W_OK) and os.access(path, os.W_OK)
    return not writable and not (log.exists() and log.stat().st_size)


@contextlib.contextmanager
def failures(path: Path) -> Iterator[None]:
    """Turns what the database and the disk raise into `StorageFailed` with a text for operators."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error, OSError, MemoryError) as error:
        raise storage_failed(path, error) from error


def storage_failed(path: Path, error: Exception) -> StorageFailed:
    """The operator's words for what went wrong."""
    name = errorname(error)
    for prefix, what, hint in _FAILURES:
        if name.startswith(prefix):
            return StorageFailed(f"database {path}: {what}", hint=hint, internal=name)
    detail = name or type(error).__name__
    hint = ""
    if isinstance(error, OSError) and error.strerror:
        detail = error.strerror
        hint = f"user {os.geteuid()}, who runs the CAS, needs it writable"
    return StorageFailed(
        f"database {path}: it cannot be used ({detail})", hint=hint, internal=detail
    )


def errorname(error: Exception) -> str:
    """SQLite's name of the failure, such as SQLITE_FULL; "" where it is not SQLite's."""
    original = error.orig if isinstance(error, DBAPIError) else error
    return str(getattr(original, "sqlite_errorname", ""))
