"""The launcher as parent: signals, zombies, exit statuses, terminal, PID 1, its own death."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pexpect
import pytest

from tests.launcher.conftest import LAUNCHER, host_environment
from tests.launcher.fake_cas import FakeCas, configure

SECONDS = 20.0


def environment(cas: FakeCas) -> dict[str, str]:
    return host_environment(
        SCONE_ALLOW_DLOPEN="2",
        SCONE_CONFIG_ID="s/s",
        SCONE_CAS_ADDR=cas.address,
        SCONE_LOG="ERROR",
    )


@contextlib.contextmanager
def started(
    *argv: str, program: str | None = None, prefix: tuple[str, ...] = ()
) -> Iterator[subprocess.Popen[str]]:
    """An attested program that has written its first line."""
    with (
        FakeCas(configure(*argv)) as cas,
        subprocess.Popen(
            [*prefix, *LAUNCHER, program or argv[0]],
            env=environment(cas),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert select.select([process.stdout], [], [], SECONDS)[0], "nothing came"
    return process.stdout.readline().strip()


def gone(pid: int) -> bool:
    """Whether the process has ended (or is a zombie of somebody else), within the time allowed."""
    until = time.monotonic() + SECONDS
    while time.monotonic() < until:
        try:
            with open(f"/proc/{pid}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "Z":
                    return True
        except OSError:
            return True
        time.sleep(0.01)
    return False


SHOW_SIGNALS = """
import os, signal
for number in (1, 10, 12, 15, 28, 34):
    signal.signal(number, lambda n, f: os.write(1, b"got %d\\n" % n))
os.write(1, b"ready\\n")
while True: signal.pause()
"""


def test_launcher_is_the_parent_and_not_the_program() -> None:
    with started("sh", "-c", "echo $$ $PPID") as process:
        pid, parent = map(int, line(process).split())
        assert parent == process.pid != pid


@pytest.mark.parametrize("number", [1, 10, 12, 15, 28, 34])
def test_signal_is_forwarded_once(number: int) -> None:
    with started("python3", "-c", SHOW_SIGNALS, program="/usr/bin/python3") as process:
        assert line(process) == "ready"
        process.send_signal(number)
        assert line(process) == f"got {number}"
        process.send_signal(signal.SIGUSR2)
        assert line(process) == "got 12"


def test_sigterm_ends_a_program_that_does_not_handle_it_at_once() -> None:
    with started("sh", "-c", "echo ready; exec sleep 1000") as process:
        assert line(process) == "ready"
        before = time.monotonic()
        process.terminate()
        assert process.wait(SECONDS) == 128 + 15
        assert time.monotonic() - before < 2


@pytest.mark.parametrize(("script", "status"), [("exit 3", 3), ("kill -9 $$", 137), ("true", 0)])
def test_exit_status(script: str, status: int) -> None:
    with started("sh", "-c", script) as process:
        assert process.wait(SECONDS) == status


def test_orphans_are_adopted_and_reaped() -> None:
    script = """
import os, sys, time
if os.fork() == 0:
    if os.fork() == 0:
        os.read(0, 1)
        print(os.getppid(), os.getpid(), flush=True)
        os._exit(0)
    os._exit(0)
