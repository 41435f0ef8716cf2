"""Work done in a forked copy of the launcher, while the launcher itself loads its modules.

Both are Python, so that a thread would gain nothing. The copy gives plain data back and ends; where
it cannot, for whatever reason, the launcher does the work itself and so finds out why. Forked
while there is no other thread, and gone before the program is forked.
"""

from __future__ import annotations

import marshal
import os
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Apart(Generic[T]):
    """Begins `work` at once in a process of its own; `result` waits for what came of it.

    Args:
        work: returns nothing but exact tuples, strings, bytes, numbers and None.
    """

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._reading, writing = os.pipe2(os.O_CLOEXEC)
        try:
            self._child = os.fork()
        except OSError:  # no room for another process
            self._child = -1
        if self._child == 0:
            status = 1
            try:
                with os.fdopen(writing, "wb") as pipe:
                    marshal.dump(work(), pipe)  # type: ignore[arg-type]
                status = 0
            except BaseException:  # noqa: BLE001 (said by the launcher, which tries as well)
                pass
            finally:
                os._exit(status)
        os.close(writing)

    def result(self) -> T:
        """What the work returned; raises what it raises. The other process is gone afterwards."""
        with os.fdopen(self._reading, "rb") as pipe:
            data = pipe.read()
        if self._child > 0:
            _, status = os.waitpid(self._child, 0)
            if status == 0:
                found: T = marshal.loads(data)
                return found
        return self._work()
