"""What becomes of a commit that fails, or whose end is not known."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crannog.cas.store.batch import Batch
from crannog.cas.store.records import Event, Record, State
from crannog.cas.store.store import Store
from crannog.cas.store.writer import Writer
from crannog.errors import StorageFailed
from tests.unit.cas.support import NOW, add, opened

READ = Record(NOW, Event.SESSION_READ)


class DiskError(sqlite3.OperationalError):
    """What the sqlite3 module raises, with SQLite's name of it."""

    def __init__(self, name: str) -> None:
        super().__init__("disk I/O error")
        self.sqlite_errorname = name


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    found = opened(tmp_path)
    yield found
    found.close()
    # Whatever happened: what is on the disk is whole.
    opened(tmp_path, level=None).close()


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The next commit raises, before or after it is on disk."""
    genuine = Writer._write

    def arm(name: str, *, written: bool) -> None:
        def write(self: Writer, batch: Batch, state: State) -> None:
            monkeypatch.setattr(Writer, "_write", genuine)
            if written:
                genuine(self, batch, state)
            self._doubtful = batch
            raise DiskError(name)

        monkeypatch.setattr(Writer, "_write", write)

    return arm


def test_a_commit_that_failed_leaves_nothing(store: Store, failing: Callable[..., None]) -> None:
    head = store.head
    failing("SQLITE_IOERR_WRITE", written=False)
    with pytest.raises(StorageFailed, match="the disk refused"):
        add(store, "a")
    assert store.head == head
    assert store.latest("a") is None
    add(store, "a")
    assert store.head.sequence == head.sequence + 1


def test_a_commit_that_happened_after_all_is_found_out(
    store: Store, failing: Callable[..., None]
) -> None:
    """The reply was an error; the next request sees what the disk has."""
    head = store.head
    failing("SQLITE_IOERR_WRITE", written=True)
    with pytest.raises(StorageFailed):
        add(store, "a")
    store.append(READ)
    assert store.head.sequence == head.sequence + 2
    assert store.latest("a") is not None


def test_after_a_failed_fsync_nothing_more_is_promised(
    store: Store, failing: Callable[..., None]
) -> None:
    """Linux forgets the pages that could not be written; a later fsync would say all is well."""
    failing("SQLITE_IOERR_FSYNC", written=False)
    for _ in range(3):
        with pytest.raises(StorageFailed, match="the disk refused"):
            store.append(READ)


def test_a_bug_in_the_writer_reaches_everybody_who_waits(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Writer, batch: Batch, state: State) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(Writer, "_write", broken)
        with pytest.raises(StorageFailed, match="internal error") as caught:
            store.append(READ)
    assert "ZeroDivision" in caught.value.internal
    assert "ZeroDivision" not in caught.value.message
    with pytest.raises(StorageFailed, match="internal error"):
        store.append(READ)


def test_each_failed_request_gets_an_error_of_its_own(
    store: Store, failing: Callable[..., None]
) -> None:
    failing("SQLITE_FULL", written=False)
    caught = []
    for _ in range(2):
        failing("SQLITE_FULL", written=False)
        with pytest.raises(StorageFailed, match="disk is full") as one:
            store.append(READ)
        caught.append(one.value)
    assert caught[0] is not caught[1]
