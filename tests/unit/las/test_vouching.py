"""What looking at a process may cost, whoever asks."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from crannog.las.process import Process
from crannog.las.records.places import Places
from crannog.las.release import Releases
from crannog.las.tree import Tree
from crannog.las.vouching import Witness
from tests.unit.las.genuine import genuine
from tests.unit.las.test_server import REQUEST

ASKERS = 8


def test_records_are_read_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = genuine("containerd-2").record
    reading = threading.Lock()
    came = threading.Barrier(ASKERS)

    def find(*_: object) -> object:
        if not reading.acquire(blocking=False):
            raise AssertionError("two at once")
        try:
            # Long enough for somebody else to come in, if he can.
            came.wait(0.05)
        except threading.BrokenBarrierError:
            came.reset()
        finally:
            reading.release()
        return record

    monkeypatch.setattr("crannog.las.vouching.find", find)
    launchers = Releases(tmp_path, None, owner=os.getuid(), tell=lambda _: None)
    witness = Witness(launchers, None, Tree(str(tmp_path), owner=os.getuid()), Places())

    def ask(number: int) -> bool:
        with Process(os.getpid()) as process:
            if number % 2:
                return witness.container(process) is not None
            return bool(witness.judge(process, REQUEST).reasons)

    with ThreadPoolExecutor(ASKERS) as pool:
        assert all(pool.map(ask, range(ASKERS)))


def test_of_a_long_command_the_first_word_is_kept() -> None:
    long = genuine("containerd-2", lambda config: config["process"]["args"].extend([""] * 100_000))
    assert long.reasons() == ()
    assert long.record.oci == genuine("containerd-2").record.oci
