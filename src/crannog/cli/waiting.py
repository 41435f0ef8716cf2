"""Running in the foreground until told to stop: SIGTERM and SIGINT, the second one at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_INTERRUPTED = 130


class StopSignal:
    """Set by SIGTERM or SIGINT. A second signal ends the process without waiting for anything."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self) -> None:
        """Return when told to stop."""
        # A timeout keeps the main thread able to take signals on every platform.
        while not self._event.wait(timeout=3600):
            pass

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._event.is_set():
            os._exit(_INTERRUPTED)
        self._event.set()


@contextmanager
def stop_signal() -> Iterator[StopSignal]:
    """Take the signals over for the time of a `with` block, from before anything is started."""
    stop = StopSignal()
    before = {
        number: signal.signal(number, stop._handle) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
