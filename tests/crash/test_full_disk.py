"""No space: said clearly, nothing half-written, and the store goes on when there is space again."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crannog.cas.audit import verify_audit_log
from crannog.cas.keys import FileKey
from crannog.cas.store.records import Event, Record, Version
from crannog.cas.store.store import Store
from crannog.errors import StorageFailed
from tests.unit.cas.support import NOW, add, opened

ROOT = Path(__file__).parents[2]
SIZE = 2 * 1024 * 1024


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", mounted],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted (needs root)")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


def fill_until_refused(store: Store) -> tuple[list[Version], StorageFailed]:
    stored = []
    for number in range(200):
        try:
            stored.append(add(store, f"s{number}", document=os.urandom(50_000)))
        except StorageFailed as error:
            return stored, error
    raise AssertionError("the disk was never full")


def test_a_full_disk_is_said_and_survived(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(SIZE // 2))
    store = opened(small_disk)
    stored, error = fill_until_refused(store)
    head = store.head
    # (1) in the operator's words
    assert "disk is full" in error.message
    assert "space" in error.hint
    # (2) what is stored is readable, what failed is not there, the head did not move
    assert store.read(stored[0])
    assert store.latest(f"s{len(stored)}") is None
    with pytest.raises(StorageFailed):
        add(store, "again", document=os.urandom(50_000))
    assert store.head == head
    # (3) with space again it goes on, without a restart
    ballast.unlink()
    later = add(store, "later", document=os.urandom(50_000))
    assert store.read(later)
    store.close()
    found = verify_audit_log(small_disk / "cas.db", keys=FileKey(small_disk / "master.key"))
    assert found.findings == ()
    assert found.versions == len(stored) + 1


def test_a_store_that_is_stopped_while_the_disk_is_full_opens_again(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(SIZE // 2))
    store = opened(small_disk)
    stored, _ = fill_until_refused(store)
    store.close()
    ballast.unlink()
    store = opened(small_disk, level=None)
    assert set(store.names()) == {version.name for version in stored}
    store.close()


def test_a_full_disk_at_the_first_start_is_said(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space"):
        ballast.write_bytes(bytes(2 * SIZE))
    with pytest.raises(StorageFailed):
        opened(small_disk)
    ballast.unlink()
    opened(small_disk).close()


def test_a_disk_that_has_become_read_only_is_said_and_survived(small_disk: Path) -> None:
    store = opened(small_disk)
    version = add(store, "before")
    store.close()
    remount = ["mount", "-o", "remount,{}", str(small_disk)]
    subprocess.run([part.format("ro") for part in remount], check=True)
    with pytest.raises(StorageFailed) as caught:
        opened(small_disk, level=None)
    assert "writable" in caught.value.hint or "read-only" in caught.value.hint
    subprocess.run([part.format("rw") for part in remount], check=True)
    store = opened(small_disk, level=None)
    assert store.latest("before") == version
    store.close()


LIMITED = """
import os, resource, signal, sys
from pathlib import Path
from crannog.errors import StorageFailed
from tests.unit.cas.support import add, opened
store = opened(Path(sys.argv[1]))
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
size = max(path.stat().st_size for path in Path(sys.argv[1]).iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100_000, hard))
stored = 0
try:
    for number in range(100):
        add(store, f"s{number}", document=os.urandom(20_000))
        stored += 1
except StorageFailed as error:
    print("refused", error)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
add(store, "later")
store.close()
print("stored", stored + 1)
"""


def test_a_file_that_may_not_grow_is_said_and_survived(tmp_path: Path) -> None:
    """The same without root: the kernel refuses to let the file grow (RLIMIT_FSIZE)."""
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "refused database" in done.stdout
    stored = int(done.stdout.split()[-1])
    found = verify_audit_log(tmp_path / "cas.db", keys=FileKey(tmp_path / "master.key"))
    assert found.findings == ()
    assert found.versions == stored


def test_a_failed_batch_fails_each_of_its_requests(small_disk: Path) -> None:
    import threading

    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(SIZE // 2))
    store = opened(small_disk)
    fill_until_refused(store)
    head = store.head
    outcomes: list[str] = []

    def write(number: int) -> None:
        try:
            add(store, f"t{number}", document=os.urandom(100_000))
            outcomes.append("stored")
        except StorageFailed:
            outcomes.append("refused")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes == ["refused"] * 16
    assert store.head == head
    ballast.unlink()
    store.append(Record(NOW, Event.SESSION_READ))
    assert store.head.sequence == head.sequence + 1
    store.close()
    opened(small_disk, level=None).close()
