"""What a user who is not root is told about a state directory. Prints one JSON line a case.

Run as `python -m tests.crash.unprivileged DIRECTORY`; as root it becomes `nobody` first.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from crannog.cas.audit import verify_audit_log
from crannog.cas.keys import FileKey
from crannog.errors import Error
from tests.unit.cas.support import ALICE, service, session

NOBODY = 65534


def main(base: Path) -> None:
    """Every case in a directory of its own."""
    # Python itself may be root's alone: what is needed is loaded before.
    with tempfile.TemporaryDirectory() as name:
        made(Path(name))
        report("warm-up", Path(name))
    become_nobody(base)
    for case, break_it in CASES.items():
        directory = base / case
        directory.mkdir()
        if not case.startswith("new"):
            made(directory)
        break_it(directory)
        report(case, directory)
        for path in (directory, directory / "cas.db", directory / "master.key"):
            if path.exists():
                path.chmod(0o700)


def made(directory: Path) -> None:
    cas = service(directory)
    cas.create_session(session(), ALICE)
    cas.close()


def become_nobody(base: Path) -> None:
    if os.geteuid() == 0:
        os.chown(base, NOBODY, NOBODY)
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def report(case: str, directory: Path) -> None:
    found: dict[str, object] = {"case": case, "code": "", "message": "", "hint": ""}
    try:
        service(directory).close()
    except Error as error:
        found |= {"code": error.code, "message": error.message, "hint": error.hint}
    try:
        keys = FileKey(directory / "master.key")
        found["verified"] = int(verify_audit_log(directory / "cas.db", keys=keys).severity)
    except Error as error:
        found["verified"] = error.code
    print(json.dumps(found))


CASES: dict[str, Callable[[Path], None]] = {
    "read-only-directory": lambda directory: directory.chmod(0o500),
    "unreadable-directory": lambda directory: directory.chmod(0o000),
    "new-in-a-read-only-directory": lambda directory: directory.chmod(0o500),
    "read-only-database": lambda directory: (directory / "cas.db").chmod(0o400),
    "unreadable-database": lambda directory: (directory / "cas.db").chmod(0o000),
    "unreadable-key": lambda directory: (directory / "master.key").chmod(0o000),
}

if __name__ == "__main__":
    main(Path(sys.argv[1]))
