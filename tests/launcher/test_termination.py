"""The reason of a failure in the termination message, and nothing there where nothing failed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.launcher.conftest import Run
from tests.launcher.fake_cas import FakeCas, configure, refuse

PASSWORD = "123456-one-time"
TOKEN = "a-service-access-token"


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "termination-log"
    path.touch()
    return path


def test_what_the_cas_refused_and_what_would_make_it_pass(crannog_run: Run, log: Path) -> None:
    answer = refuse("evidence rejected", "mrenclave is 1, expected 2", hint="add it")
    with FakeCas(answer) as cas:
        found = crannog_run(
            ["true"],
            SCONE_CONFIG_ID=f"s/s@{PASSWORD}",
            SCONE_CAS_ADDR=cas.address,
            SCONE_SERVICE_ACCESS_TOKEN=TOKEN,
            CRANNOG_TERMINATION_LOG=str(log),
            SCONE_LOG="FATAL",
        )
    assert found.returncode == 78
    lines = log.read_text().splitlines()
    assert lines[0] == "Could not initialize enclave state: Attestation failed"
    assert "  Caused by: mrenclave is 1, expected 2" in lines
    assert "Hint: add it; the request id is req-1" in lines
    assert any(line.startswith("Note: Connecting to CAS at 127.0.0.1") for line in lines)
    assert any("the launcher signs its statement itself" in line for line in lines)
    assert PASSWORD not in log.read_text()
    assert TOKEN not in log.read_text()


def test_a_cas_that_is_not_reached(crannog_run: Run, log: Path) -> None:
    found = crannog_run(
        ["true"],
        SCONE_CONFIG_ID="s/s",
        SCONE_CAS_ADDR="127.0.0.1:1",
        CRANNOG_TERMINATION_LOG=str(log),
    )
    assert found.returncode == 75
    assert "Caused by: cannot connect to CAS at 127.0.0.1:1" in log.read_text()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"SCONE_CAS_ADDR": "cas"}, "SCONE_CAS_ADDR is set and SCONE_CONFIG_ID is not"),
        ({"SCONE_MODE": "yes"}, "SCONE_MODE is 'yes', expected hw, sim or auto"),
        ({"SCONE_CONFIG_ID": "s/s", "SCONE_CAS_ADDR": "a b"}, "SCONE_CAS_ADDR is 'a b'"),
        ({"SCONE_MODE": "hw"}, "SCONE_MODE=hw needs hardware evidence"),
    ],
)
def test_a_setting_that_is_refused(
    crannog_run: Run, log: Path, variables: dict[str, str], reason: str
) -> None:
    found = crannog_run(["true"], CRANNOG_TERMINATION_LOG=str(log), **variables)
    assert (found.returncode, found.stdout) == (78, "")
    assert reason in log.read_text()


def test_a_command_that_is_not_there(crannog_run: Run, log: Path) -> None:
    found = crannog_run(["no-such-command"], CRANNOG_TERMINATION_LOG=str(log))
    assert found.returncode == 127
    assert "command 'no-such-command' is not on PATH" in log.read_text()


def test_a_relative_path_is_refused_and_nothing_written_there(crannog_run: Run, log: Path) -> None:
    found = crannog_run(["true"], CRANNOG_TERMINATION_LOG="termination-log")
    assert found.returncode == 78
    assert "CRANNOG_TERMINATION_LOG is 'termination-log', expected an absolute" in found.stderr
    assert log.read_text() == ""


def test_a_program_that_fails_by_itself_speaks_for_itself(crannog_run: Run, log: Path) -> None:
    with FakeCas(configure("false")) as cas:
        found = crannog_run(
            ["false"],
            SCONE_ALLOW_DLOPEN="2",
            SCONE_CONFIG_ID="s/s",
            SCONE_CAS_ADDR=cas.address,
            CRANNOG_TERMINATION_LOG=str(log),
        )
    assert found.returncode == 1
    assert log.read_text() == ""
