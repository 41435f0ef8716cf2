"""The launcher does for the program nothing that the program may not do itself.

It opens, executes and lists in the program's place, with its own rights; so each of these could be
a way to what only the launcher may have, or only another user.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.shield.harness import NOBODY, ROOT, Shield, compile_program

PYTHON = "/usr/bin/python3"
ANSWER = """
import os, sys
def ask(name, what):
    try:
        print(name, what() and "given")
    except OSError as error:
        print(name, error.strerror)
def parent(process):
    with open(f"/proc/{process}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
"""


@pytest.fixture
def shield(tmp_path: Path) -> Shield:
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(0o755)
    return Shield(tmp_path)


def _needs_root() -> None:
    if os.getuid() != 0:
        pytest.skip("changing the user needs root")


def _answers(output: str) -> dict[str, str]:
    return dict(line.split(" ", 1) for line in output.splitlines())


def _script(shield: Shield, text: str) -> list[str | Path]:
    up = "/..".join([str(shield.app), *[""] * len(shield.app.parts[1:])])
    return [PYTHON, "-c", f"{ANSWER}\nA, UP = {str(shield.app)!r}, {up!r}\n{text}"]


def test_a_region_is_no_way_into_the_launchers_memory(shield: Shield) -> None:
    # Root without CAP_SYS_PTRACE, as in most containers: the launcher may open its own memory.
    _needs_root()
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    shield.protect({"a.txt": b"x"})
    names = ("mem", "environ", "maps", "task/{l}/mem", "stat")
    text = "l = parent(os.getppid())\n" + "".join(
        f"ask({name!r}, lambda: os.open(f'{{UP}}/proc/{{l}}/{name}', os.O_RDONLY))\n"
        for name in names
    )
    text += "ask('own', lambda: os.open(f'{UP}/proc/self/maps', os.O_RDONLY))\n"
    text += "ask('mounts', lambda: os.open(f'{UP}/proc/self/root/proc/mounts', os.O_RDONLY))\n"
    command = ["setpriv", "--bounding-set=-sys_ptrace", "--inh-caps=-sys_ptrace"]
    result = subprocess.run(
        [*command, *shield.command(_script(shield, text))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    answers = _answers(result.stdout)
    assert {answers[name] for name in names} == {"Permission denied"}, result.stderr
    assert answers["own"] == answers["mounts"] == "given"


def test_a_changed_user_is_not_served_outside_through_a_region(shield: Shield) -> None:
    _needs_root()
    outside = shield.base / "outside"
    outside.mkdir()
    (outside / "plain").write_text("plain")
    shutil.copy("/bin/true", outside / "program")
    links = {"plain": str(outside / "plain"), "program": str(outside / "program")}
    shield.protect({"a.txt": b"x"}, links=links)
    text = (
        "def run(path):\n"
        "    if os.fork() == 0:\n"
        "        try: os.execv(path, [path])\n"
        "        except OSError as error: os._exit(error.errno)\n"
        "    return os.waitstatus_to_exitcode(os.wait()[1]) or 'ran'\n"
        "for who in ('launcher', 'other'):\n"
        "    ask(who + '-open', lambda: os.open(A + '/plain', os.O_RDONLY))\n"
        "    print(who + '-run', run(A + '/program'))\n"
        f"    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
    )
    result = shield.run(_script(shield, text))
    assert _answers(result.stdout) == {
        "launcher-open": "given",
        "launcher-run": "ran",
        "other-open": "Permission denied",
        "other-run": "13",
    }, result.stderr


def test_what_another_process_has_open_gives_no_right(shield: Shield) -> None:
    _needs_root()
    shield.protect({"closed/secret": b"x"}, modes={"closed": 0o700})
    text = (
        "fd = os.open(A + '/closed/secret', os.O_RDONLY)\n"
        "os.chdir(A + '/closed')\n"
        "path, here = f'/proc/{os.getpid()}/fd/{fd}', f'/proc/{os.getpid()}/cwd/secret'\n"
        "ask('own-fd', lambda: os.open(path, os.O_RDONLY))\n"
        "sys.stdout.flush()\n"
        "if os.fork() == 0:\n"
        f"    os.setresuid({NOBODY}, {NOBODY}, {NOBODY})\n"
        "    ask('fd', lambda: os.open(path, os.O_RDONLY))\n"
        "    ask('cwd', lambda: os.open(here, os.O_RDONLY))\n"
        "    ask('inherited', lambda: os.open(f'/proc/self/fd/{fd}', os.O_RDONLY))\n"
        "    sys.stdout.flush(); os._exit(0)\n"
        "os.wait()\n"
    )
    result = shield.run(_script(shield, text))
    assert _answers(result.stdout) == {
        "own-fd": "given",
        "fd": "Permission denied",
        "cwd": "Permission denied",
        "inherited": "given",
    }, result.stderr


def test_descriptors_that_the_launcher_was_started_with_are_closed(shield: Shield) -> None:
    # A directory of the disk, opened before: the way past every region.
    shield.protect({"a.txt": b"x"})
    shield.inject(shield.base / "key", b"key")
    opened = os.open(shield.app, os.O_RDONLY | os.O_DIRECTORY)
    try:
        result = subprocess.run(
            shield.command([PYTHON, "-c", f"import os; print(os.listdir({opened}))"]),
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            pass_fds=(opened,),
        )
    finally:
        os.close(opened)
    assert "Bad file descriptor" in result.stderr


def test_a_signal_without_restart_does_not_interrupt_what_is_being_answered(
    shield: Shield,
) -> None:
    shield.protect({"big": bytes(96 << 20)})
    program = compile_program("interrupted", shield.base)
    result = shield.run([program, shield.app / "big"])
    assert result.stdout == "opened 1\n", result.stderr


def test_the_i386_interface_is_not_there(shield: Shield) -> None:
    if platform.machine() != "x86_64":
        pytest.skip("int 0x80 is of x86-64")
    program = compile_program("i386", shield.base)
    native = subprocess.run([program, program], capture_output=True, text=True, check=False)
    if native.returncode != 0:
        pytest.skip("the kernel has no i386 interface")
    shield.protect({"a.txt": b"x"})
    (shield.app / "planted").write_text("planted")
    result = shield.run([program, shield.app / "planted"])
    assert result.stdout == "-38\n"


def test_python_writes_no_bytecode_beside_the_ciphertext(shield: Shield) -> None:
    shield.protect({"main.py": b"import part; print(part.x)", "part.py": b"x = 1"})
    before = sorted(shield.app.rglob("*"))
    script = f"{sys.executable} {shield.app}/main.py; {sys.executable} -m compileall {shield.app}"
    result = shield.run(["/bin/sh", "-c", script])
    assert result.stdout.startswith("1\n"), result.stderr
    assert sorted(shield.app.rglob("*")) == before


@pytest.mark.parametrize("change", ["last-byte", "shorter", "longer"])
def test_nothing_of_a_large_file_is_served_before_its_end_is_verified(
    shield: Shield, change: str
) -> None:
    shield.protect({"data": b"x" * (20 << 20)})
    on_disk = shield.app / "data"
    with on_disk.open("r+b") as file:
        if change == "last-byte":
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        else:
            file.truncate((20 << 20) + (4096 if change == "longer" else -4096))
    result = shield.run(["/bin/sh", "-c", f"head -c 4 {shield.app}/data; echo went on"])
    assert (result.returncode, result.stdout) == (78, "")
    assert f"file {shield.app}/data of a protected region" in result.stderr


def test_files_of_another_fspf_stop_the_program(shield: Shield) -> None:
    shield.protect({"data": b"genuine"})
    ours = shield.fspf
    shield.protect({"data": b"another"})
    shield.fspf = ours
    result = shield.run(["/bin/cat", shield.app / "data"])
    assert (result.returncode, result.stdout) == (78, "")


def test_what_is_made_through_a_region_gets_the_callers_umask(shield: Shield) -> None:
    outside = shield.base / "outside"
    outside.mkdir()
    shield.protect({"a.txt": b"x"}, links={"out": str(outside)})
    text = "os.umask(0o027)\nos.open(A + '/out/new', os.O_CREAT | os.O_WRONLY, 0o666)\n"
    result = shield.run(_script(shield, text))
    assert (outside / "new").stat().st_mode & 0o7777 == 0o640, result.stderr


def test_a_link_that_the_program_makes_anew_leads_into_the_region(shield: Shield) -> None:
    shield.protect({"a.txt": b"genuine"})
    (shield.app / "planted").write_text("planted")
    link = shield.base / "link"
    (shield.base / "plain").write_text("plain")
    link.symlink_to(shield.base / "plain")
    text = (
        f"link = {str(link)!r}\n"
        "def read(path):\n"
        "    with open(path) as file: return file.read()\n"
        "import time\n"
        "time.sleep(0.1)\n"  # beyond the moment in which nothing is remembered
        "print('before', read(link), read(link))\n"
        "os.unlink(link); os.symlink(A + '/a.txt', link)\n"
        "print('made', read(link))\n"
        "os.symlink(A + '/planted', link + '2'); time.sleep(0.1)\n"
        "print('again', read(link), read(link))\n"
        "os.rename(link + '2', link)\n"
        "ask('planted', lambda: read(link))\n"
    )
    result = shield.run(_script(shield, text))
    assert _answers(result.stdout) == {
        "before": "plain plain",
        "made": "genuine",
        "again": "genuine genuine",
        "planted": "No such file or directory",
    }, result.stderr


def test_a_number_that_another_process_gets_brings_no_identity(shield: Shield) -> None:
    # The first of that number was root and read the file; the next one is somebody else.
    _needs_root()
    last = Path("/proc/sys/kernel/ns_last_pid")
    if not os.access(last, os.W_OK):
        pytest.skip("process ids cannot be chosen")
    shield.protect({"secret": b"x"}, modes={"secret": 0o600})
    text = (
        f"last = os.open({str(last)!r}, os.O_WRONLY)\n"
        "def child():\n"
        "    process = os.fork()\n"
        "    if process == 0:\n"
        "        try: os.open(A + '/secret', os.O_RDONLY)\n"
        "        except OSError as error: os._exit(error.errno)\n"
        "        os._exit(0)\n"
        "    return process, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])\n"
        "for attempt in range(200):\n"
        "    first, status = child()\n"
        "    assert status == 0\n"
        "    os.pwrite(last, b'%d' % (first - 1), 0)\n"
        f"    os.setresuid({NOBODY}, {NOBODY}, 0)\n"
        "    second, status = child()\n"
        "    os.setresuid(0, 0, 0)\n"
        "    assert status == 13, status\n"
        "    if first == second:\n"
        "        print('same number')\n"
        "        break\n"
    )
    result = shield.run(_script(shield, text))
    assert "AssertionError" not in result.stderr
    if "same number" not in result.stdout:
        pytest.skip("the number went to others")


def test_chdir_under_a_debugger_is_refused_and_the_program_goes_on(shield: Shield) -> None:
    shield.protect({"a.txt": b"alpha"})
    (shield.app / "planted").write_text("planted")
    script = f"cd {shield.app} || echo refused; cat planted; cat {shield.app}/a.txt; echo; pwd -P"
    result = shield.run(["strace", "-f", "-o", "/dev/null", "/bin/sh", "-c", script])
    assert result.stdout.split() == ["refused", "alpha", "/"], result.stderr
    assert "chdir into a region" in result.stderr


def test_chdir_without_a_free_descriptor_is_refused_and_the_program_goes_on(
    shield: Shield,
) -> None:
    shield.protect({"a.txt": b"alpha"})
    text = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        "ask('chdir', lambda: os.chdir(A))\n"
        "print('cwd', os.getcwd())\n"
    )
    result = shield.run(_script(shield, text))
    assert _answers(result.stdout) == {"chdir": "Too many open files", "cwd": "/"}
