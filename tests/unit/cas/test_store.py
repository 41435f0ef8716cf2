from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from crannog.cas.keys import EnvironmentKey, FileKey
from crannog.cas.store.opening import open_store
from crannog.cas.store.records import Event, Record
from crannog.errors import (
    AlreadyExists,
    Conflict,
    Misconfigured,
    NotFound,
    StorageFailed,
    Unavailable,
)
from crannog.levels import Level
from tests.unit.cas.support import NOW, add, opened


def test_what_is_stored_reads_back_after_a_restart(tmp_path: Path) -> None:
    store = opened(tmp_path)
    version = add(store, "one", document=b"doc", secrets=b"sec")
    assert store.read(version) == (b"doc", b"sec")
    head = store.head
    store.close()
    again = opened(tmp_path, level=None)
    assert again.latest("one") == version
    assert again.read(version) == (b"doc", b"sec")
    assert again.head == head
    assert again.minimum_level is Level.SIMULATION
    again.close()


def test_neither_document_nor_secret_is_in_the_files(tmp_path: Path) -> None:
    store = opened(tmp_path)
    add(store, "one", document=b"GREETING-IN-PLAIN", secrets=b"SECRET-IN-PLAIN")
    during = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    store.close()
    after = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"IN-PLAIN" not in during + after
    assert b"PRIVATE KEY" not in after


def test_the_database_and_its_journal_are_their_owners_only(tmp_path: Path) -> None:
    store = opened(tmp_path / "state")
    add(store, "one")
    names = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state").iterdir()}
    store.close()
    assert {"cas.db", "cas.db-wal", "cas.db.lock", "master.key"} <= set(names)
    assert set(names.values()) == {0o600}
    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700


def test_a_new_database_needs_a_level(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="needs a minimum level"):
        opened(tmp_path, level=None)
    assert not (tmp_path / "master.key").exists()
    assert not (tmp_path / "cas.db").exists()


def test_another_level_than_the_databases_is_refused(tmp_path: Path) -> None:
    opened(tmp_path, level=Level.NODE).close()
    with pytest.raises(Misconfigured, match=r"given as simulation, but .* created with node"):
        opened(tmp_path, level=Level.SIMULATION)
    opened(tmp_path, level=Level.NODE).close()


def test_the_level_changes_only_with_a_record_of_it(tmp_path: Path) -> None:
    store = opened(tmp_path, level=Level.NODE)
    before = store.head.sequence
    store.set_minimum_level(Level.HARDWARE, Record(NOW, Event.MINIMUM_LEVEL_CHANGED, actor="me"))
    assert store.minimum_level is Level.HARDWARE
    assert store.head.sequence == before + 1
    store.close()
    assert opened_level(tmp_path) is Level.HARDWARE


def opened_level(directory: Path) -> Level:
    store = opened(directory, level=None)
    store.close()
    return store.minimum_level


def test_another_master_key_is_refused_and_named(tmp_path: Path) -> None:
    opened(tmp_path).close()
    provider = EnvironmentKey("OTHER_KEY", {"OTHER_KEY": "00" * 32})
    with pytest.raises(Misconfigured, match="master key of variable OTHER_KEY is not the one"):
        open_store(tmp_path / "cas.db", keys=provider, now=NOW)


def test_a_lost_key_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "master.key").unlink()
    with pytest.raises(Misconfigured, match="holds no master key") as caught:
        opened(tmp_path)
    assert "restore the key" in caught.value.hint
    assert not (tmp_path / "master.key").exists()


def test_an_empty_file_left_by_a_crash_becomes_a_database(tmp_path: Path) -> None:
    (tmp_path / "cas.db").touch(0o600)
    store = opened(tmp_path)
    add(store, "one")
    store.close()


def test_what_is_not_a_database_is_refused(tmp_path: Path) -> None:
    FileKey(tmp_path / "master.key").create(os.urandom)
    (tmp_path / "cas.db").write_bytes(b"something else entirely" * 100)
    with pytest.raises(StorageFailed, match="it is not a database"):
        opened(tmp_path)


