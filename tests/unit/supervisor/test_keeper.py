"""When a core is kept awake, and when not."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import pytest

from crannog.runtime.supervisor.placement import Bursts, worth_it

NEW = b"0::/kubepods/pod1/program\n"
OLD = b"4:cpu,cpuacct:/docker/1\n3:memory:/docker/1\n"


def files(content: Mapping[str, bytes]) -> Callable[[str], bytes]:
    return lambda path: content.get(path, b"")


def test_two_cores_without_a_quota_are_worth_it() -> None:
    unlimited = {
        "/proc/self/cgroup": NEW,
        "/sys/fs/cgroup/kubepods/pod1/program/cpu.max": b"max 100000\n",
    }
    assert worth_it(2, files(unlimited))


def test_one_core_is_not() -> None:
    assert not worth_it(1, files({}))


@pytest.mark.parametrize("group", ["/kubepods/pod1/program", "/kubepods/pod1", "/kubepods", ""])
def test_a_quota_of_any_group_above_forbids_it(group: str) -> None:
    limited = {
        "/proc/self/cgroup": NEW,
        f"/sys/fs/cgroup{group}/cpu.max": b"50000 100000\n",
    }
    assert not worth_it(2, files(limited))


@pytest.mark.parametrize(("quota", "worth"), [(b"-1\n", True), (b"50000\n", False)])
def test_the_older_hierarchy(quota: bytes, worth: bool) -> None:
    found = {
        "/proc/self/cgroup": OLD,
        "/sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us": quota,
    }
    assert worth_it(2, files(found)) is worth


class TestBursts:
    """What the keeper is told."""

    def setup_method(self) -> None:
        self.kept, self.told = os.pipe()
        os.set_blocking(self.kept, False)
        os.set_blocking(self.told, False)
        self.now = 1_000_000_000
        self.bursts = Bursts(self.told)

    def teardown_method(self) -> None:
        os.close(self.kept)
        os.close(self.told)

    def words(self, monkeypatch: pytest.MonkeyPatch, count: int, each: int) -> int:
        def clock() -> int:
            return self.now

        monkeypatch.setattr("time.monotonic_ns", clock)
        for _ in range(count):
            self.now += each
            self.bursts.injected()
        try:
            return len(os.read(self.kept, 4096))
        except BlockingIOError:
            return 0

    def test_a_burst_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.words(monkeypatch, 320, 20_000) == 19

    def test_single_opens_are_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert self.words(monkeypatch, 320, 1_000_000) == 0

    def test_a_keeper_that_is_behind_holds_nobody_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for _ in range(100):
            try:
                os.write(self.told, bytes(65536))
            except BlockingIOError:
                break
        assert self.words(monkeypatch, 320, 20_000) == 4096

    def test_a_keeper_that_has_gone_is_left_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read = self.kept
        self.kept, other = os.pipe()
        os.set_blocking(self.kept, False)
        os.close(read)
        assert self.words(monkeypatch, 320, 20_000) == 0
        os.close(other)
