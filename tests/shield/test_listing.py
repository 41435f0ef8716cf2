"""Directories list what the fspf and the injected files say, in regions and beside them."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.shield.exec_world import World, compile_program

USERS = [None, 12345]


@pytest.fixture
def world(tmp_path: Path) -> World:
    for directory in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        directory.chmod(0o755)  # another user has to get here
    return World(tmp_path)


def listing(world: World, directory: Path, **options: int) -> list[str]:
    done = world.run("/bin/ls", "-A", directory, **options)  # type: ignore[arg-type]
    assert done.status == 0, done.err
    return done.out.split()


def test_a_region_lists_what_was_protected_and_not_what_lies_on_disk(world: World) -> None:
    world.add("kept", "x")
    world.add("deleted", "x")
    world.add("sub/below", "x")
    world.link("link", "kept")
    world.protect()
    (world.app / "deleted").unlink()
    (world.app / "added").write_text("x")
    assert listing(world, world.app) == ["deleted", "kept", "link", "sub"]
    assert listing(world, world.app / "sub") == ["below"]


def test_a_deleted_module_does_not_make_python_look_elsewhere(world: World) -> None:
    """The attack: helpers.py is deleted in the region, another one lies further on in the path."""
    world.add("main.py", "import helpers\nprint(helpers.NAME)\n")
    world.add("helpers.py", "NAME = 'ours'\n")
    world.protect()
    (world.app / "helpers.py").unlink()
    elsewhere = world.base / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "helpers.py").write_text("NAME = 'the attacker'\n")
    done = world.run(
        "/usr/bin/python3", world.app / "main.py", environment={"PYTHONPATH": str(elsewhere)}
    )
    assert "attacker" not in done.out
    assert done.status == 78
    assert "helpers.py" in done.err


def test_an_added_module_is_not_found(world: World) -> None:
    world.add("main.py", "try:\n import extra\nexcept ImportError:\n print('not there')\n")
    world.protect()
    (world.app / "extra.py").write_text("print('planted')\n")
    assert world.run("/usr/bin/python3", world.app / "main.py").out == "not there\n"


def test_an_injected_file_is_listed_in_a_region_and_beside_one(world: World) -> None:
    world.add("known", "x")
    world.inject(world.app / "key.pem", "k")
    world.inject(world.base / "open/cert.pem", "c")
    world.protect()
    (world.base / "open").mkdir()
    (world.base / "open/real").write_text("r")
    assert listing(world, world.app) == ["key.pem", "known"]
    assert listing(world, world.base / "open") == ["cert.pem", "real"]


def test_an_injected_file_hides_the_disks_of_its_name(world: World) -> None:
    (world.base / "open").mkdir()
    (world.base / "open/cert.pem").mkdir()
    world.inject(world.base / "open/cert.pem", "c")
    done = world.run("/bin/ls", "-p", world.base / "open")
    assert done.out == "cert.pem\n"


def test_a_directory_that_exists_only_for_an_injected_file_is_listed(world: World) -> None:
    world.inject(world.base / "made/up/cert.pem", "c")
    assert listing(world, world.base / "made") == ["up"]
    assert listing(world, world.base / "made/up") == ["cert.pem"]
    assert "made" in listing(world, world.base)


@pytest.mark.parametrize("user", USERS)
@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_positions_work_in_a_region(world: World, static: bool, user: int | None) -> None:
    for index in range(20):
        world.add(f"files/name-{index:02}", "x")
    world.add("files/sub/x", "x")
    world.link("files/link", "name-00")
    program = world.base / "moves"
    compile_program("list_moves.c", program, *(("-static",) if static else ()))
    world.protect()
    done = world.run(program, world.app / "files", "24", user=user)
    assert (done.status, done.out) == (0, "done\n"), done.err


@pytest.mark.parametrize("user", USERS)
def test_positions_work_where_injected_files_lie_among_others(
    world: World, user: int | None
) -> None:
    directory = world.base / "open"
    directory.mkdir()
    for index in range(20):
        (directory / f"name-{index:02}").write_text("x")
    (directory / "sub").mkdir()
    world.inject(directory / "injected", "i")
    world.inject(directory / "sub/other", "o")
    world.inject(directory / "new/other", "o")
    program = world.base / "moves"
    compile_program("list_moves.c", program)
    done = world.run(program, directory, "25", user=user)
    assert (done.status, done.out) == (0, "done\n"), done.err


def test_names_that_come_and_go_disturb_no_reader(world: World) -> None:
    directory = world.base / "open"
    directory.mkdir()
    for index in range(500):
        (directory / f"name-{index:03}").write_text("")
    world.inject(directory / "injected", "i")
    program = """
