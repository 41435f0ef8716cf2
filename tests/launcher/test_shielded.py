"""The launcher and the file shield together: what makes a start shielded, and what then holds."""

from __future__ import annotations

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
