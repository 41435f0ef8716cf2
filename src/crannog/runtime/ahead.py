"""Work done ahead in a thread: hashing while modules load, modules while LAS and CAS answer.

Hashing and waiting need no interpreter lock. Every thread is joined before the program's fork.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

_INTERVAL = 0.0002  # seconds


class Ahead(Generic[T]):
    """Begins `work` at once in a thread of its own; `result` waits for what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._values: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        # Each of its many short calls gives the interpreter lock away and wants it back: with the
        # usual 5 ms it would wait longer than it works.
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(_INTERVAL)
        self._thread.start()

    def result(self) -> T:
        """What the work returned; raises what it raised. The thread is gone afterwards."""
        self._thread.join()
        sys.setswitchinterval(self._interval)
        if self._error is not None:
            raise self._error
        return self._values[0]

    def _run(self) -> None:
        try:
            self._values.append(self._work())
        except BaseException as error:  # noqa: BLE001 (raised again by result)
            self._error = error
