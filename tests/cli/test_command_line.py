"""The command line as a whole: help, names, redirection, errors, other nouns."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Commands


def test_help_lists_the_nouns(stranger: Commands) -> None:
    text = stranger.ok("--help")
    for noun in ("session", "cas", "las", "fspf", "self", "up", "run"):
        assert re.search(rf"\b{noun}\b", text), text


def test_scone_is_the_same_program(stranger: Commands) -> None:
    result = stranger("--version", program="scone")
    assert result.stdout.startswith("scone ")
    assert "Usage: scone" in stranger("session", "--help", program="scone").stdout


def test_an_unknown_command_is_a_usage_error(stranger: Commands) -> None:
    result = stranger("sesion")
    assert result.status == 2
    assert "sesion" in result.stderr


def test_output_into_a_file(stranger: Commands) -> None:
    assert stranger.ok("-o", "out.txt", "version") == ""
    assert (stranger.home / "out.txt").read_text().startswith("crannog ")


def test_output_into_a_file_that_cannot_be_written(stranger: Commands) -> None:
    result = stranger("-o", "/nonexistent/out", "version")
    assert result.status == 2
    assert "/nonexistent/out" in result.stderr


def test_arguments_from_a_file(stranger: Commands) -> None:
    (stranger.home / "arguments").write_text("version\n")
    assert stranger.ok("@arguments").startswith("crannog ")


def test_completion_for_the_shell(stranger: Commands) -> None:
    script = stranger("--show-completion", "bash")
    assert script.status == 0
    assert "crannog" in script.stdout


def test_self_shows_who_you_are(stranger: Commands) -> None:
    found = json.loads(stranger.ok("self", "show", "--json"))
    assert stranger.ok("self", "show-key-hash").strip() == found["key_hash"]
    assert stranger.ok("self", "show-certificate-hash").strip() == found["certificate_hash"]
    certificate = stranger.ok("self", "show-certificate")
    assert certificate == found["certificate"]
    assert "PRIVATE" not in certificate


def test_las_probe(stranger: Commands) -> None:
    found = json.loads(stranger.ok("las", "probe", "--las", stranger.platform.las, "--json"))
    assert found["level"] == "simulation"
    assert re.fullmatch("[0-9a-f]{64}", found["public_key"])


def test_las_probe_of_something_else(stranger: Commands) -> None:
    result = stranger("las", "probe", "--las", stranger.platform.cas_client, "--timeout", "5")
    assert result.status != 0


def test_run_after_a_global_option(stranger: Commands) -> None:
    config = str(stranger.home / "c.json")
    assert stranger.ok("--config", config, "run", "--", "/bin/echo", "hello") == "hello\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_on_a_full_disk_is_an_error(stranger: Commands) -> None:
    result = stranger("-o", "/dev/full", "self", "show")
    assert result.status == 1
    assert "cannot write the output: No space left on device" in result.stderr


@pytest.mark.parametrize("command", ["version", "--help", "fspf create x", "run --help"])
@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_a_closed_standard_output_is_refused_before_anything_is_done(
    stranger: Commands, command: str, closed: str
) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {sys.executable} -m crannog {command} {closed}"],
        cwd=stranger.home,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "internal error" not in done.stderr
    assert not (stranger.home / "x").exists()


def test_usage_of_the_launcher_that_cannot_be_written_is_said(stranger: Commands) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "crannog", "run", "--help"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "cannot write the usage: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
