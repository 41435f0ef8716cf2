"""The whole CAS over real mTLS, killed in the middle of a storm of sessions, twenty times."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from crannog.cas.audit import verify_audit_log
from crannog.cas.keys import FileKey
from crannog.errors import Error
from crannog.transport.address import Address
from crannog.transport.http_client import HttpClient
from crannog.transport.tls import Identity, fresh_identity
from tests.unit.cas.support import session

ROOT = Path(__file__).parents[2]


@dataclass
class Storm:
    """Clients that post sessions and updates, and what they were promised."""

    owner: Identity = field(default_factory=fresh_identity)
    promised: list[tuple[str, str]] = field(default_factory=list)
    refused: list[object] = field(default_factory=list)

    def run(self, process: subprocess.Popen[bytes], port: int, *, kill_after: int | None) -> None:
        """Post from four threads until the CAS is gone; kill it after that many promises."""
        enough = len(self.promised) + kill_after if kill_after is not None else None
        start = len(self.promised)

        def post(number: int) -> None:
            client = HttpClient(Address("127.0.0.1", port), identity=self.owner, seconds=20)
            predecessor: str | None = None
            name = f"s{start}-{number}"
            while True:
                document = session(name, predecessor=predecessor)
                try:
                    answer = client.request("POST", "/v1/sessions", document)
                except Error:
                    return
                if answer.status != 201:
                    self.refused.append(answer.body)
                    return
                predecessor = str(json.loads(answer.body)["hash"])
                self.promised.append((name, predecessor))
                if enough is not None and len(self.promised) >= enough:
                    process.kill()

        threads = [threading.Thread(target=post, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def check(self, port: int) -> None:
        """Everything that was promised is read back over the API."""
        client = HttpClient(Address("127.0.0.1", port), identity=self.owner, seconds=20)
        assert self.refused == []
        for name, promised in self.promised:
            answer = client.request("GET", f"/v1/sessions/{name}?hash={promised}")
            assert answer.status == 200, f"{name} {promised} was promised and is gone"
            assert json.loads(answer.body)["hash"] == promised


def started(directory: Path, kill_at: int = 0) -> tuple[subprocess.Popen[bytes], int]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.crash.whole_cas", str(directory), str(kill_at)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the CAS did not start by itself"
    return process, int(line.split()[0])


def ended(process: subprocess.Popen[bytes]) -> None:
    with process:
        process.kill()


def verified(directory: Path) -> None:
    keys = FileKey(directory / "master.key")
    assert verify_audit_log(directory / "cas.db", keys=keys).findings == ()


@pytest.mark.slow
def test_a_cas_is_killed_twenty_times_and_forgets_nothing(tmp_path: Path) -> None:
    """Fifteen times at any moment, five times between a commit and its replies."""
    chance = random.Random(6)
    storm = Storm()
    for round_ in range(20):
        by_itself = round_ % 4 == 3
        process, port = started(tmp_path, kill_at=chance.randint(2, 12) if by_itself else 0)
        storm.run(process, port, kill_after=None if by_itself else chance.randint(1, 12))
        ended(process)
        verified(tmp_path)
    process, port = started(tmp_path)
    storm.check(port)
    ended(process)
    verified(tmp_path)
    assert len(storm.promised) > 60
