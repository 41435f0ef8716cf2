"""kill -9 in the middle of a storm of writes: what was promised is there, and the store opens."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from pathlib import Path

import pytest

from crannog.cas.audit import verify_audit_log
from crannog.cas.keys import FileKey
from tests.unit.cas.support import opened

ROOT = Path(__file__).parents[2]


def storm(directory: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.crash.storm", str(directory), *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )


def promised_until_killed(process: subprocess.Popen[bytes], lines: int) -> list[tuple[str, str]]:
    """Kill it after that many lines; every line that came out, also those on their way."""
    assert process.stdout is not None
    found = []
    with process:
        for _ in range(lines):
            line = process.stdout.readline()
            if not line:
                break
            found.append(line)
        process.kill()
        found += process.stdout.readlines()
    assert process.returncode == -9
    return [
        (name.decode(), session_hash.decode())
        for kind, name, session_hash in (line.split() for line in found if line.count(b" ") == 2)
        if kind == b"session" and len(session_hash) == 64
    ]


def check(directory: Path, promised: list[tuple[str, str]]) -> int:
    """Both chains verify, the store opens by itself, and every promised version reads back."""
    found = verify_audit_log(directory / "cas.db", keys=FileKey(directory / "master.key"))
    assert found.findings == ()
    store = opened(directory, level=None)
    try:
        for name, session_hash in promised:
            version = store.version(name, session_hash)
            assert version is not None, f"{name} {session_hash} was promised and is gone"
            document, secrets = store.read(version)
            assert document == f"{name} {version.number}".encode()
            assert secrets == b"secrets " + document
            assert hashlib.sha256(document).hexdigest() == session_hash
    finally:
        store.close()
    return found.versions


@pytest.mark.slow
def test_killed_again_and_again_in_a_storm_of_writes(tmp_path: Path) -> None:
    """One database, killed and opened again eight times, each time in the middle of it."""
    chance = random.Random(6)
    promised: list[tuple[str, str]] = []
    for _ in range(8):
        process = storm(tmp_path)
        promised += promised_until_killed(process, chance.randint(1, 400))
    assert check(tmp_path, promised) >= len(promised) > 500


@pytest.mark.slow
@pytest.mark.parametrize("commit", [1, 2, 17])
def test_killed_between_commit_and_reply(tmp_path: Path, commit: int) -> None:
    """More may be stored than was promised, never less."""
    promised = promised_until_killed(storm(tmp_path, str(commit)), 10_000)
    assert check(tmp_path, promised) > len(promised)


@pytest.mark.slow
def test_killed_while_the_database_is_created(tmp_path: Path) -> None:
    """At any moment of the first start; the next start makes it whole."""
    import time

    for number in range(8):
        directory = tmp_path / str(number)
        process = storm(directory)
        # Spread over the start: not a synchronisation, any moment is as good.
        deadline = time.monotonic() + 0.15 + number * 0.05
        while time.monotonic() < deadline and process.poll() is None:
            pass
        promised = promised_until_killed(process, 0)
        opened(directory).close()
        check(directory, promised)
