"""Programs and scripts of regions run verified, from C, static, threaded; planted ones do not."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from tests.shield.exec_world import World, compile_program

USERS = [None, 12345]
NODE = shutil.which("node")


@pytest.fixture
def world(tmp_path: Path) -> World:
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)  # another user has to get here
    return World(tmp_path)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("options", [(), ("-static",)], ids=["dynamic", "static"])
def test_an_encrypted_program_runs_from_its_region(
    world: World, options: tuple[str, ...], user: int | None
) -> None:
    world.compile("exec_self.c", "bin/self", *options)
    world.protect()
    program = world.app / "bin/self"
    assert program.read_bytes() != (world.plain / "bin/self").read_bytes()
    expected = f"{program}|again|{program}\n{program}|last|{program}\n"

    first = world.run(program, "again", user=user)
    assert (first.status, first.out) == (0, expected), first.err

    child = world.run("/bin/sh", "-c", f"{program} again", user=user)
    assert (child.status, child.out) == (0, expected), child.err


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("interpreter", ["/bin/sh", "/usr/bin/env sh"])
def test_a_script_runs_with_its_virtual_path_and_all_its_words(
    world: World, interpreter: str, user: int | None
) -> None:
    world.add("run.sh", f'#!{interpreter}\nfor word in "$0" "$@"; do echo "[$word]"; done\n', 0o755)
    world.protect()
    script = world.app / "run.sh"
    expected = f"[{script}]\n[a b]\n[]\n[c]\n"
    first = world.run(script, "a b", "", "c", user=user)
    assert (first.status, first.out) == (0, expected), first.err
    child = world.run("/bin/sh", "-c", f"{script} 'a b' '' c", user=user)
    assert (child.status, child.out) == (0, expected), child.err


def test_a_python_script_imports_what_lies_beside_it(world: World) -> None:
    world.add(
        "main.py", "#!/usr/bin/env python3\nimport helper\nprint(helper.NAME, __file__)\n", 0o755
    )
    world.add("helper.py", "NAME = 'from the region'\n")
    world.protect()
    done = world.run("/bin/sh", "-c", f"exec {world.app}/main.py")
    assert (done.status, done.out) == (0, f"from the region {world.app}/main.py\n"), done.err


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_a_node_script_requires_what_lies_beside_it(world: World) -> None:
    world.add("main.js", "#!/usr/bin/env node\nconsole.log(require('./part').name)\n", 0o755)
    world.add("part.js", "exports.name = 'from the region'\n")
    world.protect()
    done = world.run("/bin/sh", "-c", f"exec {world.app}/main.js")
    assert (done.status, done.out) == (0, "from the region\n"), done.err


def test_an_interpreter_in_the_region_is_the_regions(world: World) -> None:
    """The disk's copy of the interpreter is exchanged: the verified one runs all the same."""
    world.compile("exec_self.c", "bin/interpreter", "-static")
    world.add("script", f"#!{world.app}/bin/interpreter\n", 0o755)
    world.protect("AUTHENTICATED")
    warm = world.run("/bin/sh", "-c", f"{world.app}/script")
    assert (
        warm.out == f"{world.app}/bin/interpreter|{world.app}/script|{world.app}/bin/interpreter\n"
    )

    (world.app / "bin/interpreter").write_bytes(Path("/bin/echo").read_bytes())
    swapped = world.run("/bin/sh", "-c", f"{world.app}/script; echo not stopped")
    assert swapped.status == 78
    assert "not stopped" not in swapped.out
    assert "bin/interpreter" in swapped.err


def test_a_chain_of_scripts_is_followed_as_the_kernel_does(world: World) -> None:
    world.add("one", '#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n', 0o755)
    world.add("two", f"#!{world.app}/one with a word\n", 0o755)
    world.add("three", f"#!{world.app}/two\n", 0o755)
    world.protect()
    done = world.run("/bin/sh", "-c", f"{world.app}/three end")
    app = world.app
    assert done.out == f"with a word\n{app}/two\n{app}/three\nend\n"


def test_a_script_that_interprets_itself_ends_with_eloop(world: World) -> None:
    world.add("self", f"#!{world.app}/self\n", 0o755)
    program = world.base / "fails"
    compile_program("exec_fails.c", program)
    world.protect()
    assert world.run(program, world.app / "self").out == "ELOOP\n"


