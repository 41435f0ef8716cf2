"""The library tree that an image's base fspf protects, attacked by the image and by a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crannog.errors import EXIT_REFUSED
from crannog.shield.fspf import write_plain
from crannog.shield.model import Protection, Region
from crannog.testing.protection import protect_index
from tests.shield.exec_world import World, compile_program
from tests.shield.harness import Shield

FILES = {"os.py": b"genuine\n", "encodings/utf_8.py": b"utf 8\n"}


@pytest.fixture
def shield(tmp_path: Path) -> Shield:
    """A base fspf over `usr/lib/python3.11` with an open `site-packages`, as on the disk."""
    made = Shield(tmp_path)
    tree = library(made)
    point = os.fsencode(tree)
    index, disk = protect_index(
        {point + b"/" + name.encode(): content for name, content in FILES.items()},
        directories=[point + b"/site-packages"],
        regions=[Region(point, Protection.AUTHENTICATED, point)],
        owner=(os.getuid(), os.getgid()),
    )
    for path, content in disk.items():
        place = Path(os.fsdecode(path))
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
    (tree / "site-packages").mkdir()
    made.base_fspf = write_plain(index)
    return made


def library(shield: Shield) -> Path:
    return shield.base / "usr" / "lib" / "python3.11"


def session(shield: Shield, *regions: Region) -> None:
    """A session's fspf with these regions besides a `/` that is not protected."""
    root = Region(b"/", Protection.NOT_PROTECTED, b"/", 0)
    shield.protect({}, regions=(root, *regions))


def test_genuine_library_is_read(shield: Shield) -> None:
    done = shield.run(["cat", library(shield) / "os.py", library(shield) / "encodings/utf_8.py"])
    assert (done.returncode, done.stdout) == (0, "genuine\nutf 8\n"), done.stderr


def _change(tree: Path) -> None:
    (tree / "os.py").write_bytes(b"attack!\n")


def _change_keeping_times(tree: Path) -> None:
    before = (tree / "os.py").stat()
    _change(tree)
    os.utime(tree / "os.py", ns=(before.st_atime_ns, before.st_mtime_ns))


def _delete(tree: Path) -> None:
    (tree / "os.py").unlink()


def _replace_by_link(tree: Path) -> None:
    _delete(tree)
    (tree / "evil.py").write_bytes(b"attack!\n")
    (tree / "os.py").symlink_to("evil.py")


def _replace_by_directory(tree: Path) -> None:
    _delete(tree)
    (tree / "os.py").mkdir()


def _turn_the_tree_into_a_link(tree: Path) -> None:
    evil = tree.parent / "evil"
    shutil.copytree(tree, evil)
    (evil / "os.py").write_bytes(b"attack!\n")
    shutil.rmtree(tree)
    tree.symlink_to(evil)


