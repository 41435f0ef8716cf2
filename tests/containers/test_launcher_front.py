"""The front and the services directory, as images have them, in a root of their own."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.containers.test_launcher_directory import (
    ENV,
    QUIET,
    SHOW,
    Inside,
    compile_program,
    made,
    pytestmark,
    shown,
)

__all__ = ["made", "pytestmark"]

FRONT = "/usr/bin/python3.11"
REAL = "/usr/libexec/crannog/python3.11"


@pytest.fixture(scope="module")
def image(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Inside:
    """The launcher and services directories, and the front with a program that shows its start."""
    root = tmp_path_factory.mktemp("image")
    shutil.copytree(made / "launcher", root / "crannog", symlinks=True)
    shutil.copytree(made / "services", root / "opt" / "crannog", symlinks=True)
    for directory in ("proc", "dev", "usr/bin", "usr/libexec/crannog", "root", "elsewhere"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    (root / "dev" / "null").touch()
    shutil.copy(made / "front", root / FRONT[1:])
    (root / "usr/bin/python3").symlink_to("python3.11")
    (root / "elsewhere/python").symlink_to(FRONT)
    compile_program(SHOW, root / REAL[1:])
    compile_program(ENV, root / "env")
    return Inside(root)


@pytest.mark.parametrize("name", [FRONT, "/usr/bin/python3", "/elsewhere/python"])
@pytest.mark.parametrize(
    "given",
    [{}, {"SCONE_HASH": "0"}, {"SCONE_CONFIG_ID": ""}, {"SCONE_MODE": "sim"}, {"XSCONE_HASH": "1"}],
    ids=lambda each: "-".join(each) or "nothing",
)
def test_an_ordinary_start_is_the_interpreters_own(
    image: Inside, name: str, given: dict[str, str]
) -> None:
    done = image.run(name, "-c", "x", environment=given)
    assert (done.returncode, done.stderr) == (0, b"")
    expected = [f"{key}={value}".encode() for key, value in given.items()]
    assert done.stdout.startswith(name.encode() + b"\0-c\0x\0")
    assert shown(done.stdout)[1] == expected


@pytest.mark.parametrize("name", [FRONT, "/usr/bin/python3", "/elsewhere/python"])
def test_it_measures_what_lies_behind_it(image: Inside, name: str) -> None:
    done = image.run(name, "x", environment={"SCONE_HASH": "1"})
    direct = image.run("/crannog/run", "--", FRONT, environment={"SCONE_HASH": "1"})
    assert (done.returncode, done.stderr) == (0, b"")
    assert re.fullmatch(rb"[0-9a-f]{64}\n", done.stdout)
    assert done.stdout == direct.stdout


@pytest.mark.parametrize("variable", ["SCONE_CAS_ADDR", "SCONE_CONFIG_ID"])
def test_a_start_that_is_to_be_attested_is_the_launchers(image: Inside, variable: str) -> None:
    done = image.run(FRONT, environment={variable: "nonsense", **QUIET})
    assert done.returncode == 78
    assert done.stdout == b""


def test_as_process_1_the_launcher_stays_the_parent(image: Inside) -> None:
    # With the new process 1 as shell, which executes the front in its place.
    done = image.run(FRONT, "a", environment=QUIET, before=("--pid", "--fork"))
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(FRONT.encode() + b"\0a\0\0")


def test_without_the_interpreter_it_says_so(image: Inside) -> None:
    real = image.root / REAL[1:]
    real.rename(real.with_suffix(".away"))
    try:
        done = image.run(FRONT)
    finally:
        real.with_suffix(".away").rename(real)
    expected = f"crannog: error: cannot be executed: {REAL}: error 2\n"
    assert (done.returncode, done.stderr.decode()) == (127, expected)


def services(
    image: Inside, *command: str, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    return image.run(*command, environment={"HOME": "/root", **environment})


@pytest.mark.parametrize("name", ["crannog", "scone"])
def test_the_command_line_knows_its_name(image: Inside, name: str) -> None:
    done = services(image, f"/opt/crannog/bin/{name}", "version")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(f"{name} ".encode())


@pytest.mark.parametrize("noun", ["session", "cas", "las", "fspf", "self"])
def test_every_part_of_the_command_line_is_there(image: Inside, noun: str) -> None:
    done = services(image, "/opt/crannog/bin/crannog", noun, "--help")
    assert (done.returncode, done.stderr) == (0, b"")


def test_self_show_tells_the_launcher_directorys_digest(image: Inside, made: Path) -> None:
    done = services(image, "/opt/crannog/bin/crannog", "self", "show")
    assert done.returncode == 0, done.stderr
    digest = (made / "launcher" / "digest").read_text().strip()
    assert f"launcher digest:  {digest}\n" in done.stdout.decode()


def test_its_run_is_the_launcher_directorys(image: Inside) -> None:
    done = services(image, "/opt/crannog/bin/scone", "run", "--", REAL, "b", **QUIET)
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown(done.stdout) == ([REAL.encode(), b"b"], [b"HOME=/root", b"SCONE_LOG=ERROR"])


def test_run_behind_a_global_option_passes_the_environment_as_it_was(image: Inside) -> None:
    crannog = "/opt/crannog/bin/crannog"
    done = services(
        image, crannog, "--config", "/root/none", "run", "--", REAL, LC_CTYPE="C.UTF-8", **QUIET
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert shown(done.stdout)[1] == [b"HOME=/root", b"LC_CTYPE=C.UTF-8", b"SCONE_LOG=ERROR"]


def test_it_has_the_original_environment(image: Inside, tmp_path: Path) -> None:
    done = services(
        image, "/opt/crannog/bin/crannog", "self", "show", SCONE_CLI_CONFIG="/root/é.json", A="b=c"
    )
    assert done.returncode == 0, done.stderr
    assert (image.root / "root" / "é.json").exists()
