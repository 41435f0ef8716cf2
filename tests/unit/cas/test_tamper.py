"""Who can write the database's file but has not the master key changes nothing unseen."""

from __future__ import annotations

import contextlib
import functools
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crannog.cas.audit import Severity, verify_audit_log
from crannog.cas.keys import FileKey
from crannog.cas.store.accepted import Enrolment, Entry, Kind
from crannog.cas.store.records import Event, Record
from crannog.errors import Error, IntegrityError, Misconfigured, StorageFailed
from crannog.levels import Level
from tests.unit.cas.support import NOW, add, opened

TABLES = ("state", "authority", "versions", "sealed", "audit", "accepted")
LAS = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with two sessions, three versions, and an earlier copy of it."""
    directory = tmp_path_factory.mktemp("genuine")
    store = opened(directory)
    one = add(store, "a")
    add(store, "b")
    store.close()
    shutil.copytree(directory, directory / "earlier")
    store = opened(directory)
    add(store, "a", predecessor=one)
    store.append(Record(NOW, Event.SESSION_READ, session="a"))
    for kind, value in ((Kind.LAS_KEY, LAS), (Kind.LAUNCHER, "ab" * 32)):
        store.accept(Entry(kind, value, "note", "then"), Record(NOW, Event.LAS_ENROLLED))
    token = Enrolment("issuer", "subject", "node", "pod", "uid", issued=0, expires=100)
    for entry in (
        Entry(Kind.LAS_TOKEN, "cd" * 32, "", "then", token),
        Entry(Kind.LAS_BARRED, "ef" * 32, "", "then", token._replace(node="other")),
    ):
        store.accept(entry, Record(NOW, Event.LAS_ENROLLED))
    store.close()
    return directory


@pytest.fixture
def database(genuine: Path, tmp_path: Path) -> Path:
    """A copy to tamper with."""
    shutil.copytree(genuine, tmp_path / "copy")
    return tmp_path / "copy"


def severity(directory: Path) -> Severity:
    return verify_audit_log(directory / "cas.db", keys=FileKey(directory / "master.key")).severity


def read_everything(directory: Path) -> None:
    """Open the store and read each version, as a CAS does."""
    store = opened(directory, level=None)
    try:
        store.authority()
        for name in store.names():
            newest = store.latest(name)
            assert newest is not None
            store.read(newest)
    finally:
        store.close()


def tamper(directory: Path, *statements: str, **values: object) -> None:
    connection = sqlite3.connect(directory / "cas.db")
    for statement in statements:
        connection.execute(statement, values)
    connection.commit()
    connection.close()


def cells(directory: Path) -> list[tuple[str, int, str, Any]]:
    """(table, rowid, column, value) of everything that is stored."""
    connection = sqlite3.connect(directory / "cas.db")
    found = []
    for table in TABLES:
        cursor = connection.execute(f"SELECT rowid, * FROM {table}")
        names = [column[0] for column in cursor.description]
        for row in cursor.fetchall():
            found += [(table, row[0], name, row[i]) for i, name in enumerate(names) if i > 0]
    connection.close()
    return found


def changed(value: Any) -> Iterator[Any]:
    """Other values of the same type and of other types."""
    match value:
        case bytes():
            at = len(value) // 2
            yield value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
            yield value[:-1]
            yield "text"
            yield 7
        case str():
            yield value + "x"
            yield b"\xff"
        case int():
            yield value + 1
            yield -value - 1
            yield "text"


def test_a_genuine_database_verifies(genuine: Path) -> None:
    assert severity(genuine) is Severity.VERIFIED
    read_everything(genuine)


def test_every_stored_value_is_covered(genuine: Path, tmp_path: Path) -> None:
    """Each cell of each row, changed in each way: verifying finds it, and so does using it."""
    unseen = []
    count = 0
    for table, row, column, value in cells(genuine):
        for other in changed(value):
            directory = tmp_path / str(count)
            count += 1
            shutil.copytree(genuine, directory, ignore=shutil.ignore_patterns("earlier"))
            try:
                tamper(directory, f"UPDATE {table} SET {column} = :v WHERE rowid = {row}", v=other)
            except sqlite3.IntegrityError:
                continue  # the database's own constraint
            if severity(directory) is Severity.VERIFIED:
                unseen.append((table, row, column, other))
            # The oldest versions and the middle of the log are not read at every start.
            if table != "sealed" or row != 1:
                with pytest.raises((IntegrityError, Misconfigured, StorageFailed)):
                    read_everything(directory)
            shutil.rmtree(directory)
    assert not unseen
    assert count > 150


@pytest.mark.parametrize("table", TABLES)
def test_a_deleted_row_is_found(database: Path, table: str, genuine: Path) -> None:
    rows = sorted({(row) for name, row, _, _ in cells(genuine) if name == table})
    for row in rows:
        copy = database / f"{table}{row}"
        shutil.copytree(genuine, copy)
        tamper(copy, f"DELETE FROM {table} WHERE rowid = {row}")
        assert severity(copy) is not Severity.VERIFIED
        if table != "sealed" or row != 1:
            with pytest.raises(Error):
                read_everything(copy)


@pytest.mark.parametrize(
    ("table", "one", "other"),
    [("versions", 1, 2), ("versions", 2, 3), ("sealed", 1, 2), ("sealed", 1, 3), ("audit", 2, 3)],
)
def test_swapped_rows_are_found(database: Path, table: str, one: int, other: int) -> None:
    tamper(
        database,
        f"UPDATE {table} SET sequence = -1 WHERE sequence = {one}",
        f"UPDATE {table} SET sequence = {one} WHERE sequence = {other}",
        f"UPDATE {table} SET sequence = {other} WHERE sequence = -1",
    )
    assert severity(database) is not Severity.VERIFIED
    with pytest.raises(Error):
        read_everything(database)


@pytest.mark.parametrize(
    "put_back",
    [
        # the newest version, hidden with its document
        ("DELETE FROM versions WHERE sequence = 3", "DELETE FROM sealed WHERE sequence = 3"),
        # the end of the log
        ("DELETE FROM audit WHERE sequence > 3",),
        # the state row of yesterday
        (
            "ATTACH '{earlier}' AS earlier",
            "DELETE FROM state",
            "INSERT INTO state SELECT * FROM earlier.state",
        ),
        # the state row of yesterday with the versions of yesterday
        (
            "ATTACH '{earlier}' AS earlier",
            "DELETE FROM state",
            "INSERT INTO state SELECT * FROM earlier.state",
            "DELETE FROM versions WHERE sequence = 3",
            "DELETE FROM sealed WHERE sequence = 3",
        ),
        # the newest version with the document of the one before
        ("UPDATE sealed SET document = s.document FROM sealed AS s WHERE s.sequence = 1",),
        # a record once more at the end
        ("INSERT INTO audit SELECT sequence + 10, record, mac FROM audit WHERE sequence = 2",),
        ("INSERT INTO sealed SELECT sequence + 10, document, secrets FROM sealed LIMIT 1",),
    ],
)
def test_rows_put_back_to_an_earlier_state_are_found(
    database: Path, genuine: Path, put_back: tuple[str, ...]
) -> None:
    earlier = genuine / "earlier" / "cas.db"
    tamper(database, *(statement.format(earlier=earlier) for statement in put_back))
    assert severity(database) is not Severity.VERIFIED


def test_another_databases_rows_are_found(database: Path, genuine: Path, tmp_path: Path) -> None:
    """The same master key, the same number of rows, and still not this database's."""
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(genuine / "master.key", other / "master.key")
    store = opened(other)
    add(store, "a")
    store.close()
    tamper(
        database,
        f"ATTACH '{other / 'cas.db'}' AS other",
        "DELETE FROM authority",
        "INSERT INTO authority SELECT * FROM other.authority",
    )
    assert severity(database) is Severity.STATE_CHANGED
    with pytest.raises(IntegrityError):
        read_everything(database)


