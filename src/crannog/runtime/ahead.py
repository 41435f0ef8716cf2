"""Work done ahead in a thread: the program is hashed while modules load.

Hashing needs no interpreter lock. The thread is joined before anybody is asked, and so before the
program's fork.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Begins `work` at once in a thread of its own; `result` waits for what came of it."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._values: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        try:
            self._thread.start()
        except RuntimeError:  # the system allows no further thread: at once then, in this one
            self._run()

    def result(self) -> T:
        """What the work returned; raises what it raised. The thread is gone afterwards."""
        if self._thread.ident is not None:
            self._thread.join()
        if self._error is not None:
            raise self._error
        return self._values[0]

    def _run(self) -> None:
        try:
            self._values.append(self._work())
        except BaseException as error:  # noqa: BLE001 (raised again by result)
            self._error = error