ATTACKS = [
    _change,
    _change_keeping_times,
    _delete,
    _replace_by_link,
    _replace_by_directory,
    _turn_the_tree_into_a_link,
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_changed_library_stops_the_program(shield: Shield, attack: Callable[[Path], None]) -> None:
    attack(library(shield))
    done = shield.run(["sh", "-c", f"cat {library(shield)}/os.py; echo went on"])
    assert "attack" not in done.stdout
    assert "went on" not in done.stdout
    assert str(library(shield) / "os.py") in done.stderr


def test_subdirectory_turned_into_a_link_shows_nothing_of_its_target(shield: Shield) -> None:
    evil = shield.base / "evil"
    evil.mkdir()
    (evil / "utf_8.py").write_bytes(b"attack!\n")
    (evil / "added.py").write_bytes(b"attack!\n")
    shutil.rmtree(library(shield) / "encodings")
    (library(shield) / "encodings").symlink_to(evil)
    done = shield.run(
        ["sh", "-c", f"ls {library(shield)}/encodings; readlink {library(shield)}/encodings"]
    )
    assert done.stdout == "utf_8.py\n"


def test_added_file_is_never_seen(shield: Shield) -> None:
    (library(shield) / "added.py").write_bytes(b"attack!\n")
    done = shield.run(["sh", "-c", f"cat {library(shield)}/added.py; ls {library(shield)}"])
    assert done.stdout.split() == ["encodings", "os.py", "site-packages"]
    assert "No such file" in done.stderr


def test_program_cannot_write_into_it(shield: Shield) -> None:
    done = shield.run(
        ["sh", "-c", f"echo x > {library(shield)}/os.py; echo x > {library(shield)}/new.py"]
    )
    assert done.stderr.count("Read-only file system") == 2
    assert (library(shield) / "os.py").read_bytes() == b"genuine\n"


def test_directories_above_it_cannot_be_moved(shield: Shield) -> None:
    done = shield.run(["mv", shield.base / "usr", shield.base / "other"])
    assert "busy" in done.stderr


def test_site_packages_are_the_disks(shield: Shield) -> None:
    package = library(shield) / "site-packages" / "package.py"
    package.write_bytes(b"installed\n")
    script = (
        f"cat {package}; cd {library(shield)}; cat site-packages/package.py; echo x > {package}.new"
    )
    done = shield.run(["sh", "-c", script])
    assert (done.stdout, done.stderr) == ("installed\n" * 2, "")
    assert package.with_name("package.py.new").read_text() == "x\n"


def test_from_site_packages_the_way_up_is_the_library(shield: Shield) -> None:
    _turn_the_tree_into_a_link(library(shield))
    done = shield.run(["ls", f"{library(shield)}/site-packages/.."])
    assert done.stdout.split() == ["encodings", "os.py", "site-packages"]


def test_not_protected_root_of_a_session_changes_nothing(shield: Shield) -> None:
    session(shield)
    _change(library(shield))
    done = shield.run(["cat", library(shield) / "os.py"])
    assert "attack" not in done.stdout
    assert done.returncode != 0


def test_not_protected_region_above_changes_nothing(shield: Shield) -> None:
    above = os.fsencode(library(shield).parent)
    session(shield, Region(above, Protection.NOT_PROTECTED, above, 0))
    (library(shield) / "added.py").write_bytes(b"attack!\n")
    assert "added" not in shield.run(["ls", library(shield)]).stdout


@pytest.mark.parametrize("protection", list(Protection))
@pytest.mark.parametrize("below", ["", "encodings"])
def test_region_of_a_session_in_it_is_refused(
    shield: Shield, below: str, protection: Protection
) -> None:
    point = os.fsencode(library(shield) / below)
    length = 0 if protection is Protection.NOT_PROTECTED else 65536
    session(shield, Region(point, protection, point, length))
    refused(shield, "base fspf protects")


def test_region_of_a_session_in_it_by_another_name_is_refused(shield: Shield) -> None:
    (shield.base / "lib").symlink_to("usr/lib")
    point = os.fsencode(shield.base / "lib" / "python3.11" / "encodings")
    session(shield, Region(point, Protection.NOT_PROTECTED, point, 0))
    refused(shield, "base fspf protects")


def test_region_with_the_librarys_real_name_is_refused(shield: Shield) -> None:
    (shield.base / "usr").rename(shield.base / "real")
    (shield.base / "usr").symlink_to("real")
    point = os.fsencode(shield.base / "real" / "lib" / "python3.11")
    session(shield, Region(point, Protection.NOT_PROTECTED, point, 0))
    refused(shield, "base fspf protects")


@pytest.mark.parametrize("name", ["os.py", "added.py", "encodings", "encodings/utf_8.py", ""])
def test_file_injected_into_it_is_refused(shield: Shield, name: str) -> None:
    shield.inject(library(shield) / name, b"injected\n")
    refused(shield, "base fspf protects")


def test_file_injected_into_it_by_another_name_is_refused(shield: Shield) -> None:
    (shield.base / "lib").symlink_to("usr/lib/python3.11/encodings")
    shield.inject(shield.base / "lib" / "utf_8.py", b"injected\n")
    refused(shield, "base fspf protects")


def test_file_injected_over_a_directory_above_it_is_refused(shield: Shield) -> None:
    shield.inject(shield.base / "usr" / "lib", b"injected\n")
    refused(shield, "hides the interpreter's library")


def test_file_injected_into_site_packages_is_there(shield: Shield) -> None:
    shield.inject(library(shield) / "site-packages" / "settings.py", b"injected\n")
    done = shield.run(["cat", library(shield) / "site-packages" / "settings.py"])
    assert done.stdout == "injected\n"


def refused(shield: Shield, match: str) -> None:
    done = shield.run(["echo", "ran"])
    assert (done.returncode, done.stdout) == (EXIT_REFUSED, "")
    assert match in done.stderr


@pytest.fixture
def world(tmp_path: Path) -> World:
    """An interpreter behind a front; the front says so if it is executed."""
    made = World(tmp_path)
    (tmp_path / "usr" / "bin").mkdir(parents=True)
    (tmp_path / "usr" / "libexec" / "crannog").mkdir(parents=True)
    (tmp_path / "front.c").write_text('#include <stdio.h>\nint main(){puts("front ran");}\n')
    compile_program(str(tmp_path / "front.c"), tmp_path / "usr/bin/tool", "-static")
    shutil.copy("/bin/echo", tmp_path / "usr/libexec/crannog/tool")
    return made


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_front_is_the_measured_interpreter_at_every_level(world: World, level: int) -> None:
    front, real = world.base / "usr/bin/tool", world.base / "usr/libexec/crannog/tool"
    script = world.base / "script"
    script.write_text(f"#!{front} from-script\n")
    script.chmod(0o755)
    done = world.run(
        "/bin/sh",
        "-c",
        f"{front} direct; {script}; exec {front} in-place",
        allow_dlopen=level,
        measured=_natives("/bin/sh", real),
    )
    assert done.out == f"direct\nfrom-script {script}\nin-place\n", done.err


def test_an_interpreter_that_was_not_measured_is_not_taken_for_its_front(world: World) -> None:
    front = world.base / "usr/bin/tool"
    done = world.run("/bin/sh", "-c", f"{front} direct", measured=_natives("/bin/sh"))
    assert done.out == "front ran\n"
    done = world.run(
        "/bin/sh", "-c", f"{front} direct", allow_dlopen=0, measured=_natives("/bin/sh")
    )
    assert done.out == ""
    assert "not among the measured files" in done.err


def _natives(*programs: Path | str) -> list[str]:
    from tests.shield.test_dlopen import native

    return native(*programs)