def test_what_cannot_be_executed_fails_as_usual_and_the_caller_goes_on(world: World) -> None:
    world.add("not-executable", "#!/bin/sh\n", 0o644)
    world.add("text", "neither\n", 0o755)
    world.add("empty", "", 0o755)
    world.add("no-interpreter", "#! \n", 0o755)
    world.add("lost", "#!/nowhere/at/all\n", 0o755)
    world.add("foreign", b"\x7fELF\x01\x01\x01".ljust(64, b"\0"), 0o755)
    world.add("directory/x", "")
    program = world.base / "fails"
    compile_program("exec_fails.c", program)
    world.protect()
    names = [
        "not-executable",
        "text",
        "empty",
        "no-interpreter",
        "lost",
        "foreign",
        "directory",
        "absent",
        "text/below",
    ]
    done = world.run(program, *(world.app / name for name in names))
    assert done.out.split() == [
        "EACCES",
        "ENOEXEC",
        "ENOEXEC",
        "ENOEXEC",
        "ENOENT",
        "ENOEXEC",
        "EACCES",
        "ENOENT",
        "ENOTDIR",
    ]
    assert done.status == 0


def test_another_users_program_is_not_executed(world: World) -> None:
    world.add("private", "#!/bin/sh\necho ran\n", 0o700)
    program = world.base / "fails"
    compile_program("exec_fails.c", program)
    world.protect()
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    assert world.run(program, world.app / "private", user=12345).out == "EACCES\n"


def test_a_planted_program_does_not_exist(world: World) -> None:
    world.add("known", "x")
    program = world.base / "fails"
    compile_program("exec_fails.c", program)
    world.protect()
    planted = world.app / "planted"
    shutil.copy("/bin/echo", planted)
    script = world.app / "planted.sh"
    script.write_text("#!/bin/sh\necho planted\n")
    script.chmod(0o755)
    done = world.run(program, planted, script)
    assert done.out == "ENOENT\nENOENT\n"


def test_a_script_outside_with_a_planted_interpreter_is_refused(world: World) -> None:
    world.add("known", "x")
    world.protect()
    planted = world.app / "planted"
    shutil.copy("/bin/echo", planted)
    script = world.base / "outside.sh"
    script.write_text(f"#!{planted}\n")
    script.chmod(0o755)
    program = world.base / "fails"
    compile_program("exec_fails.c", program)
    assert world.run(program, script).out == "ENOENT\n"


def test_a_script_outside_runs_with_the_verified_interpreter(world: World) -> None:
    world.compile("exec_self.c", "interpreter", "-static")
    world.protect()
    script = world.base / "outside"
    script.write_text(f"#!{world.app}/interpreter\n")
    script.chmod(0o755)
    done = world.run("/bin/sh", "-c", str(script))
    assert done.out == f"{world.app}/interpreter|{script}|{world.app}/interpreter\n", done.err


def _loader() -> Path:
    for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"):
        if os.path.exists(path):
            return Path(path)
    pytest.skip("no loader known")


@pytest.mark.parametrize("inside", [True, False], ids=["program in region", "program outside"])
def test_a_loader_in_the_region_is_the_verified_one(world: World, inside: bool) -> None:
    """The kernel would open PT_INTERP's path on the disk, where another loader was put."""
    world.add("lib/loader.so", _loader().read_bytes(), 0o755)
    option = f"-Wl,--dynamic-linker={world.app}/lib/loader.so"
    program = world.app / "program" if inside else world.base / "program"
    if inside:
        world.compile("exec_self.c", "program", option)
    else:
        compile_program("exec_self.c", program, option)
    world.protect()
    (world.app / "lib/loader.so").write_bytes(os.urandom(_loader().stat().st_size))
    refused = world.run("/bin/sh", "-c", f"{program}; echo not stopped")
    assert refused.status == 78, refused.out
    assert "loader.so" in refused.err

    world.app.joinpath("lib/loader.so").unlink()
    refused = world.run(program)
    assert refused.status == 78, refused.out


