"""`crannog run` without a session: an ordinary start, the hash, the version, the refusals."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.launcher.conftest import LAUNCHER, Run, host_environment


def test_host_environment_and_arguments_arrive_as_they_are(crannog_run: Run) -> None:
    found = crannog_run(
        ["/usr/bin/env"], GREETING="howdy!", SCONE_HEAP="1G", SCONE_LOG="ERROR", LANG="C"
    )
    lines = set(found.stdout.splitlines())
    assert {"GREETING=howdy!", "SCONE_HEAP=1G", "SCONE_LOG=ERROR"} <= lines
    names = {line.partition("=")[0] for line in lines}
    assert names == set(host_environment(GREETING="", SCONE_HEAP="", SCONE_LOG="", LANG=""))


def test_exec_in_place_keeps_the_process(crannog_run: Run) -> None:
    with subprocess.Popen(
        [*LAUNCHER, "sh", "-c", "echo $$"],
        env=host_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        out, _ = process.communicate(timeout=60)
    assert int(out) == process.pid


def test_exit_status_is_the_programs(crannog_run: Run) -> None:
    assert crannog_run(["sh", "-c", "exit 7"]).returncode == 7


def test_sigpipe_is_not_ignored_in_the_program(crannog_run: Run) -> None:
    found = crannog_run(["sh", "-c", "yes | head -n 1; echo"])
    assert "Broken pipe" not in found.stderr


def test_double_dash_is_optional(crannog_run: Run) -> None:
    found = subprocess.run(
        [*LAUNCHER[:-1], "echo", "--x"],
        env=host_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.stdout == "--x\n"


def test_help_names_the_variables() -> None:
    found = subprocess.run(
        [*LAUNCHER[:-1], "--help"],
        env=host_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert "SCONE_CONFIG_ID" in found.stdout
    assert found.stderr == ""


@pytest.mark.parametrize(
    ("command", "status"), [(["/nonexistent"], 127), (["nosuch-command"], 127), (["/etc"], 126)]
)
def test_command_that_cannot_run_gives_the_shells_status(
    crannog_run: Run, command: list[str], status: int
) -> None:
    found = crannog_run(command)
    assert found.returncode == status
    assert command[0] in found.stderr
    assert "Traceback" not in found.stderr


def test_hash_is_one_line_on_stdout_and_nothing_is_run(crannog_run: Run) -> None:
    found = crannog_run(["touch", "/nonexistent/file"], SCONE_HASH="1")
    assert re.fullmatch(r"[0-9a-f]{64}\n", found.stdout)
    assert found.returncode == 0


def test_hash_is_stable_and_does_not_depend_on_arguments_or_mode(crannog_run: Run) -> None:
    first = crannog_run(["python3"], SCONE_HASH="1").stdout
    assert first == crannog_run(["python3", "/x.py"], SCONE_HASH="1", SCONE_MODE="hw").stdout
    assert first == crannog_run(["/bin/python3"], SCONE_HASH="1", GREETING="x").stdout


@pytest.mark.parametrize(
    "variable",
    [
        {"SCONE_HEAP": "1G"},
        {"SCONE_STACK": "4M"},
        {"SCONE_ALLOW_DLOPEN": "2"},
        {"SCONE_FORK": "1"},
        {"SCONE_MPROTECT": "1"},
    ],
)
def test_hash_depends_on_each_measured_setting(crannog_run: Run, variable: dict[str, str]) -> None:
    plain = crannog_run(["true"], SCONE_HASH="1").stdout
    assert plain != crannog_run(["true"], SCONE_HASH="1", **variable).stdout


def test_version_prints_settings_and_goes_on(crannog_run: Run) -> None:
    found = crannog_run(["echo", "ran"], SCONE_VERSION="1", SCONE_ALLOW_DLOPEN="1")
    assert found.stdout == "ran\n"
    assert "export SCONE_HEAP=67108864\n" in found.stderr
    assert "export SCONE_ALLOW_DLOPEN=yes (protected)\n" in found.stderr
    digest = crannog_run(["echo"], SCONE_HASH="1", SCONE_ALLOW_DLOPEN="1").stdout.strip()
    assert f"Enclave hash: {digest}\n" in found.stderr


def test_hardware_mode_fails_locally(crannog_run: Run) -> None:
    found = crannog_run(["echo", "ran"], SCONE_MODE="HW")
    assert found.returncode == 78
    assert found.stdout == ""
    assert "[SCONE|FATAL]" in found.stderr
    assert "Error opening SGX device" in found.stderr


@pytest.mark.parametrize(("mode", "text"), [("sim", "proves nothing"), ("auto", "simulation")])
def test_mode_is_named_on_stderr(crannog_run: Run, mode: str, text: str) -> None:
    found = crannog_run(["true"], SCONE_MODE=mode)
    assert re.search(rf"^\[SCONE\|WARN\] .*:\d+:\w+\(\): .*{text}", found.stderr, re.MULTILINE)


def test_cas_without_configuration_id_is_refused_and_nothing_runs(crannog_run: Run) -> None:
    found = crannog_run(["echo", "ran"], SCONE_CAS_ADDR="127.0.0.1:1")
    assert (found.returncode, found.stdout) == (78, "")
    assert "SCONE_CONFIG_ID" in found.stderr


@pytest.mark.parametrize(
    "variable",
    [
        {"SCONE_MODE": "enclave"},
        {"SCONE_HEAP": "64MB"},
        {"SCONE_ALLOW_DLOPEN": "yes"},
        {"SCONE_HASH": "true"},
        {"SCONE_CONFIG_ID": "no-service"},
        {"SCONE_LOG": "LOUD"},
        {"SCONE_FSPF": "/x"},
    ],
)
def test_variable_that_is_not_understood_is_refused(
    crannog_run: Run, variable: dict[str, str]
) -> None:
    found = crannog_run(["echo", "ran"], **variable)
    assert (found.returncode, found.stdout) == (78, "")
    assert next(iter(variable)) in found.stderr


def test_interpreter_without_anything_to_do_says_why_it_ends(crannog_run: Run) -> None:
    found = crannog_run(["python3"])
    assert found.returncode == 0
    assert "ends at once" in found.stderr


def test_interpreter_with_input_says_nothing_of_the_kind(crannog_run: Run) -> None:
    found = crannog_run(["python3"], stdin="print(6 * 7)\n")
    assert found.stdout == "42\n"
    assert "ends at once" not in found.stderr


def test_works_as_an_unprivileged_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("not root: every other test here runs unprivileged already")
    found = subprocess.run(
        [
            "/usr/bin/setpriv",
            "--reuid=65534",
            "--clear-groups",
            "--no-new-privs",
            sys.executable,
            "-c",
            "print('reachable')",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if "reachable" not in found.stdout:
        pytest.skip("this Python lies where an unprivileged user cannot reach it")
    found = subprocess.run(
        ["/usr/bin/setpriv", "--reuid=65534", "--clear-groups", "--no-new-privs", *LAUNCHER, "id"],
        env=host_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert "uid=65534" in found.stdout, found.stderr
