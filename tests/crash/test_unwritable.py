"""State that cannot be read or written: said clearly, and nothing is changed or made up."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "read-only-directory": ("storage-failed", "cannot be written", 0),
    "unreadable-directory": ("storage-failed", "Permission denied", "misconfigured"),
    "new-in-a-read-only-directory": ("storage-failed", "Permission denied", "misconfigured"),
    "read-only-database": ("storage-failed", "cannot be written", 0),
    "unreadable-database": ("storage-failed", "cannot be opened", 14),
    "unreadable-key": ("misconfigured", "Permission denied", "misconfigured"),
}


@pytest.fixture(scope="module")
def reports() -> Iterator[dict[str, dict[str, object]]]:
    # Not tmp_path: its parents are root's alone where root runs the tests.
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-m", "tests.crash.unprivileged", name],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        yield {line["case"]: line for line in lines}


@pytest.mark.parametrize("case", list(EXPECTED))
def test_what_cannot_be_used_is_named(reports: dict[str, dict[str, object]], case: str) -> None:
    code, text, verified = EXPECTED[case]
    found = reports[case]
    assert found["code"] == code
    assert text in str(found["message"])
    assert found["hint"]
    assert found["verified"] == verified