os.wait()
print(os.getppid(), flush=True)
sys.stdin.close()
while True: time.sleep(1000)
"""
    with started("python3", "-c", script, program="/usr/bin/python3") as process:
        assert int(line(process)) == process.pid
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
        parent, orphan = map(int, line(process).split())
        assert parent == process.pid
        until = time.monotonic() + SECONDS
        while os.path.exists(f"/proc/{orphan}") and time.monotonic() < until:
            time.sleep(0.01)
        assert not os.path.exists(f"/proc/{orphan}")
        process.terminate()
        assert process.wait(SECONDS) == 143


def test_killed_launcher_takes_the_program_with_it() -> None:
    with started("sh", "-c", "echo $$; exec sleep 1000") as process:
        pid = int(line(process))
        process.kill()
        process.wait(SECONDS)
        assert gone(pid)


def test_signals_blocked_or_ignored_by_the_host_do_not_break_it() -> None:
    script = "import signal, os; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(%r, %r)"
    ignoring = (sys.executable, "-c", script % (LAUNCHER[0], [*LAUNCHER, "sh"]))
    with FakeCas(configure("sh", "-c", "sleep 0; exit 5")) as cas:
        found = subprocess.run(ignoring, env=environment(cas), timeout=60, check=False)
    assert found.returncode == 5


def test_sigterm_before_the_program_runs_ends_the_start() -> None:
    environment = host_environment(
        SCONE_CONFIG_ID="s/s", SCONE_CAS_ADDR="127.0.0.1:1", CRANNOG_RETRY_SECONDS="600"
    )
    with subprocess.Popen(
        [*LAUNCHER, "true"], env=environment, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for text in process.stderr:
            if "trying again" in text:
                break
        process.terminate()
        assert process.wait(SECONDS) == 143


# --- a terminal


@pytest.fixture(params=["2", "0"], ids=["plain", "shielded"])
def shell(request: pytest.FixtureRequest) -> Iterator[Callable[..., pexpect.spawn[str]]]:
    """An interactive bash with job control on a terminal of its own."""
    opened: list[pexpect.spawn[str]] = []
    cas = FakeCas(
        configure(
            "python3",
            "-c",
            "import os, signal, sys\n"
            "signal.signal(signal.SIGWINCH, lambda n, f: os.write(1, b'resized\\n'))\n"
            "try:\n"
            "    os.write(1, b'up\\n')\n"
            "    while True: os.write(1, b'line ' + os.read(0, 99))\n"
            "except KeyboardInterrupt: os.write(1, b'interrupted\\n')\n"
            "sys.exit(9)\n",
        )
    )

    def open_shell() -> pexpect.spawn[str]:
        child: pexpect.spawn[str] = pexpect.spawn(
            "/bin/bash",
            ["--norc", "--noprofile"],
            env={
                **environment(cas),
                "SCONE_ALLOW_DLOPEN": request.param,
                "PS1": "PROMPT ",
                "TERM": "dumb",
            },
            encoding="utf-8",
            timeout=SECONDS,
        )
        opened.append(child)
        child.setecho(False)
        child.expect_exact("PROMPT ")
        return child

    with cas:
        yield open_shell
        for child in opened:
            child.close(force=True)


COMMAND = " ".join([*LAUNCHER, "/usr/bin/python3"])


def test_ctrl_c_reaches_the_program_once_and_its_status_comes_back(
    shell: Callable[..., pexpect.spawn[str]],
) -> None:
    child = shell()
    child.sendline(COMMAND)
    child.expect_exact("up")
    child.sendintr()
    child.expect_exact("interrupted")
    child.expect_exact("PROMPT ")
    child.sendline("echo status $?")
    child.expect_exact("status 9")


def test_ctrl_z_stops_the_job_and_fg_goes_on(shell: Callable[..., pexpect.spawn[str]]) -> None:
    child = shell()
    child.sendline(COMMAND)
    child.expect_exact("up")
    child.send("\x1a")
    child.expect_exact("Stopped")
    child.expect_exact("PROMPT ")
    child.sendline("fg")
    child.expect_exact(LAUNCHER[-2])
    child.sendline("hello")
    child.expect_exact("line hello")
    child.send("\x1a")
    child.expect_exact("Stopped")
    child.expect_exact("PROMPT ")
    child.sendline("fg")
    child.expect_exact(LAUNCHER[-2])
    # bash writes the command before it gives away the terminal: Ctrl-C could still be its own.
    child.sendline("again")
    child.expect_exact("line again")
    child.sendintr()
    child.expect_exact("interrupted")


def test_resizing_the_terminal_reaches_the_program(
    shell: Callable[..., pexpect.spawn[str]],
) -> None:
    child = shell()
    child.sendline(COMMAND)
    child.expect_exact("up")
    child.setwinsize(40, 100)
    child.expect_exact("resized")
    child.sendintr()


# --- PID 1

UNSHARE = ("/usr/bin/unshare", "--pid", "--fork", "--mount-proc", "--kill-child")


def can_unshare() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


pid_one = pytest.mark.skipif(not can_unshare(), reason="no PID namespace can be made here")


def as_pid_one(*command: str, **more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*UNSHARE, *LAUNCHER, *command],
        env=host_environment(**{"SCONE_LOG": "ERROR", **more}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )


@pid_one
def test_pid_one_stays_the_parent_although_unattested() -> None:
    with as_pid_one("sh", "-c", "echo $$ $PPID $GREETING", GREETING="howdy") as process:
        out, _ = process.communicate(timeout=SECONDS)
    pid, parent, greeting = out.split()
    assert (parent, greeting) == ("1", "howdy")
    assert pid != "1"


@pid_one
def test_pid_one_ends_at_sigterm() -> None:
    with as_pid_one("sh", "-c", "echo ready; exec sleep 1000") as process:
        assert line(process) == "ready"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        before = time.monotonic()
        os.kill(int(children[0]), signal.SIGTERM)
        assert process.wait(SECONDS) in (143, -15)
        assert time.monotonic() - before < 2


@pid_one
def test_pid_one_reaps_what_nobody_waits_for() -> None:
    script = """
import os, time
for _ in range(20):
    if os.fork() == 0:
        os.fork()
        os._exit(0)
    os.wait()
until = time.monotonic() + 10
while time.monotonic() < until:
    left = [p for p in os.listdir('/proc') if p.isdigit()]
    if len(left) <= 2: break
    time.sleep(0.01)
print(len(left))
"""
    with as_pid_one("/usr/bin/python3", "-c", script) as process:
        out, _ = process.communicate(timeout=SECONDS)
    assert out == "2\n"


@pid_one
@pytest.mark.parametrize("allow_dlopen", ["0", "2"])
def test_attested_pid_one_serves_and_ends_at_sigterm(allow_dlopen: str) -> None:
    script = "import os, time; os.write(1, b'%d\\n' % os.getppid()); time.sleep(1000)"
    with (
        FakeCas(configure("python3", "-c", script)) as cas,
        as_pid_one(
            "/usr/bin/python3",
            **{**environment(cas), "SCONE_ALLOW_DLOPEN": allow_dlopen},
        ) as process,
    ):
        assert line(process) == "1"
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        before = time.monotonic()
        os.kill(int(children[0]), signal.SIGTERM)
        assert process.wait(SECONDS) in (143, -15)
        assert time.monotonic() - before < 2