import os, sys
seen = []
with os.scandir(sys.argv[1]) as entries:
    for number, entry in enumerate(entries):
        seen.append(entry.name)
        if number == 10:
            for index in range(0, 500, 2):
                os.unlink(f"{sys.argv[1]}/name-{index:03}")
            for index in range(500, 900):
                open(f"{sys.argv[1]}/name-{index:03}", "w").close()
stay = {f"name-{index:03}" for index in range(1, 500, 2)} | {"injected"}
print(len(seen) == len(set(seen)), stay <= set(seen))
"""
    done = world.run("/usr/bin/python3", "-c", program, directory)
    assert done.out == "True True\n", done.err


def test_a_large_directory_takes_linear_time(world: World) -> None:
    """A hundred thousand names, whole; four times as many take about four times as long."""
    program = """
import json, os, sys, time
took = []
for name in sys.argv[1:]:
    start = time.perf_counter()
    names = os.listdir(name)
    took.append((len(names), len(set(names)), time.perf_counter() - start))
print(json.dumps(took))
"""
    for name, count in (("small", 25_000), ("large", 100_000)):
        directory = world.base / name
        directory.mkdir()
        for index in range(count):
            os.mknod(directory / f"name-{index}")
        world.inject(directory / "injected", "i")
    start = time.monotonic()
    done = world.run("/usr/bin/python3", "-c", program, world.base / "small", world.base / "large")
    assert time.monotonic() - start < 60
    small, large = json.loads(done.out)
    assert (small[:2], large[:2]) == ([25_001, 25_001], [100_001, 100_001])


def test_find_sees_the_whole_tree_and_tar_packs_it(world: World) -> None:
    for top in "abc":
        for name in "xyz":
            world.add(f"{top}/{name}/file", "content\n")
    world.protect()
    for path in sorted(world.app.rglob("file")):
        path.unlink() if path.parts[-3] == "b" else None
    found = world.run("/usr/bin/find", world.app, "-name", "file")
    assert len(found.out.split()) == 9
    packed = world.run("/bin/sh", "-c", f"tar -C {world.app} -cf - a c | tar -tf - | grep -c file")
    assert packed.out == "6\n", packed.err


def test_a_directory_that_may_not_be_read_is_not_listed(world: World) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    world.add("closed/name", "x")
    (world.plain / "closed").chmod(0o711)
    world.protect()
    done = world.run("/bin/ls", world.app / "closed", user=12345)
    assert done.status != 0
    assert "name" not in done.out


def test_where_a_debugger_holds_the_process_listings_still_work(world: World) -> None:
    if not os.path.exists("/usr/bin/strace"):
        pytest.skip("strace is not installed")
    for index in range(3000):
        world.add(f"name-{index}", "")
    world.protect()
    done = world.run(
        "/usr/bin/strace", "-f", "-o", "/dev/null", "/bin/sh", "-c", f"ls {world.app} | wc -l"
    )
    assert done.out.strip() == "3000", done.err


@pytest.mark.parametrize(("what", "rounds"), [("exec", 60), ("kill", 60), ("stop", 100)])
def test_a_process_that_is_replaced_killed_or_stopped_while_it_lists(
    world: World, what: str, rounds: int
) -> None:
    """A thread that dies while it is traced has to be let go, or execve and wait never end."""
    for index in range(300):
        world.add(f"name-{index}", "")
    program = world.base / "killed"
    compile_program("list_killed.c", program)
    world.protect()
    done = world.run(program, what, str(rounds), world.app, timeout=60)
    assert (done.status, done.out) == (0, "done\n"), done.err


def test_what_is_no_directory_or_is_gone_is_the_kernels_to_answer(world: World) -> None:
    world.add("file", "x")
    world.inject(world.base / "cert.pem", "c")
    world.protect()
    (world.base / "gone").mkdir()
    script = (
        "import ctypes, os, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "buffer = ctypes.create_string_buffer(4096)\n"
        "def read(fd):\n"
        "    size = libc.getdents64(fd, buffer, 4096)\n"
        "    return os.strerror(ctypes.get_errno()) if size < 0 else size\n"
        "print(read(os.open(sys.argv[1], 0)))\n"
        "print(read(os.open(sys.argv[2], 0)))\n"
        "gone = os.open(sys.argv[3], 0); os.rmdir(sys.argv[3]); print(read(gone))\n"
        "print(read(999)); print(read(os.memfd_create('x')))\n"
    )
    done = world.run(
        "/usr/bin/python3",
        "-c",
        script,
        world.app / "file",
        world.base / "cert.pem",
        world.base / "gone",
    )
    assert done.out.splitlines() == [
        "Not a directory",
        "Not a directory",
        "No such file or directory",
        "Bad file descriptor",
        "Not a directory",
    ], done.err
