"""An interpreter behind a front is one program, by whatever name it is started."""

from __future__ import annotations

import pytest

from crannog.measure.front import base_fspf, place_behind
from crannog.measure.mrenclave import ProgramSettings, Role
from crannog.measure.program import Measurement, measure_program, native_files
from crannog.measure.root import Root
from tests.unit.measure.elves import Tree, cache, elf

REAL = "/usr/libexec/crannog/python3.11"


def measure(tree: Tree, path: str) -> Measurement:
    with Root(str(tree.path)) as root:
        return measure_program(root, path, ProgramSettings())


@pytest.fixture
def image(tree: Tree) -> Tree:
    """A usr-merged system whose Python lies behind a front."""
    tree.put("/usr/lib/libc.so.6", elf(interpreter=None, soname="libc.so.6"))
    tree.link("/lib", "usr/lib")
    tree.link("/bin", "usr/bin")
    tree.put("/etc/ld.so.cache", cache())
    tree.put("/usr/bin/python3.11", elf(interpreter=None, content=b"front"))
    tree.link("/usr/bin/python3", "python3.11")
    tree.link("/usr/bin/python", "python3")
    tree.put(REAL, elf(needed=["libc.so.6"]))
    tree.put("/usr/lib/python3.11/os.py", "")
    tree.put("/usr/local/bin/gunicorn", "#!/usr/bin/python3\n")
    tree.put("/usr/local/bin/by-env", "#!/usr/bin/env -S python3 -I\n")
    tree.put("/venv/pyvenv.cfg", "home = /usr/bin\n")
    tree.link("/venv/bin/python3", "/usr/bin/python3")
    return tree


@pytest.mark.parametrize(
    "path",
    ["/usr/bin/python3.11", "/usr/bin/python3", "/usr/bin/python", "/bin/python3", REAL],
)
def test_every_name_is_the_interpreter_and_one_measurement(image: Tree, path: str) -> None:
    found = measure(image, path)
    assert (found.executable, found.program, found.prefix) == (REAL, REAL, ())
    assert found.python
    assert found.mrenclave == measure(image, "/usr/bin/python3").mrenclave


def test_the_front_is_neither_measured_nor_loaded(image: Tree) -> None:
    before = measure(image, "/usr/bin/python3")
    assert all("bin/python" not in entry.path for entry in before.entries)
    image.put("/usr/bin/python3.11", elf(interpreter=None, content=b"another release"))
    assert measure(image, "/usr/bin/python3").mrenclave == before.mrenclave


def test_a_changed_interpreter_is_another_measurement(image: Tree) -> None:
    before = measure(image, "/usr/bin/python3")
    image.put(REAL, elf(needed=["libc.so.6"], content=b"changed"))
    assert measure(image, "/usr/bin/python3").mrenclave != before.mrenclave


def test_virtual_environment_keeps_its_name_and_its_configuration_is_measured(image: Tree) -> None:
    found = measure(image, "/venv/bin/python3")
    assert (found.executable, found.program) == (REAL, "/venv/bin/python3")
    entries = {entry.path: entry.digest for entry in found.entries}
    assert entries["/venv/pyvenv.cfg"]
    assert (Role.EXECUTABLE, REAL) in {(entry.role, entry.path) for entry in found.entries}
    image.put("/venv/pyvenv.cfg", "home = /evil\n")
    assert measure(image, "/venv/bin/python3").mrenclave != found.mrenclave


@pytest.mark.parametrize("path", ["/usr/pyvenv.cfg", "/usr/bin/pyvenv.cfg"])
def test_a_configuration_beside_the_front_counts(image: Tree, path: str) -> None:
    before = measure(image, "/usr/bin/python3")
    image.put(path, "home = /evil\n")
    found = measure(image, "/usr/bin/python3")
    # It would be heeded, so the name stays, and it is measured.
    assert found.mrenclave != before.mrenclave
    assert path in {entry.path for entry in found.entries if entry.digest}


@pytest.mark.parametrize("directory", ["/usr/libexec/crannog", "/usr/libexec"])
def test_a_configuration_beside_the_interpreter_counts(image: Tree, directory: str) -> None:
    before = measure(image, "/usr/bin/python3").mrenclave
    image.put(f"{directory}/pyvenv.cfg", "home = /evil\n")
    assert measure(image, "/usr/bin/python3").mrenclave != before


def test_a_build_tree_marker_counts(image: Tree) -> None:
    before = measure(image, "/usr/bin/python3").mrenclave
    image.put("/usr/libexec/crannog/pybuilddir.txt", "../../../evil\n")
    assert measure(image, "/usr/bin/python3").mrenclave != before


def test_a_build_tree_marker_beside_a_virtual_environments_home_counts(image: Tree) -> None:
    before = measure(image, "/venv/bin/python3").mrenclave
    image.put("/usr/bin/pybuilddir.txt", "../../evil\n")
    assert measure(image, "/venv/bin/python3").mrenclave != before


def test_a_script_runs_in_the_interpreter(image: Tree) -> None:
    found = measure(image, "/usr/local/bin/gunicorn")
    assert found.executable == REAL
    assert found.program == "/usr/local/bin/gunicorn"
    assert found.prefix == (REAL, "/usr/local/bin/gunicorn")


def test_a_script_that_uses_env_runs_in_the_interpreter(image: Tree) -> None:
    found = measure(image, "/usr/local/bin/by-env")
    assert (found.executable, found.prefix) == (REAL, (REAL, "-I", "/usr/local/bin/by-env"))


def test_a_script_of_a_virtual_environment_keeps_it(image: Tree) -> None:
    image.put("/venv/bin/tool", "#!/venv/bin/python3\n")
    found = measure(image, "/venv/bin/tool")
    assert (found.executable, found.prefix) == (REAL, ("/venv/bin/python3", "/venv/bin/tool"))


def test_native_files_agree_with_the_measurement(image: Tree) -> None:
    for path in ("/usr/bin/python3", "/venv/bin/python3", "/usr/local/bin/gunicorn"):
        with Root(str(image.path)) as root:
            natives = native_files(root, path)
        found = measure(image, path)
        assert (natives.executable, natives.prefix) == (found.executable, found.prefix)
        assert natives.native == found.native


def test_what_lies_behind_through_a_link_is_no_interpreter(image: Tree) -> None:
    image.put("/evil/python3.11", elf(needed=["libc.so.6"], content=b"evil"))
    (image.path / REAL[1:]).unlink()
    image.link(REAL, "/evil/python3.11")
    assert measure(image, "/usr/bin/python3").executable == "/usr/bin/python3"


def test_base_fspf_is_measured_and_kept(image: Tree) -> None:
    without = measure(image, "/usr/bin/python3")
    assert without.base is None
    image.put("/usr/libexec/crannog/base.fspf", "one")
    one = measure(image, "/usr/bin/python3")
    image.put("/usr/libexec/crannog/base.fspf", "two")
    two = measure(image, "/usr/bin/python3")
    assert (one.base, two.base) == (b"one", b"two")
    assert len({without.mrenclave, one.mrenclave, two.mrenclave}) == 3


def test_only_an_interpreter_behind_a_front_has_a_base_fspf(image: Tree) -> None:
    assert base_fspf("/usr/bin/python3.11") is None
    assert base_fspf(REAL) == "/usr/libexec/crannog/base.fspf"
    assert place_behind("/bin/python3") == "/libexec/crannog/python3"
