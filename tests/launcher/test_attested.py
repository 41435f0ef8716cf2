"""Attested starts against a CAS with real TLS and the real exchange; nothing is shielded here."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from pathlib import Path

import pytest

from crannog.evidence.statement import Statement
from crannog.exchange.attestation import Evidence
from crannog.exchange.configuration import Configuration
from crannog.exchange.refusal import Refusal
from crannog.wire import encode_json, frame
from tests.launcher.conftest import LAUNCHER, Run, host_environment
from tests.launcher.fake_cas import SESSION_HASH, FakeCas, configure, refuse

# 2: nothing has to be enforced, so that the program is a plain child of the launcher.
PLAIN = {"SCONE_ALLOW_DLOPEN": "2", "SCONE_CONFIG_ID": "name~space/service"}


def attested(cas: FakeCas, **more: str) -> dict[str, str]:
    return {**PLAIN, "SCONE_CAS_ADDR": cas.address, **more}


def test_argv_and_environment_are_the_sessions_and_nothing_of_the_host(crannog_run: Run) -> None:
    script = "import os, sys; print(sorted(os.environ.items()), sys.argv, os.getcwd())"
    with FakeCas(configure("python3", "-c", script, "a b", environment={"GREETING": "é !"})) as cas:
        found = crannog_run(
            ["/usr/bin/python3", "/host/argument"],
            **attested(cas, GREETING="host", LANG="C", PYTHONSTARTUP="/x", LC_ALL="C"),
        )
    assert found.returncode == 0, found.stderr
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    seen = found.stdout.replace("('LC_CTYPE', 'C.UTF-8'), ", "")  # Python's own, PEP 538
    assert seen == f"{[('GREETING', 'é !'), ('HOME', '/'), ('PATH', path)]} ['-c', 'a b'] /\n"


def test_bare_argv0_becomes_the_measured_path(crannog_run: Run) -> None:
    with FakeCas(configure("sh", "-c", "tr '\\0' ' ' </proc/$$/cmdline")) as cas:
        found = crannog_run(["/usr/bin/sh"], **attested(cas))
    assert found.stdout.startswith("/usr/bin/sh -c "), found.stderr


def test_what_runs_is_the_measured_program_whatever_the_command_names(crannog_run: Run) -> None:
    script = "import sys; print(sys.executable)"
    with FakeCas(configure("ruby", "-c", script, environment={"PATH": "/evil"})) as cas:
        found = crannog_run(["/usr/bin/python3"], **attested(cas))
    assert found.stdout == "/usr/bin/python3\n", found.stderr
    assert "ruby" in found.stderr


def test_interpreter_keeps_its_own_library(crannog_run: Run) -> None:
    with FakeCas(configure("python3", "-c", "import sys; print(sys.prefix)")) as cas:
        found = crannog_run(["/usr/bin/python3"], **attested(cas))
    assert found.stdout == "/usr\n", found.stderr


def test_a_script_is_run_by_its_measured_interpreter(crannog_run: Run, tmp_path: Path) -> None:
    script = tmp_path / "greet"
    script.write_text('#!/usr/bin/env sh\necho "$0" "$1"\n')
    script.chmod(0o755)
    with FakeCas(configure("greet", "session")) as cas:
        found = crannog_run([str(script), "host"], **attested(cas))
        measured = cas.seen[0][1].mrenclave.hex()
    assert found.stdout == f"{script} session\n", found.stderr
    again = crannog_run([str(script)], SCONE_HASH="1", SCONE_ALLOW_DLOPEN="2")
    assert again.stdout == measured + "\n"


def test_evidence_holds_the_measurement_and_the_public_part_of_the_id(crannog_run: Run) -> None:
    digest = crannog_run(["true"], SCONE_HASH="1", SCONE_ALLOW_DLOPEN="2").stdout.strip()
    with FakeCas(configure("true")) as cas:
        found = crannog_run(
            ["true"],
            **attested(
                cas, SCONE_CONFIG_ID="a/b/service@123456", SCONE_SERVICE_ACCESS_TOKEN="token-1"
            ),
        )
        hello, statement, evidence = cas.seen[0]
    assert found.returncode == 0, found.stderr
    assert hello.config_id == statement.config_id == "a/b/service"
    assert statement.mrenclave.hex() == digest
    assert statement.level.value == "simulation"
    assert (evidence.otp, evidence.service_access_token) == ("123456", "token-1")
    assert evidence.launcher == statement.launcher
    assert "123456" not in found.stderr
    assert "token-1" not in found.stderr


def test_no_las_is_said_and_the_statement_says_who_made_it(crannog_run: Run) -> None:
    with FakeCas(configure("true")) as cas:
        found = crannog_run(["true"], **attested(cas))
        assert cas.seen[0][1].method == "launcher"
    assert "Unable to connect to LAS at default 'las' address" in found.stderr


def test_refusal_is_shown_with_its_whole_chain(crannog_run: Run) -> None:
    answer = refuse(
        "The program enclave is not trustworthy",
        "Unexpected enclave measurement (MRENCLAVE, x) - Expected y",
        hint="add it to mrenclaves",
    )
    with FakeCas(answer) as cas:
        found = crannog_run(["echo", "ran"], **attested(cas))
        assert cas.connections == 1
        host, port = cas.address.split(":")
    assert (found.returncode, found.stdout) == (78, "")
    lines = found.stderr.splitlines()
    start = next(i for i, line in enumerate(lines) if "[SCONE|FATAL]" in line)
    assert re.fullmatch(
        r"\[SCONE\|FATAL\] \S+:\d+:\w+\(\): Could not initialize enclave state: Attestation failed",
        lines[start],
    )
    assert lines[start + 1] == (
        "  Caused by: CAS sent an attestation/configuration error: "
        "The program enclave is not trustworthy"
    )
    assert lines[start + 2].startswith("  Caused by: Unexpected enclave measurement (MRENCLAVE, x)")
    assert (
        f"Note: Connecting to CAS at {host} (port {port}) using service ID name~space/service"
        in lines
    )
    assert any(line.startswith("Hint: add it to mrenclaves") for line in lines)
    assert any("unauthenticated CAS" in line for line in lines)


def test_refusal_cannot_move_the_terminals_cursor(crannog_run: Run) -> None:
    with FakeCas(refuse("\x1b[2Jall is well\r\n\u202eforged")) as cas:
        found = crannog_run(["true"], **attested(cas))
    assert "all is well" in found.stderr
    assert not {"\x1b", "\r", "\u202e"} & set(found.stderr)


def test_try_again_later_has_its_own_exit_code(crannog_run: Run) -> None:
    with FakeCas(refuse("busy", retry=True)) as cas:
        assert crannog_run(["true"], **attested(cas)).returncode == 75


def test_unreachable_cas_is_tried_again_and_then_given_up(crannog_run: Run) -> None:
    found = crannog_run(
        ["echo", "ran"],
        **PLAIN,
        SCONE_CAS_ADDR="127.0.0.1:1",
    )
    assert (found.returncode, found.stdout) == (75, "")
    assert "connection refused" in found.stderr
    assert "Note: Connecting to CAS at 127.0.0.1 (port 1)" in found.stderr


def test_named_las_that_is_not_there_is_not_replaced_by_the_launchers_own_word(
    crannog_run: Run,
) -> None:
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(["echo"], **attested(cas, SCONE_LAS_ADDR="127.0.0.1:1"))
        assert cas.seen == []
    assert (found.returncode, found.stdout) == (75, "")
    assert "LAS" in found.stderr


def test_pinned_cas_is_accepted(crannog_run: Run) -> None:
    with FakeCas(configure("echo", "ran")) as cas:
        key = hashlib.sha256(cas.key).hexdigest()
        found = crannog_run(["echo"], **attested(cas, CRANNOG_CAS_KEY=key))
    assert found.stdout == "ran\n", found.stderr


def test_cas_that_is_not_the_pinned_one_gets_no_evidence(crannog_run: Run) -> None:
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(["echo"], **attested(cas, CRANNOG_CAS_KEY="00" * 32))
        assert cas.seen == []
    assert (found.returncode, found.stdout) == (78, "")
    assert "pinned" in found.stderr


def test_session_version_that_is_not_the_pinned_one_is_refused(crannog_run: Run) -> None:
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(["echo"], **attested(cas, CRANNOG_SESSION_HASH="cd" * 32))
        right = crannog_run(["echo"], **attested(cas, CRANNOG_SESSION_HASH=SESSION_HASH))
    assert (found.returncode, found.stdout) == (78, "")
    assert "CRANNOG_SESSION_HASH" in found.stderr
    assert right.stdout == "ran\n"


def test_configuration_for_another_measurement_is_refused(crannog_run: Run) -> None:
    with FakeCas(configure("echo", "ran", mrenclave=bytes(32))) as cas:
        found = crannog_run(["echo"], **attested(cas))
    assert (found.returncode, found.stdout) == (78, "")


def test_configuration_before_the_evidence_is_refused(crannog_run: Run) -> None:
    early = frame(encode_json({"type": "configuration"}), limit=1000)
    with FakeCas(configure("echo", "ran"), early=early) as cas:
        found = crannog_run(["echo"], **attested(cas))
        assert cas.seen == []
    assert (found.returncode, found.stdout) == (78, "")


@pytest.mark.parametrize(
    "garbage", [b"\0" * 8, b"\xff" * 64, frame(b"{}", limit=10), b"GET / \r\n"]
)
def test_garbage_from_the_cas_is_our_error(crannog_run: Run, garbage: bytes) -> None:
    with FakeCas(lambda _s, _e: garbage) as cas:
        found = crannog_run(["echo"], **attested(cas))
    assert found.returncode in (75, 78)
    assert "Traceback" not in found.stderr
    assert "[SCONE|FATAL]" in found.stderr


def test_session_may_not_set_the_configuration_id(crannog_run: Run) -> None:
    answer = configure("env", environment={"SCONE_CONFIG_ID": "a/b"})
    with FakeCas(answer) as cas:
        found = crannog_run(["env"], **attested(cas))
    assert (found.returncode, found.stdout) == (78, "")


def test_working_directory_is_the_sessions(crannog_run: Run, tmp_path: Path) -> None:
    with FakeCas(configure("pwd", pwd=str(tmp_path))) as cas:
        found = crannog_run(["pwd"], **attested(cas))
    assert found.stdout == f"{tmp_path}\n", found.stderr


def test_working_directory_that_is_not_there_is_named(crannog_run: Run) -> None:
    with FakeCas(configure("pwd", pwd="/nonexistent/dir")) as cas:
        found = crannog_run(["pwd"], **attested(cas))
    assert found.returncode == 78
    assert "/nonexistent/dir" in found.stderr


def test_descriptors_of_the_host_are_closed() -> None:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    with FakeCas(configure("ls", "/proc/self/fd")) as cas:
        found = subprocess.run(
            [*LAUNCHER, "ls"],
            env=host_environment(**attested(cas)),
            pass_fds=(writing,),
            capture_output=True,
            text=True,
            check=False,
        )
    os.close(reading)
    os.close(writing)
    assert found.stdout.split() == ["0", "1", "2", "3"], found.stderr  # 3 is ls's own


def test_closed_standard_descriptors_are_taken_by_nothing_that_is_opened_later() -> None:
    script = "read line; test $? = 1 && ! echo out 2>/dev/null && readlink /proc/self/fd/0 >&2"
    with FakeCas(configure("bash", "-c", script)) as cas:
        found = subprocess.run(
            ["sh", "-c", 'exec "$@" <&- >&-', "sh", *LAUNCHER, "/bin/bash"],
            env=host_environment(**attested(cas)),
            capture_output=True,
            text=True,
            check=False,
        )
    assert found.returncode == 0, found.stderr
    assert found.stderr.splitlines()[-1].startswith("pipe:")


def test_program_cannot_dump_core(crannog_run: Run) -> None:
    # 1, since a core_pattern that is a pipe heeds no other limit.
    script = "while read line; do case $line in *core*) echo $line;; esac; done < /proc/self/limits"
    with FakeCas(configure("bash", "-c", script)) as cas:
        found = crannog_run(["/bin/bash"], **attested(cas))
    assert found.stdout == "Max core file size 1 1 bytes\n", found.stderr


def test_launcher_cannot_be_looked_into_by_its_own_user() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become an ordinary user for one process")
    # The owner of a process's files in /proc is root where the process is not dumpable.
    script = "stat -c %u /proc/$PPID/environ /proc/$$/environ"
    with FakeCas(configure("sh", "-c", script)) as cas:
        found = subprocess.run(
            ["/usr/bin/setpriv", "--reuid=65534", "--clear-groups", *LAUNCHER, "/bin/sh"],
            env=host_environment(**attested(cas)),
            capture_output=True,
            text=True,
            check=False,
        )
    if found.returncode == 126 or "Permission" in found.stderr:
        pytest.skip("this Python lies where an unprivileged user cannot reach it")
    assert found.stdout == "0\n65534\n", found.stderr


def test_fspf_of_the_host_is_not_heeded(crannog_run: Run) -> None:
    with FakeCas(configure("echo", "ran")) as cas:
        found = crannog_run(
            ["echo"],
            **attested(cas, SCONE_FSPF="/x", SCONE_FSPF_KEY="00" * 32, SCONE_FSPF_TAG="00" * 16),
        )
    assert found.stdout == "ran\n"
    assert "SCONE_FSPF is not heeded" in found.stderr
    assert "00" * 16 not in found.stderr


def test_missing_fspf_of_the_session_is_named(crannog_run: Run) -> None:
    from crannog.exchange.configuration import FspfReference

    answer = configure("echo", fspf=FspfReference("/nonexistent.fspf", bytes(32), bytes(16)))
    with FakeCas(answer) as cas:
        found = crannog_run(["echo"], **attested(cas))
    assert found.returncode == 78
    assert "/nonexistent.fspf" in found.stderr


def test_sessions_text_does_not_depend_on_the_hosts_locale(crannog_run: Run) -> None:
    script = "import os; print(os.environb[b'GREETING'], os.fsencode(os.sys.argv[1]))"
    answer = configure("python3", "-c", script, "→ü", environment={"GREETING": "é→"})
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    with FakeCas(answer) as cas:
        found = crannog_run(["/usr/bin/python3"], **attested(cas, **ascii_only))
    assert found.stdout == f"{'é→'.encode()!r} {'→ü'.encode()!r}\n", found.stderr


def test_measurement_does_not_depend_on_the_hosts_locale(crannog_run: Run, tmp_path: Path) -> None:
    script = tmp_path / "grüße"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    one = crannog_run([str(script)], SCONE_HASH="1")
    other = crannog_run([str(script)], SCONE_HASH="1", **ascii_only)
    assert one.stdout == other.stdout != "", other.stderr


@pytest.mark.parametrize("change", ["replaced", "rewritten", "planted"])
def test_file_that_changes_after_it_was_measured_stops_the_start(
    crannog_run: Run, tmp_path: Path, change: str
) -> None:
    script = tmp_path / "venv" / "bin" / "python3"
    script.parent.mkdir(parents=True)
    script.symlink_to("/usr/bin/python3")
    (tmp_path / "venv" / "pyvenv.cfg").write_text("home = /usr/bin\n")
    right = configure("python3", "-c", "print('ran')")

    def answer(statement: Statement, evidence: Evidence) -> Configuration | Refusal | bytes | None:
        if change == "replaced":
            script.unlink()
            script.symlink_to("/usr/bin/env")
        elif change == "rewritten":
            (tmp_path / "venv" / "pyvenv.cfg").write_text("home = /tmp/bin\n")
        else:
            (tmp_path / "venv" / "bin" / "pyvenv.cfg").write_text("home = /usr/bin\n")
        return right(statement, evidence)

    with FakeCas(answer) as cas:
        found = crannog_run([str(script)], **attested(cas))
    assert (found.returncode, found.stdout) == (78, "")
    assert "changed after it was measured" in found.stderr
