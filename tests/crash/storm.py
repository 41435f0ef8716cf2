"""A process that writes to a store from many threads and says what it was promised.

Run as `python -m tests.crash.storm DIRECTORY [KILL_AT]`. Each line on stdout is flushed as soon as
a reply is there: `session NAME HASH`. With KILL_AT the process kills itself
between that commit and its replies; every commit then holds a session.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path

from crannog.cas.keys import FileKey
from crannog.cas.store.opening import open_store
from crannog.cas.store.records import Event, Record, Version
from crannog.cas.store.store import Store
from crannog.levels import Level

THREADS = 8


def main(directory: Path, kill_at: int) -> None:
    """Write until somebody kills this."""
    commits = itertools.count(1)

    def after_commit() -> None:
        if next(commits) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    store = open_store(
        directory / "cas.db",
        keys=FileKey(directory / "master.key"),
        now=datetime.now(UTC),
        minimum_level=Level.SIMULATION,
        after_commit=after_commit if kill_at else None,
    )
    say("ready")
    appends = 0 if kill_at else 5
    threads = [
        threading.Thread(target=write, args=(store, f"{os.getpid()}-{number}", appends))
        for number in range(THREADS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def write(store: Store, name: str, appends: int) -> None:
    """Create a session, update it, log attestations after each update, for ever."""
    current: Version | None = None
    while True:
        number = current.number + 1 if current else 1
        document = f"{name} {number}".encode()
        session_hash = hashlib.sha256(document).hexdigest()
        now = datetime.now(UTC)
        current = store.add_version(
            name=name,
            session_hash=session_hash,
            predecessor=current,
            document=document,
            secrets=b"secrets " + document,
            record=Record(now, Event.SESSION_UPDATED, session=name, session_hash=session_hash),
        )
        say(f"session {name} {session_hash}")
        for _ in range(appends):
            store.append(Record(now, Event.SERVICE_ATTESTED, session=name))


def say(line: str) -> None:
    """One write each, so that no line is lost in a buffer and none is torn."""
    os.write(1, line.encode() + b"\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
