"""What is read from the caller is not used before the notification is known to hold still."""

from __future__ import annotations

import ctypes
import os
from types import SimpleNamespace
from typing import cast

import pytest

from crannog.linux.notify import Gone
from crannog.linux.procfs import Tasks
from crannog.runtime.supervisor.call import Call
from crannog.runtime.supervisor.loop import Supervisor

PATH = ctypes.create_string_buffer(b"/app/secret", 64)


class Listener:
    def __init__(self, *, gone: bool) -> None:
        self.gone = gone
        self.checked = 0

    def check(self, notification: int) -> None:
        self.checked += 1
        if self.gone:
            raise Gone


def call(listener: Listener) -> Call:
    supervisor = cast("Supervisor", SimpleNamespace(listener=listener, tasks=Tasks()))
    return Call(supervisor, 1, os.getpid(), 2, "open", 0, (0,) * 6)


def test_a_path_of_a_thread_that_is_gone_is_not_used() -> None:
    listener = Listener(gone=True)
    with pytest.raises(Gone):
        call(listener).string(ctypes.addressof(PATH))
    with pytest.raises(Gone):
        call(listener).read(ctypes.addressof(PATH), 4)
    assert listener.checked == 2


def test_nothing_is_written_into_a_thread_that_is_gone() -> None:
    before = PATH.raw
    with pytest.raises(Gone):
        call(Listener(gone=True)).write(ctypes.addressof(PATH), b"overwritten")
    assert PATH.raw == before


def test_what_is_read_is_checked_once_and_given() -> None:
    listener = Listener(gone=False)
    assert call(listener).string(ctypes.addressof(PATH)) == b"/app/secret"
    assert listener.checked == 1