def test_a_newer_schema_is_refused_and_nothing_is_changed(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with sqlite3.connect(tmp_path / "cas.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    before = (tmp_path / "cas.db").read_bytes()
    with pytest.raises(Misconfigured, match=r"schema version '9999', expected at most '0003'"):
        opened(tmp_path)
    assert (tmp_path / "cas.db").read_bytes() == before


def test_a_second_cas_on_the_same_database_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    script = (
        "import sys, datetime, pathlib\n"
        "from crannog.cas.keys import FileKey\n"
        "from crannog.cas.store.opening import open_store\n"
        "path = pathlib.Path(sys.argv[1])\n"
        "try:\n"
        "    open_store(path / 'cas.db', keys=FileKey(path / 'master.key'),\n"
        "               now=datetime.datetime.now(datetime.UTC))\n"
        "except Exception as error:\n"
        "    print(error.code, error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False
    )
    store.close()
    assert f"conflict database {tmp_path}/cas.db is held by process {os.getpid()}" in done.stdout
    opened(tmp_path).close()


def test_a_second_store_in_the_same_process_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    with pytest.raises(Conflict, match="expected one CAS per database"):
        opened(tmp_path)
    store.close()


def test_history_is_linear(tmp_path: Path) -> None:
    store = opened(tmp_path)
    one = add(store, "a")
    two = add(store, "a", predecessor=one)
    assert (two.number, two.predecessor) == (2, one.hash)
    with pytest.raises(Conflict, match="is not the newest version"):
        add(store, "a", predecessor=one)
    with pytest.raises(AlreadyExists) as exists:
        add(store, "a")
    assert exists.value.message == "Session already exists, please specify predecessor hash"
    with pytest.raises(NotFound, match="Session not found"):
        add(store, "b", predecessor=two)
    assert store.names() == ("a",)
    assert store.version("a", one.hash) == one
    assert store.version("b", one.hash) is None
    store.close()


def test_of_two_updates_at_once_exactly_one_wins(tmp_path: Path) -> None:
    store = opened(tmp_path)
    current = add(store, "a")
    for _ in range(10):
        outcomes: list[str] = []
        start = threading.Barrier(8)

        def update(current: object = current, outcomes: list[str] = outcomes) -> None:
            start.wait()  # noqa: B023  # one barrier a round, and all threads end in it
            try:
                add(store, "a", predecessor=current)  # type: ignore[arg-type]
                outcomes.append("won")
            except Conflict:
                outcomes.append("conflict")

        threads = [threading.Thread(target=update) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(outcomes) == ["conflict"] * 7 + ["won"]
        newest = store.latest("a")
        assert newest is not None
        current = newest
    assert current.number == 11
    store.close()


def test_a_reply_is_only_given_after_its_commit(tmp_path: Path) -> None:
    seen: list[int] = []

    def look() -> None:
        reader = sqlite3.connect(tmp_path / "cas.db")
        seen.append(reader.execute("SELECT count(*) FROM versions").fetchone()[0])
        reader.close()
        assert not replied

    replied: list[str] = []
    store = opened(tmp_path, after_commit=look)
    add(store, "a")
    replied.append("a")
    assert seen == [1]
    replied.clear()
    store.close()


def test_waiting_requests_share_one_commit(tmp_path: Path) -> None:
    commits: list[int] = []
    entered, leave = threading.Event(), threading.Event()

    def hold() -> None:
        commits.append(1)
        entered.set()
        assert leave.wait(30)

    store = opened(tmp_path, after_commit=hold)
    threads = [
        threading.Thread(
            target=store.append, args=(Record(NOW, Event.SESSION_READ, session=str(n)),)
        )
        for n in range(20)
    ]
    threads[0].start()
    assert entered.wait(30)
    for thread in threads[1:]:
        thread.start()
    # All of them wait for the first commit's end, and then for one more.
    while len(store._writer._waiting) < 19:
        pass
    leave.set()
    for thread in threads:
        thread.join()
    assert len(commits) == 2
    assert store.head.sequence == 21
    store.close()


def test_a_request_that_fails_halfway_leaves_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    head = store.head

    def broken(batch: object) -> None:
        batch.add_record(Record(NOW, Event.SESSION_READ))  # type: ignore[attr-defined]
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        store._writer.submit(broken)
    store.append(Record(NOW, Event.SESSION_READ))
    assert store.head.sequence == head.sequence + 1
    store.close()
    opened(tmp_path).close()


def test_somebody_elses_write_stops_the_store(tmp_path: Path) -> None:
    store = opened(tmp_path)
    foreign = sqlite3.connect(tmp_path / "cas.db")
    foreign.execute("UPDATE state SET mac = zeroblob(32)")
    foreign.commit()
    foreign.close()
    with pytest.raises(StorageFailed, match="somebody else has written"):
        add(store, "a")
    with pytest.raises(StorageFailed, match="somebody else has written"):
        store.append(Record(NOW, Event.SESSION_READ))
    assert store.latest("a") is None
    store.close()


def test_a_closed_store_takes_nothing(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.close()
    store.close()
    with pytest.raises(Unavailable, match="closed"):
        store.append(Record(NOW, Event.SESSION_READ))


def test_hostile_text_in_a_record_is_cut_and_stored(tmp_path: Path) -> None:
    store = opened(tmp_path)
    store.append(
        Record(
            NOW,
            Event.REQUEST_REFUSED,
            session="\ud800\0" * 10000,
            actor="\x01" * 10000,
            notes=tuple((f"n{n}", "\x02" * 10000) for n in range(100)),
        )
    )
    store.close()
    opened(tmp_path).close()


def test_reads_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    entered, leave = threading.Event(), threading.Event()
    holding = threading.Event()

    def hold() -> None:
        if holding.is_set():
            entered.set()
            assert leave.wait(30)

    store = opened(tmp_path, after_commit=hold)
    version = add(store, "a")
    holding.set()
    writer = threading.Thread(target=add, args=(store, "b"))
    writer.start()
    assert entered.wait(30)
    assert store.read(version) == (b"document", b"secrets")
    leave.set()
    writer.join()
    store.close()


def test_a_log_longer_than_what_is_verified_at_start_opens(tmp_path: Path) -> None:
    from crannog.cas.store import reading

    store = opened(tmp_path)
    for _ in range(30):
        store.append(Record(NOW, Event.SESSION_READ))
    connection = store._engine.connect()
    for tail in (1, 7, 31, 32):
        reading.verify_tail(connection, store._keys, store._state, tail=tail)
    connection.close()
    store.close()


def test_the_same_database_by_another_name_is_refused_too(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "cas.db").symlink_to(tmp_path / "cas.db")
    (tmp_path / "link" / "master.key").symlink_to(tmp_path / "master.key")
    with pytest.raises(Conflict, match="one CAS per database"):
        opened(tmp_path / "link", level=None)
    store.close()
    opened(tmp_path / "link", level=None).close()


@pytest.mark.parametrize("name", ["\udcff", "a?mode=memory&b=%2e#c", "line\nend"])
def test_a_directory_of_any_name_holds_a_database(tmp_path: Path, name: str) -> None:
    directory = tmp_path / name
    directory.mkdir()
    store = opened(directory)
    version = add(store, "one", document=b"doc", secrets=b"sec")
    store.close()
    assert (directory / "cas.db").stat().st_size > 0
    again = opened(directory, level=None)
    assert again.read(version) == (b"doc", b"sec")
    again.close()
