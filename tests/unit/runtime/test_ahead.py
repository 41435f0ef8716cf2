from __future__ import annotations

import threading

import pytest

from crannog.errors import Misconfigured
from crannog.runtime.ahead import Ahead


def test_what_the_work_returned_is_the_result() -> None:
    assert Ahead(lambda: 3).result() == 3


def test_what_the_work_raised_is_raised_where_it_is_waited_for() -> None:
    def work() -> None:
        raise Misconfigured("the file is not there")

    with pytest.raises(Misconfigured, match="the file is not there"):
        Ahead(work).result()


def test_where_no_thread_is_allowed_the_work_is_done_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert Ahead(lambda: 3).result() == 3