def test_a_weaker_level_is_not_taken(database: Path) -> None:
    tamper(database, "UPDATE state SET minimum_level = 'node'")
    with pytest.raises(IntegrityError, match="state row is not authentic"):
        opened(database, level=None)


def test_a_whole_rollback_needs_a_kept_head(genuine: Path) -> None:
    """What no chain can show by itself, and the head that a user kept does."""
    store = opened(genuine, level=None)
    head = store.head
    store.close()
    earlier = genuine / "earlier"
    keys = FileKey(earlier / "master.key")
    assert severity(earlier) is Severity.VERIFIED
    found = verify_audit_log(earlier / "cas.db", keys=keys, expect_head=head)
    assert found.severity is Severity.ROLLED_BACK


def test_a_rollback_that_went_on_is_another_history(genuine: Path, tmp_path: Path) -> None:
    store = opened(genuine, level=None)
    head = store.head
    store.close()
    shutil.copytree(genuine / "earlier", tmp_path / "fork")
    store = opened(tmp_path / "fork", level=None)
    for _ in range(10):
        store.append(Record(NOW, Event.SESSION_READ, session="a"))
    store.close()
    keys = FileKey(tmp_path / "fork" / "master.key")
    found = verify_audit_log(tmp_path / "fork" / "cas.db", keys=keys, expect_head=head)
    assert found.severity is Severity.OTHER_HISTORY


