"""What somebody who owns the disk, or another user, or bad luck tries; each refused by its rule."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.shield.harness import NOBODY, ROOT, Shield, compile_program


@pytest.fixture
def shield(tmp_path: Path) -> Shield:
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    return Shield(tmp_path)


@pytest.fixture
def as_nobody(shield: Shield) -> Shield:
    if os.getuid() != 0:
        pytest.skip("changing the user needs root")
    shield.user = NOBODY
    return shield


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("built")
    for path in (place, place.parent, place.parent.parent):
        path.chmod(0o755)
    return place


def test_a_region_that_is_a_link_is_not_followed(shield: Shield) -> None:
    shield.protect({"server.py": b"print('genuine')", "lib/mod.py": b""})
    evil = shield.base / "evil"
    evil.mkdir()
    (evil / "server.py").write_text("print('evil')")
    (evil / "extra.py").write_text("print('evil')")
    shutil.rmtree(shield.app)
    shield.app.symlink_to(evil)
    script = f"cd {shield.app}; pwd -P; ls; cat extra.py; cat {shield.app}/extra.py"
    result = shield.run(["/bin/sh", "-c", script])
    assert result.stdout.split() == [str(shield.app), "lib", "server.py"]
    assert result.stderr.count("No such file") == 2


def test_a_directory_of_a_region_that_is_a_link_is_not_followed(shield: Shield) -> None:
    shield.protect({"lib/mod.txt": b"genuine"})
    evil = shield.base / "evil"
    evil.mkdir()
    shutil.copy(shield.app / "lib" / "mod.txt", evil / "mod.txt")
    (evil / "planted.txt").write_text("evil")
    shutil.rmtree(shield.app / "lib")
    (shield.app / "lib").symlink_to(evil)
    result = shield.run(["/bin/sh", "-c", f"cd {shield.app}/lib && cat planted.txt"])
    assert "evil" not in result.stdout
    assert "No such file" in result.stderr
    result = shield.run(["/bin/sh", "-c", f"cat {shield.app}/lib/planted.txt"])
    assert "evil" not in result.stdout


def test_a_region_whose_way_leads_elsewhere_keeps_its_name(shield: Shield) -> None:
    shield.app = shield.base / "srv" / "app"
    (shield.base / "srv").mkdir()
    shield.protect({"main.txt": b"genuine"})
    (shield.base / "srv").rename(shield.base / "moved")
    (shield.base / "srv").symlink_to(shield.base / "evil")
    (shield.base / "evil" / "app").mkdir(parents=True)
    (shield.base / "evil" / "app" / "other.txt").write_text("evil")
    result = shield.run(["/bin/cat", shield.app / "other.txt"])
    assert "evil" not in result.stdout
    assert "No such file" in result.stderr


def test_an_ancestor_renamed_from_outside_changes_nothing(shield: Shield) -> None:
    shield.protect({"a.txt": b"genuine", "go": b""})
    script = (
        f"cd {shield.app}; read line; cat a.txt; cat planted.txt; cat {shield.app}/a.txt; pwd -P"
    )
    command = shield.command(["/bin/sh", "-c", script])
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    shield.app.rename(shield.base / "elsewhere")
    (shield.base / "elsewhere" / "planted.txt").write_text("evil")
    shutil.copytree(shield.base / "elsewhere", shield.app)
    output, errors = process.communicate("go\n", timeout=30)
    assert output == f"genuinegenuine{shield.app}\n", errors
    assert "evil" not in output


def test_a_deleted_file_does_not_make_a_program_look_elsewhere(shield: Shield) -> None:
    shield.protect({"main.py": b"import helpers\n", "helpers.py": b"print('genuine')\n"})
    evil = shield.base / "evil"
    evil.mkdir()
    (evil / "helpers.py").write_text("print('evil')\n")
    (shield.app / "helpers.py").unlink()
    result = shield.run(
        [sys.executable, shield.app / "main.py"], environment={"PYTHONPATH": str(evil)}
    )
    assert result.returncode == 78
    assert "evil" not in result.stdout
    assert f"file {shield.app}/helpers.py of a protected region" in result.stderr


def test_a_flipped_bit_stops_the_program_before_its_first_byte(shield: Shield) -> None:
    shield.protect({"data": b"x" * 200_000})
    on_disk = shield.app / "data"
    content = bytearray(on_disk.read_bytes())
    content[150_000] ^= 1
    on_disk.write_bytes(content)
    result = shield.run(["/bin/sh", "-c", f"cat {shield.app}/data; echo went on"])
    assert result.returncode == 78
    assert result.stdout == ""
    assert f"file {shield.app}/data of a protected region" in result.stderr
    assert "verification of file chunk 2" in result.stderr


@pytest.mark.parametrize("change", ["shorter", "longer", "directory", "fifo", "link", "gone"])
def test_a_replaced_file_stops_the_program(shield: Shield, change: str) -> None:
    shield.protect({"data": b"x" * 1000})
    on_disk = shield.app / "data"
    content = on_disk.read_bytes()
    on_disk.unlink()
    if change == "shorter":
        on_disk.write_bytes(content[:-1])
    elif change == "longer":
        on_disk.write_bytes(content + b"x")
    elif change == "directory":
        on_disk.mkdir()
    elif change == "fifo":
        os.mkfifo(on_disk)
    elif change == "link":
        (shield.base / "copy").write_bytes(content)
        on_disk.symlink_to(shield.base / "copy")
    result = shield.run(["/bin/sh", "-c", f"cat {shield.app}/data; echo went on"])
    assert result.returncode == 78
    assert "went on" not in result.stdout
    assert f"file {shield.app}/data of a protected region" in result.stderr


def test_files_of_one_region_are_not_exchanged(shield: Shield) -> None:
    shield.protect({"a": b"a" * 100, "b": b"b" * 100})
    first, second = (shield.app / name for name in "ab")
    swapped = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(swapped)
    assert shield.run(["/bin/cat", first]).returncode == 78


def test_memory_of_the_wrong_process_is_never_read(shield: Shield, built: Path) -> None:
    shield.protect({"parent": b"parent", "child": b"child"})
    program = compile_program("vforked", built)
    result = shield.run([program, shield.app, "60"])
    assert result.stdout == "ok\n", result.stdout + result.stderr


def test_signals_every_five_milliseconds_do_not_stop_an_open(shield: Shield, built: Path) -> None:
    shield.protect({"big": bytes(64 << 20), "small": b"x"})
    program = compile_program("signals", built)
    result = shield.run([program, shield.app / "big", shield.app / "small", "300"])
    assert result.stdout.startswith("ok "), result.stdout + result.stderr


def test_another_users_file_stays_closed(shield: Shield, built: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("changing the user needs root")
    shield.protect({"secret": b"x", "closed/x": b"x"}, modes={"secret": 0o600, "closed": 0o700})
    program = compile_program("users", built)
    result = shield.run([program, shield.app / "secret", shield.app / "closed" / "x"])
    assert dict(line.split() for line in result.stdout.splitlines()) == {
        "root": "opened",
        "thread-fsuid": "EACCES",
        "root-still": "opened",
        "access-real": "EACCES",
        "access-effective": "allowed",
        "no-capabilities-owner": "opened",
        "nobody": "EACCES",
        "nobody-in-directory": "EACCES",
        "root-last": "opened",
    }, result.stderr


def test_another_users_injected_file_stays_closed(shield: Shield, built: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("changing the user needs root")
    key = shield.base / "not-there" / "key.pem"
    shield.inject(key, b"key", 0o600)
    program = compile_program("users", built)
    result = shield.run([program, key, key])
    answers = dict(line.split() for line in result.stdout.splitlines())
    assert answers["root"] == answers["root-last"] == "opened"
    assert answers["thread-fsuid"] == answers["nobody"] == answers["access-real"] == "EACCES"


def test_a_thread_that_executes_has_its_own_identity(shield: Shield, built: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("changing the user needs root")
    shield.protect({"secret": b"x"}, modes={"secret": 0o600})
    program = compile_program("threadexec", built)
    loop = f"for i in 1 2 3 4 5 6 7 8; do {program} {shield.app}/secret; done"
    result = shield.run(["/bin/sh", "-c", loop])
    assert result.stdout.split() == ["EACCES"] * 8, result.stderr


def test_a_changed_user_without_the_capability_to_trace_is_told_so(shield: Shield) -> None:
    if os.getuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("dropping a capability needs root and setpriv")
    shield.inject(shield.base / "key", b"key")
    script = "import os; os.setgroups([]); os.setresuid(1, 1, 1); open('/etc/hostname')"
    command = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    command += shield.command(["/usr/bin/python3", "-c", script])
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 78, result.stderr
    assert "cannot be read" in result.stderr
    assert "runAsUser" in result.stderr


def test_an_unprivileged_launcher_without_any_capability(as_nobody: Shield) -> None:
    shield = as_nobody
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    shield.protect({"a.txt": b"alpha"}, owner=(NOBODY, NOBODY))
    shield.user = None
    command = [
        *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
        *("--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"),
        *shield.command(["/bin/sh", "-c", f"cd {shield.app} && cat a.txt && /bin/pwd"]),
    ]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert result.stdout == f"alpha{shield.app}\n", result.stderr


def test_a_directory_above_a_region_keeps_its_rights(as_nobody: Shield) -> None:
    shield = as_nobody
    shield.app = shield.base / "closed" / "app"
    (shield.base / "closed").mkdir()
    shield.protect({"a.txt": b"x"}, owner=(NOBODY, NOBODY))
    (shield.base / "closed").chmod(0o700)
    result = shield.run(["/bin/cat", shield.app / "a.txt"])
    assert "Permission denied" in result.stderr


def test_a_program_that_hides_its_memory_is_told_so(as_nobody: Shield) -> None:
    shield = as_nobody
    shield.inject(shield.base / "key", b"key")
    script = "import ctypes; ctypes.CDLL(None).prctl(4, 0, 0, 0, 0); open('/etc/hostname')"
    result = shield.run(["/usr/bin/python3", "-c", script])
    assert result.returncode == 78
    assert "cannot be read" in result.stderr
    assert "runAsUser" in result.stderr


def test_crannog_in_crannog_is_refused(shield: Shield) -> None:
    shield.inject(shield.base / "key", b"key")
    inner = Shield(shield.base / "inner")
    inner.base.mkdir()
    inner.inject(inner.base / "key", b"key")
    command = inner.command(["/bin/true"])
    result = shield.run(command, pwd=ROOT, environment={"PYTHONPATH": str(ROOT)})
    assert result.returncode == 78
    # Refused by the inner one, or by the outer one where it may not read the inner one's memory.
    assert "crannog cannot run inside crannog" in result.stderr


def test_descriptors_of_the_launcher_are_closed(shield: Shield) -> None:
    shield.inject(shield.base / "key", b"key")
    result = shield.run(["/bin/sh", "-c", "ls /proc/self/fd | wc -l"])
    assert result.stdout.strip() == "4"  # three, and ls's own


def test_the_kernel_says_no_new_privileges(shield: Shield) -> None:
    shield.inject(shield.base / "key", b"key")
    result = shield.run(["/bin/grep", "-E", "^(NoNewPrivs|Seccomp):", "/proc/self/status"])
    assert result.stdout.split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]


def _living(marker: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                command = Path(f"/proc/{name}/cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in command and b"specification" not in command:
                found.append(int(name))
    return found


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        os.sched_yield()
    return False


@pytest.fixture
def tree(shield: Shield) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A program with a child and a grandchild of its own session, all of which only wait."""
    shield.inject(shield.base / "key", b"key")
    marker = f"86399.{os.getpid()}{time.monotonic_ns()}"
    script = f"sh -c 'setsid sleep {marker} & sleep {marker}' & echo up; sleep {marker}; true"
    process = subprocess.Popen(
        shield.command(["/bin/sh", "-c", script]), cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    assert _until(lambda: len(_living("sleep\0" + marker)) == 3)
    yield process, marker
    process.kill()
    for pid in _living(marker):
        os.kill(pid, signal.SIGKILL)
    process.communicate()


def test_if_the_supervisor_dies_everything_dies(tree: tuple[subprocess.Popen[str], str]) -> None:
    process, marker = tree
    process.kill()
    assert _until(lambda: not _living(marker)), _living(marker)


def test_if_the_program_ends_nothing_is_left(tree: tuple[subprocess.Popen[str], str]) -> None:
    process, marker = tree
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not _living(marker)
