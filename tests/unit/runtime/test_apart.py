"""Work in a copy of the launcher: its result arrives, and a failure is found out by ourselves."""

from __future__ import annotations

import os
import signal

import pytest

from crannog.errors import Misconfigured
from crannog.runtime.apart import Apart


def test_result_arrives_from_another_process() -> None:
    pid, path = Apart(lambda: (os.getpid(), "/bin/tr\udcffue")).result()
    assert pid != os.getpid()
    assert path == "/bin/tr\udcffue"


def test_large_result_arrives_whole() -> None:
    assert Apart(lambda: b"x" * (1 << 20)).result() == b"x" * (1 << 20)


def test_error_is_raised_here_with_its_text() -> None:
    def work() -> str:
        raise Misconfigured(f"in {os.getpid()}")

    apart = Apart(work)
    with pytest.raises(Misconfigured, match=f"in {os.getpid()}"):
        apart.result()


def test_copy_that_was_killed_costs_only_time() -> None:
    own = os.getpid()

    def work() -> int:
        if os.getpid() != own:
            os.kill(os.getpid(), signal.SIGKILL)
        return os.getpid()

    assert Apart(work).result() == own


def test_without_room_for_a_process_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise BlockingIOError(11, "no room")

    monkeypatch.setattr(os, "fork", refuse)
    assert Apart(os.getpid).result() == os.getpid()


def test_nothing_is_left_behind() -> None:
    before = len(os.listdir("/proc/self/fd"))
    Apart(os.getpid).result()
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