@pytest.mark.parametrize("inside", [True, False], ids=["program in region", "program outside"])
def test_a_program_with_a_loader_in_the_region_runs(world: World, inside: bool) -> None:
    world.add("lib/loader.so", _loader().read_bytes(), 0o755)
    option = f"-Wl,--dynamic-linker={world.app}/lib/loader.so"
    program = world.app / "program" if inside else world.base / "program"
    if inside:
        world.compile("exec_self.c", "program", option)
    else:
        compile_program("exec_self.c", program, option)
    world.protect()
    expected = f"{program}|again|{program}\n{program}|last|{program}\n"
    first = world.run(program, "again")
    assert (first.status, first.out) == (0, expected), first.err
    child = world.run("/bin/sh", "-c", f"{program} again")
    assert (child.status, child.out) == (0, expected), child.err


def test_a_link_in_the_region_leads_out_and_the_disks_does_not_count(world: World) -> None:
    world.link("tool", "/bin/echo")
    world.protect()
    (world.app / "tool").unlink(missing_ok=True)
    (world.app / "tool").symlink_to("/bin/false")
    done = world.run("/bin/sh", "-c", f"{world.app}/tool right")
    assert (done.status, done.out) == (0, "right\n"), done.err
    first = world.run(world.app / "tool", "right")
    assert (first.status, first.out) == (0, "right\n"), first.err


def test_an_injected_script_runs(world: World) -> None:
    world.inject(world.base / "nowhere/tool.sh", "#!/bin/sh\necho injected $1\n", 0o755)
    done = world.run("/bin/sh", "-c", f"{world.base}/nowhere/tool.sh x")
    assert (done.status, done.out) == (0, "injected x\n"), done.err


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("kind", ["program", "script"])
def test_four_hundred_starts_with_signals_and_threads(
    world: World, kind: str, user: int | None
) -> None:
    if kind == "program":
        world.add("start", Path("/bin/echo").read_bytes(), 0o755)
    else:
        world.add("start", "#!/bin/sh\nexit 0\n", 0o755)
    storm = world.base / "storm"
    compile_program("exec_storm.c", storm)
    world.protect()
    done = world.run(storm, world.app / "start", "100", "4", user=user)
    assert (done.status, done.out) == (0, "bad 0 of 400, ticks yes\n"), done.err


def test_a_thread_executes_by_a_directory(world: World) -> None:
    world.compile("exec_self.c", "bin/self")
    thread = world.base / "thread"
    compile_program("exec_thread.c", thread)
    world.protect()
    done = world.run(thread, world.app / "bin", "self")
    assert done.out == f"self|from a thread|{world.app}/bin/self\n", done.err


def test_parent_and_child_of_vfork_get_their_own_files(world: World) -> None:
    """A memory handle that is kept over vfork and execve reads the wrong process's paths."""
    world.add("file", "content\n")
    world.add("cat", Path("/bin/cat").read_bytes(), 0o755)
    program = world.base / "spawns"
    compile_program("exec_spawn_reads.c", program)
    world.protect()
    done = world.run(program, world.app / "cat", world.app / "file")
    assert (done.status, done.out) == (0, "content\n" * 100), done.err


def test_setuid_bits_mean_nothing(world: World) -> None:
    world.add("id", Path("/usr/bin/id").read_bytes(), 0o4755)
    world.protect()
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    assert stat.S_IMODE((world.plain / "id").stat().st_mode) == 0o4755
    assert world.run(world.app / "id", "-u", user=12345).out == "12345\n"


