"""A whole CAS that can be told to kill itself between a commit and its replies.

Run as `python -m tests.crash.whole_cas DIRECTORY [KILL_AT]`; prints `PORT PORT` of the REST API and
of the enclave API when it serves.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from crannog.cas.keys import FileKey
from crannog.cas.server import CasServer
from crannog.cas.service import CasService
from crannog.cas.settings import CasSettings
from crannog.cas.store.opening import open_store
from crannog.evidence.claims import Trust
from crannog.levels import Level

LOCAL = ("127.0.0.1", 0)


class SelfKillingCas(CasServer):
    """A CAS whose store kills the process after its `kill_at`th commit."""

    def __init__(self, directory: Path, kill_at: int) -> None:
        super().__init__(
            CasSettings(
                directory,
                api_listen=LOCAL,
                enclave_listen=LOCAL,
                minimum_level=Level.SIMULATION,
            )
        )
        self._directory = directory
        self._kill_at = kill_at
        self._commits = itertools.count(1)

    def _after_commit(self) -> None:
        if next(self._commits) == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def _open(self) -> CasService:
        store = open_store(
            self._directory / "cas.db",
            keys=FileKey(self._directory / "master.key"),
            now=datetime.now(UTC),
            minimum_level=Level.SIMULATION,
            after_commit=self._after_commit,
        )
        return CasService(
            store,
            trust=Trust(),
            launchers=None,
            now=lambda: datetime.now(UTC),
            random=os.urandom,
        )


def main(directory: Path, kill_at: int) -> None:
    """Serve until killed."""
    server = SelfKillingCas(directory, kill_at)
    server.start()
    os.write(1, f"{server.api_address[1]} {server.enclave_address[1]}\n".encode())
    signal.pause()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
