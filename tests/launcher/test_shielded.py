"""The launcher and the file shield together: what makes a start shielded, and what then holds."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from crannog.exchange.configuration import File
from tests.launcher.conftest import LAUNCHER, Run, host_environment
from tests.launcher.fake_cas import FakeCas, configure

PYTHON = "/usr/bin/python3"


def attested(cas: FakeCas, **more: str) -> dict[str, str]:
    return {"SCONE_CONFIG_ID": "s/s", "SCONE_CAS_ADDR": cas.address, **more}


def test_default_settings_run_an_ordinary_python_with_tls(crannog_run: Run) -> None:
    script = "import ssl, http.server, sqlite3, os, sys; print(ssl.OPENSSL_VERSION, os.environ)"
    with FakeCas(configure("python3", "-c", script)) as cas:
        found = crannog_run([PYTHON], **attested(cas))
    assert found.returncode == 0, found.stderr
    assert "OpenSSL" in found.stdout


def test_native_code_that_was_not_measured_is_refused(crannog_run: Run, tmp_path: Path) -> None:
    library = tmp_path / "libplanted.so"
    library.write_bytes(Path("/lib/x86_64-linux-gnu/libz.so.1").resolve().read_bytes())
    script = f"import ctypes; ctypes.CDLL({str(library)!r}); print('loaded')"
    with FakeCas(configure("python3", "-c", script)) as cas:
        for allowed, loaded in (("0", False), ("1", False), ("2", True)):
            found = crannog_run([PYTHON], **attested(cas, SCONE_ALLOW_DLOPEN=allowed))
            assert ("loaded" in found.stdout) is loaded, found.stderr


def test_program_that_was_not_measured_is_not_executed(crannog_run: Run) -> None:
    script = "import os; os.execv('/bin/true', ['true'])"
    with FakeCas(configure("python3", "-c", script)) as cas:
        found = crannog_run([PYTHON], **attested(cas))
    assert found.returncode != 0


def test_injected_file_is_there_and_not_on_the_disk(crannog_run: Run, tmp_path: Path) -> None:
    place = tmp_path / "no" / "such" / "directory" / "key.pem"
    script = f"print(open({str(place)!r}).read())"
    answer = configure("python3", "-c", script, files=(File(str(place), b"secret", 0o600),))
    with FakeCas(answer) as cas:
        found = crannog_run([PYTHON], **attested(cas))
    assert found.stdout == "secret\n", found.stderr
    assert not place.parent.exists()


@pytest.mark.parametrize("name", ["/usr/bin/echo", "/bin/echo", "/lib64/ld-linux-x86-64.so.2"])
@pytest.mark.parametrize("allowed", ["0", "2"])
def test_an_injected_file_in_the_place_of_what_was_measured_is_refused(
    crannog_run: Run, name: str, allowed: str
) -> None:
    other = Path("/usr/bin/date").read_bytes()
    with FakeCas(configure("echo", "+%Y", files=(File(name, other, 0o755),))) as cas:
        found = crannog_run(["/usr/bin/echo"], **attested(cas, SCONE_ALLOW_DLOPEN=allowed))
    assert (found.returncode, found.stdout) == (78, "")
    assert f"take the place of {name}, which was measured" in found.stderr


@pytest.mark.parametrize(("script", "status"), [("raise SystemExit(7)", 7), ("1/0", 1)])
def test_exit_status(crannog_run: Run, script: str, status: int) -> None:
    with FakeCas(configure("python3", "-c", script)) as cas:
        assert crannog_run([PYTHON], **attested(cas)).returncode == status


def test_host_environment_and_arguments_never_arrive(crannog_run: Run) -> None:
    script = "import os, sys; print(sorted(set(os.environ) - {'LC_CTYPE'}), sys.argv[1:])"
    with FakeCas(configure("python3", "-c", script, environment={"A": "1"})) as cas:
        found = crannog_run([PYTHON, "/host"], **attested(cas, GREETING="host"))
    assert found.stdout == "['A', 'HOME', 'PATH'] []\n", found.stderr


def test_signals_reach_the_program_and_it_ends_at_once() -> None:
    script = (
        "import os, signal\n"
        "signal.signal(10, lambda n, f: os.write(1, b'usr1\\n'))\n"
        "os.write(1, b'ready\\n')\n"
        "while True: signal.pause()\n"
    )
    with (
        FakeCas(configure("python3", "-c", script)) as cas,
        subprocess.Popen(
            [*LAUNCHER, PYTHON],
            env=host_environment(**attested(cas, SCONE_LOG="ERROR")),
            stdout=subprocess.PIPE,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGUSR1)
        assert process.stdout.readline() == b"usr1\n"
        before = time.monotonic()
        process.terminate()
        assert process.wait(20) == 143
        assert time.monotonic() - before < 2


def test_killed_launcher_takes_the_program_with_it() -> None:
    script = "import os, time; os.write(1, b'%d\\n' % os.getpid()); time.sleep(1000)"
    with (
        FakeCas(configure("python3", "-c", script)) as cas,
        subprocess.Popen(
            [*LAUNCHER, PYTHON],
            env=host_environment(**attested(cas, SCONE_LOG="ERROR")),
            stdout=subprocess.PIPE,
        ) as process,
    ):
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        process.kill()
        process.wait(20)
        from tests.launcher.test_parent import gone

        assert gone(pid)


def test_missing_fspf_for_debugging_is_named(crannog_run: Run) -> None:
    found = crannog_run(
        ["true"], SCONE_FSPF="/nonexistent", SCONE_FSPF_KEY="00" * 32, SCONE_FSPF_TAG="00" * 16
    )
    assert found.returncode == 78
    assert "/nonexistent" in found.stderr


def test_fspf_that_is_none_is_refused(crannog_run: Run, tmp_path: Path) -> None:
    file = tmp_path / "fspf.pb"
    file.write_bytes(b"garbage" * 100)
    found = crannog_run(
        ["echo", "ran"],
        SCONE_FSPF=str(file),
        SCONE_FSPF_KEY="00" * 32,
        SCONE_FSPF_TAG="00" * 16,
    )
    assert (found.returncode, found.stdout) == (78, "")
    assert "Traceback" not in found.stderr


UNPRIVILEGED = (
    *("/usr/bin/setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all", "--inh-caps=-all"),
)


def test_unprivileged_user_without_new_privileges() -> None:
    if os.geteuid() != 0:
        pytest.skip("not root: every other test here runs unprivileged already")
    script = "import os, ssl; print(os.getuid(), open('/injected/key').read())"
    answer = configure("python3", "-c", script, files=(File("/injected/key", b"k", 0o600),))
    with FakeCas(answer) as cas:
        found = subprocess.run(
            [*UNPRIVILEGED, *LAUNCHER, PYTHON],
            env=host_environment(**attested(cas)),
            capture_output=True,
            text=True,
            check=False,
        )
    if found.returncode == 126 or "Permission denied" in found.stderr.partition("[SCONE")[0]:
        pytest.skip("this Python lies where an unprivileged user cannot reach it")
    assert found.stdout == "65534 k\n", found.stderr


def test_threads_end_as_usual(crannog_run: Run) -> None:
    # glibc loads libgcc_s when a thread ends while the interpreter goes away.
    script = (
        "import threading, time\n"
        "for _ in range(8): threading.Thread(target=time.sleep, args=(30,), daemon=True).start()\n"
        "print('done')\n"
    )
    with FakeCas(configure("python3", "-c", script)) as cas:
        found = crannog_run([PYTHON], **attested(cas))
    assert (found.returncode, found.stdout) == (0, "done\n"), found.stderr


def test_names_are_resolved(crannog_run: Run) -> None:
    script = "import socket, pwd; print(socket.gethostbyname('localhost'), pwd.getpwuid(0)[0])"
    with FakeCas(configure("python3", "-c", script)) as cas:
        found = crannog_run([PYTHON], **attested(cas))
    assert found.stdout == "127.0.0.1 root\n", found.stderr


def test_script_runs_under_the_shield(crannog_run: Run, tmp_path: Path) -> None:
    script = tmp_path / "tool"
    script.write_text(f"#!{PYTHON} -I\nimport sys; print(sys.argv, sys.flags.isolated)\n")
    script.chmod(0o755)
    with FakeCas(configure("tool", "session")) as cas:
        found = crannog_run([str(script)], **attested(cas))
    assert found.stdout == f"['{script}', 'session'] 1\n", found.stderr
