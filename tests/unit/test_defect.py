"""What a user sees of a fault of Crannog itself: no traceback, and nothing that was worked on."""

from __future__ import annotations

import pytest

from crannog.cli.main import run_cli
from crannog.errors import EXIT_DEFECT
from crannog.runtime import launch
from crannog.runtime.command import run_command

SECRET = b"hunter2 \xff"


def _crash(*_: object, **__: object) -> int:
    SECRET.decode()  # a codec's error carries along what it was given
    return 0


def test_a_defect_of_the_launcher_shows_neither_a_traceback_nor_a_secret(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SCONE_HASH", "1")
    monkeypatch.setattr(launch, "print_hash", _crash)
    assert run_command(["true"], program="crannog") == EXIT_DEFECT
    _refused(capfd.readouterr().err)


def test_a_defect_of_the_command_line_shows_neither_a_traceback_nor_a_secret(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crannog.cli.state.State.load", _crash)
    assert run_cli(["cas", "list"], program="crannog") == EXIT_DEFECT
    _refused(capfd.readouterr().err)


def _refused(shown: str) -> None:
    assert "internal error: UnicodeDecodeError at crannog/" in shown
    assert "report" in shown
    assert "Traceback" not in shown
    assert "hunter2" not in shown
    assert "6875" not in shown
