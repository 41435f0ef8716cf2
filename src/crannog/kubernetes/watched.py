"""The launcher release that containers are given, looked at again whenever it may have changed.

Nothing changes a release but root on the node, or a disk. A container that was given such a one
would be refused by the LAS, or run what nobody has measured.
"""

from __future__ import annotations

import threading
from pathlib import Path

from crannog.errors import Error
from crannog.kubernetes.release import verify_release
from crannog.las.release import marks


class WatchedRelease:
    """One release of the node; safe for threads.

    Args:
        directory: named by its digest.
        owner: the user whose files are trusted.
    """

    def __init__(self, directory: Path, *, owner: int = 0) -> None:
        self.directory = directory
        self._owner = owner
        self._lock = threading.Lock()
        self._marks = b""
        self._problem: Error | None = None

    def problem(self) -> Error | None:
        """Why no container is to be given it; None where it is whole.

        A millisecond or two; reading all of it, some hundred, where an entry is another one than at
        the last look.
        """
        with self._lock:
            try:
                now = marks(self.directory)
            except Error:
                now = b""
            if not now or now != self._marks:
                self._marks = now
                self._problem = self._read()
            return self._problem

    def look_again(self) -> Error | None:
        """As `problem`, and reads it also where it was not whole at the last look.

        What could not be read may have been us: too many open files, a disk that hangs.
        """
        with self._lock:
            if self._problem is not None:
                self._marks = b""
        return self.problem()

    def _read(self) -> Error | None:
        try:
            verify_release(self.directory, owner=self._owner)
        except Error as error:
            return error
        return None
