"""In-memory files, without a program: what is kept, what is dropped, what is refused."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from crannog.errors import IntegrityError
from crannog.runtime.supervisor.contents import Contents, memory_bound
from crannog.runtime.supervisor.namespace import Namespace, Owner
from crannog.runtime.supervisor.resolve import Found, Where
from crannog.runtime.supervisor.world import InjectedFile, World
from crannog.shield.model import Protection, Region
from crannog.testing.protection import protect


class Store:
    def __init__(
        self,
        base: Path,
        files: Mapping[str, bytes],
        *,
        memory: int = 1 << 20,
        descriptors: int = 64,
        protection: Protection = Protection.ENCRYPTED,
        kernel: str = "",
    ) -> None:
        self.app = os.fsencode(base / "app")
        disk = os.fsencode(base / (kernel or "app"))
        regions = (
            Region(b"/", Protection.NOT_PROTECTED, b"/", 0),
            Region(self.app, protection, disk, 4096),
        )
        made = protect(
            {self.app + b"/" + os.fsencode(name): data for name, data in files.items()},
            regions=regions,
            chunk_length=4096,
            owner=(os.getuid(), os.getgid()),
        )
        for path, data in made.disk.items():
            place = Path(os.fsdecode(disk + path[len(self.app) :]))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        self.said: list[str] = []
        world = World(fspf=made.open(), files=(InjectedFile(b"/injected", b"content", 0o640),))
        self.namespace = Namespace(world, Owner(0, 0, 0), lambda path: path)
        self.contents = Contents(
            self.namespace,
            memory_limit=memory,
            descriptor_limit=descriptors,
            threads=2,
            say=self.said.append,
        )

    def found(self, name: str) -> Found:
        path = self.app + b"/" + os.fsencode(name)
        return Found(Where.FILE, path, self.namespace.entry(path))

    def read(self, name: str) -> bytes:
        file = self.contents.open_file(self.found(name))
        descriptor = self.contents.open_for(file, os.O_RDONLY)
        with os.fdopen(descriptor, "rb") as opened:
            return opened.read()


@pytest.mark.parametrize("protection", [Protection.ENCRYPTED, Protection.AUTHENTICATED])
@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 300_000, 9_000_000])
def test_contents_of_all_sizes(tmp_path: Path, protection: Protection, size: int) -> None:
    data = os.urandom(size)
    store = Store(tmp_path, {"f": data}, memory=1 << 26, protection=protection)
    assert store.read("f") == data


def test_files_may_lie_elsewhere_on_disk(tmp_path: Path) -> None:
    store = Store(tmp_path, {"sub/f": b"data"}, kernel="volume")
    assert not (tmp_path / "app").exists()
    assert store.read("sub/f") == b"data"


def test_what_stat_says_before_and_after_is_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path, {"f": b"data" * 1000})
    before = store.contents.status(store.found("f"))
    store.read("f")
    after = store.contents.status(store.found("f"))
    assert (before.st_dev, before.st_ino, before.st_size) == (
        *(after.st_dev, after.st_ino),
        4000,
    )
    assert before.st_mtime_ns == after.st_mtime_ns == 1_600_000_000 * 10**9
    assert after.st_mode & 0o777 == 0o644


def test_a_protected_file_is_sealed(tmp_path: Path) -> None:
    store = Store(tmp_path, {"f": b"data"})
    file = store.contents.open_file(store.found("f"))
    descriptor = os.open(file.name, os.O_RDWR)
    with pytest.raises(PermissionError):
        os.pwrite(descriptor, b"x", 0)
    with pytest.raises(PermissionError):
        os.ftruncate(descriptor, 0)
    os.close(descriptor)


def test_a_file_whose_mode_shuts_out_its_owner_is_opened_for_others(tmp_path: Path) -> None:
    store = Store(tmp_path, {"f": b"data"})
    file = store.contents.open_file(store.found("f"))
    os.fchmod(file.descriptor, 0)
    os.close(store.contents.open_for(file, os.O_RDONLY))
    assert os.fstat(file.descriptor).st_mode & 0o777 == 0


def test_many_threads_decrypt_once(tmp_path: Path) -> None:
    store = Store(tmp_path, {"f": os.urandom(500_000)})
    seen: list[int] = []

    def work() -> None:
        seen.append(store.contents.open_file(store.found("f")).descriptor)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert len(set(seen)) == 1


def test_the_longest_unused_is_dropped_for_another(tmp_path: Path) -> None:
    store = Store(tmp_path, dict.fromkeys("abc", b"x" * 400), memory=1000)
    for name in "abac":
        store.read(name)
    known = {name: store.contents.known(store.found(name)) is not None for name in "abc"}
    assert known == {"a": True, "b": False, "c": True}
    assert store.read("b") == b"x" * 400


def test_what_is_open_is_kept(tmp_path: Path) -> None:
    store = Store(tmp_path, dict.fromkeys("abc", b"x" * 400), memory=1000)
    file = store.contents.open_file(store.found("a"))
    held = store.contents.open_for(file, os.O_RDONLY)
    store.read("b")
    store.read("c")
    assert store.contents.known(store.found("a")) is file
    assert store.contents.known(store.found("b")) is None
    os.close(held)


def test_what_is_mapped_is_kept(tmp_path: Path) -> None:
    import mmap

    store = Store(tmp_path, dict.fromkeys("abc", b"x" * 400), memory=1000)
    file = store.contents.open_file(store.found("a"))
    held = store.contents.open_for(file, os.O_RDONLY)
    mapped = mmap.mmap(held, 400, prot=mmap.PROT_READ)
    os.close(held)
    store.read("b")
    store.read("c")
    assert store.contents.known(store.found("a")) is file
    mapped.close()


def test_descriptors_are_bounded(tmp_path: Path) -> None:
    store = Store(tmp_path, {f"f{i}": b"x" for i in range(20)}, descriptors=8)
    before = len(os.listdir("/proc/self/fd"))
    for index in range(20):
        store.contents.status(store.found(f"f{index}"))
        store.read(f"f{index}")
    assert len(os.listdir("/proc/self/fd")) - before <= 8


def test_a_file_too_large_is_named(tmp_path: Path) -> None:
    store = Store(tmp_path, {"f": b"x" * 5000}, memory=4000)
    with pytest.raises(OSError, match="too large"):
        store.read("f")
    (line,) = store.said
    assert "/app/f has 5000 bytes" in line
    assert "memory limit" in line


def test_a_changed_chunk_is_refused_and_nothing_is_served(tmp_path: Path) -> None:
    store = Store(tmp_path, {"f": b"x" * 20_000})
    on_disk = tmp_path / "app" / "f"
    data = bytearray(on_disk.read_bytes())
    data[9000] ^= 1
    on_disk.write_bytes(data)
    with pytest.raises(IntegrityError, match="chunk 2") as refused:
        store.read("f")
    assert f"{tmp_path}/app/f" in refused.value.message
    assert store.contents.known(store.found("f")) is None


def test_an_injected_file_has_its_mode(tmp_path: Path) -> None:
    store = Store(tmp_path, {})
    status = store.contents.status(Found(Where.INJECTED, b"/injected"))
    assert status.st_mode & 0o7777 == 0o640
    assert status.st_size == 7


@pytest.mark.parametrize(
    ("limit", "available", "expected"),
    [
        (b"4000", b"MemAvailable: 100 kB\n", 3000),
        (b"max", b"MemFree: 1 kB\nMemAvailable: 100 kB\n", 76800),
        (b"", b"MemAvailable: 1 kB\n", 768),
        (b"", b"nonsense", (1 << 30) * 3 // 4),
    ],
)
def test_the_bound_on_memory(limit: bytes, available: bytes, expected: int) -> None:
    assert memory_bound(limit, available) == expected


def test_a_dropped_file_is_never_another(tmp_path: Path) -> None:
    files = {f"f{index}": (b"%04d" % index) * 100 for index in range(24)}
    store = Store(tmp_path, files, memory=2400, descriptors=12)
    wrong: list[str] = []

    def work(seed: int) -> None:
        for step in range(150):
            index = (seed * 31 + step * 7) % 24
            try:
                if store.read(f"f{index}") != files[f"f{index}"]:
                    wrong.append(f"f{index}")
            except OSError as error:
                # All that memory has room for is open in other threads at this moment.
                if "memory" not in str(error):
                    wrong.append(repr(error))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_file_dropped_between_lookup_and_opening_is_read_again(tmp_path: Path) -> None:
    store = Store(tmp_path, {name: name.encode() * 400 for name in "ab"}, memory=500)
    first = store.contents.open_file(store.found("a"))
    store.read("b")
    assert first.dropped
    with os.fdopen(store.contents.open_for(first, os.O_RDONLY), "rb") as opened:
        assert opened.read() == b"a" * 400