def test_without_tracing_nothing_falls_through_to_the_disk(world: World) -> None:
    """A debugger holds the process already: then the region's program is refused, and said so."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    world.add("tool", "#!/bin/sh\necho ran\n", 0o755)
    world.protect()
    done = world.run(
        "/usr/bin/strace",
        "-f",
        "-o",
        "/dev/null",
        "/bin/sh",
        "-c",
        f"{world.app}/tool || echo refused",
    )
    assert done.out == "refused\n"
    assert "may not be traced" in done.err


def test_a_script_is_executed_by_a_descriptor(world: World) -> None:
    world.compile("exec_self.c", "interpreter", "-static")
    world.add("one.sh", "#!/bin/sh\necho one\n", 0o755)
    world.add("two", f"#!{world.app}/interpreter\n", 0o755)
    world.add("private", "#!/bin/sh\necho ran\n", 0o644)
    world.protect()
    script = (
        "import os, sys\n"
        "for name in sys.argv[1:]:\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        fd = os.open(name, os.O_RDONLY)\n"
        "        os.set_inheritable(fd, True)\n"
        "        try: os.execve(fd, ['x'], os.environ)\n"
        "        except OSError as error: print(error.strerror, flush=True); os._exit(0)\n"
        "    os.waitpid(pid, 0)\n"
    )
    done = world.run(
        "/usr/bin/python3",
        "-c",
        script,
        world.app / "one.sh",
        world.app / "two",
        world.app / "private",
    )
    interpreter = f"{world.app}/interpreter"
    assert done.out.splitlines() == [
        "one",
        f"{interpreter}|{world.app}/two|{interpreter}",
        "Permission denied",
    ], done.err


def test_as_many_interpreters_in_a_row_as_the_kernel_allows(world: World) -> None:
    program = world.base / "fails"
    compile_program("exec_fails.c", program)
    native = world.base / "native"
    native.mkdir()
    for directory, where in ((world.plain, world.app), (native, native)):
        directory.joinpath("0").write_text("#!/bin/true\n")
        for index in range(1, 8):
            directory.joinpath(str(index)).write_text(f"#!{where}/{index - 1}\n")
        for script in directory.iterdir():
            script.chmod(0o755)
    world.protect()
    for index in range(8):
        expected = subprocess.run([program, native / str(index)], capture_output=True, check=False)
        done = world.run(program, world.app / str(index))
        assert done.out == expected.stdout.decode(), index


def test_a_program_finds_its_libraries_beside_itself(world: World) -> None:
    """$ORIGIN is what the loader reads from /proc/self/exe."""
    world.compile("dlopen_part.c", "lib/libpart.so", "-shared", "-fPIC")
    main = world.base / "main.c"
    main.write_text("int part(void); int main(void) { return part() != 42; }\n")
    subprocess.run(
        [
            "cc",
            "-o",
            world.plain / "main",
            main,
            f"-L{world.plain}/lib",
            "-lpart",
            "-Wl,-rpath,$ORIGIN/lib",
        ],
        check=True,
    )
    world.protect()
    for argv in ((str(world.app / "main"),), ("/bin/sh", "-c", f"cd {world.app} && ./main")):
        done = world.run(*argv)
        assert (done.status, done.out) == (0, "constructor ran\n"), done.err


def test_no_detour_leads_to_a_planted_program(world: World) -> None:
    world.add("known/x", "x")
    world.protect()
    planted = world.app / "known/planted"
    shutil.copy("/bin/echo", planted)
    link = world.base / "link"
    link.symlink_to(planted)
    up = world.base / "up"
    up.symlink_to(world.app)
    names = [
        f"/proc/self/root{planted}",
        f"/proc/thread-self/root{planted}",
        f"{world.base}/./app/../app//known/planted",
        str(link),
        f"{up}/known/planted",
        f"/proc/self/root{up}/known/planted",
    ]
    scripts = []
    for index, name in enumerate(names):
        script = world.base / f"script-{index}"
        script.write_text(f"#!{name}\n")
        script.chmod(0o755)
        scripts.append(str(script))
    loaders = []
    for index, name in enumerate(names[:3]):
        program = world.base / f"program-{index}"
        compile_program("exec_self.c", program, f"-Wl,--dynamic-linker={name}")
        loaders.append(str(program))
    fails = world.base / "fails"
    compile_program("exec_fails.c", fails)
    done = world.run(fails, *names, *scripts, *loaders)
    assert done.out == "ENOENT\n" * 15, done.err

    detours = (
        "import os, sys\n"
        "directory = os.open(sys.argv[1], os.O_RDONLY)\n"
        "os.chdir(sys.argv[1])\n"
        "for name in ('planted', './planted', '/proc/self/cwd/planted',\n"
        "             f'/proc/self/fd/{directory}/planted', f'/dev/fd/{directory}/planted'):\n"
        "    try: os.execv(name, ['planted', 'ran'])\n"
        "    except OSError as error: print(error.errno)\n"
    )
    done = world.run("/usr/bin/python3", "-c", detours, world.app / "known")
    assert done.out == "2\n" * 5, done.err