def test_an_attacker_without_the_key_cannot_start_over(database: Path) -> None:
    tamper(database, "DELETE FROM state")
    with pytest.raises(IntegrityError, match="its state is missing, and it is not empty"):
        opened(database, level=Level.SIMULATION)


def flip(at: int, data: bytes) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :]


def damage(size: int) -> Iterator[Callable[[bytes], bytes]]:
    for at in range(0, size, 1021):
        yield functools.partial(flip, at)
    yield lambda data: data[: size // 2]
    yield lambda data: data[:4096]


def test_a_damaged_file_never_raises_anything_but_our_errors(genuine: Path, tmp_path: Path) -> None:
    """Any byte of the file, also those of the b-tree: refused, or of no consequence."""
    data = (genuine / "cas.db").read_bytes()
    rows = cells(genuine)
    for number, function in enumerate(damage(len(data))):
        directory = tmp_path / str(number)
        directory.mkdir()
        shutil.copy(genuine / "master.key", directory)
        (directory / "cas.db").write_bytes(function(data))
        with contextlib.suppress(Error):
            read_everything(directory)
        found = severity(directory)
        if found is Severity.VERIFIED:
            assert cells(directory) == rows
        shutil.rmtree(directory)


@pytest.mark.parametrize(
    "change",
    [
        f"INSERT INTO accepted VALUES ('las-key', '{'aa' * 32}', '', 'now', '')",
        "UPDATE accepted SET enrolment = replace(enrolment, '100', '900')",
        "DELETE FROM accepted WHERE kind = 'las-barred'",
        "UPDATE accepted SET enrolment = '' WHERE kind = 'las-barred'",
        "UPDATE accepted SET enrolment = replace(enrolment, 'other', 'othes')",
        "UPDATE accepted SET kind = 'las-key', enrolment = '' WHERE kind = 'las-token'",
        "ALTER TABLE accepted DROP COLUMN enrolment",
        f"UPDATE accepted SET kind = 'las-key' WHERE value = '{'ab' * 32}'",
        "DELETE FROM accepted",
        "DROP TABLE accepted",
    ],
)
def test_nobody_is_trusted_or_forgotten_by_writing_the_file(database: Path, change: str) -> None:
    tamper(database, change)
    assert severity(database) is Severity.STATE_CHANGED
    with pytest.raises(IntegrityError):
        opened(database, level=None)


def test_a_removed_las_is_not_put_back(database: Path) -> None:
    tamper(database, "CREATE TABLE kept AS SELECT * FROM accepted")
    store = opened(database, level=None)
    store.withdraw(Kind.LAS_KEY, LAS, Record(NOW, Event.LAS_REMOVED))
    store.close()
    tamper(database, "DELETE FROM accepted", "INSERT INTO accepted SELECT * FROM kept")
    assert severity(database) is Severity.STATE_CHANGED
    with pytest.raises(IntegrityError):
        opened(database, level=None)
