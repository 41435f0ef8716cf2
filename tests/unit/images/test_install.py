"""Which base images the curated image's installer takes, and what it makes of one."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest
from images.python import install, library
from images.python.install import find_interpreter
from images.python.library import MTIME_NS, Interpreter, Output

from crannog.errors import Misconfigured, Unsupported
from crannog.measure.root import Root
from crannog.shield.fspf import Fspf, open_plain
from crannog.shield.layers import layer
from crannog.shield.model import DirectoryEntry, FileEntry, LinkEntry
from tests.unit.measure.elves import Tree, cache, elf

TREE = "/usr/lib/python3.11"
REAL = "/usr/libexec/crannog/python3.11"
GLIBC = "/lib64/ld-linux-x86-64.so.2"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """A base image with a Python of our making, which compiles as the tests' own does."""
    made = Tree(tmp_path / "root")
    made.put(GLIBC, elf(interpreter=None, content=b"\0/lib/\0/usr/lib/\0"))
    made.put("/etc/ld.so.cache", cache())
    made.put("/usr/bin/python3.11", elf(interpreter=GLIBC))
    made.link("/usr/bin/python3", "python3.11")
    made.put(f"{TREE}/os.py", "name = 'posix'\n")
    made.put(f"{TREE}/encodings/utf_8.py", "x = {'b', 'a', 'c'}\n")
    made.put(f"{TREE}/lib-dynload/_x.so", elf(interpreter=None))
    pretend(monkeypatch, "cpython cpython-311 3 11")
    return made


def pretend(monkeypatch: pytest.MonkeyPatch, about: str) -> None:
    """The image's interpreter says this of itself; bytecode is the source backwards."""

    def run(directory: str, program: str, arguments: list[str], text: str) -> str:
        if "-I" in arguments:
            return about
        import json

        for source, target, _ in json.loads(text):
            content = Path(source).read_bytes()
            if b"does not compile" not in content:
                Path(target).parent.mkdir(parents=True, exist_ok=True)
                Path(target).write_bytes(content[::-1])
        return ""

    for module in (install, library):
        monkeypatch.setattr(module, "run_python", run)


def make(tree: Tree, out: Path) -> Fspf:
    """The base fspf that the installer writes; its tree lies at `out`."""
    with Root(str(tree.path)) as root:
        written = Output(str(tree.path), str(out), MTIME_NS // 10**9)
        install.install(root, str(tree.path), b"front", written)
    written.settle()
    return open_plain((out / "usr/libexec/crannog/base.fspf").read_bytes())


def find(tree: Tree) -> Interpreter:
    with Root(str(tree.path)) as root:
        return find_interpreter(root, str(tree.path))


def test_interpreter_moves_and_its_names_lead_to_the_front(tree: Tree, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(tree, out)
    original = (tree.path / "usr/bin/python3.11").read_bytes()
    assert (out / REAL[1:]).read_bytes() == original
    assert (out / "usr/bin/python3.11").read_bytes() == b"front"
    assert (out / "usr/bin/python").readlink() == Path("python3.11")
    assert not (out / "usr/bin/python3").is_symlink()  # the base image's own stays
    assert stat.S_IMODE((out / "usr/bin/python3.11").stat().st_mode) == 0o755
    for name in ("scone", "crannog"):
        assert (out / "usr/local/bin" / name).readlink() == Path("/opt/crannog/bin/crannog")


def test_another_copy_of_the_interpreter_becomes_a_link(tree: Tree, tmp_path: Path) -> None:
    shutil.copy(tree.path / "usr/bin/python3.11", tree.path / "usr/bin/python")
    make(tree, tmp_path / "out")
    assert (tmp_path / "out/usr/bin/python").readlink() == Path("python3.11")


def test_another_program_called_python_is_left_and_said(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree.put("/usr/bin/python", elf(interpreter=GLIBC, content=b"python 2"))
    make(tree, tmp_path / "out")
    assert not (tmp_path / "out/usr/bin/python").exists()
    assert "/usr/bin/python is another program" in capsys.readouterr().err


def test_base_fspf_holds_the_library_and_its_new_bytecode(tree: Tree, tmp_path: Path) -> None:
    tree.put(f"{TREE}/__pycache__/os.cpython-311.pyc", "stale")
    tree.put(f"{TREE}/__pycache__/gone.cpython-311.pyc", "stale")
    tree.put(f"{TREE}/lib2to3/tests/bad.py", "does not compile")
    found = make(tree, tmp_path / "out")
    assert [region.path for region in found.regions] == [TREE.encode()]
    bytecode = found.lookup(f"{TREE}/__pycache__/os.cpython-311.pyc".encode())
    assert isinstance(bytecode, FileEntry)
    assert bytecode.size == (tmp_path / f"out{TREE}/__pycache__/os.cpython-311.pyc").stat().st_size
    assert found.lookup(f"{TREE}/__pycache__/gone.cpython-311.pyc".encode()) is None
    assert found.lookup(f"{TREE}/lib2to3/tests/__pycache__".encode()) is None
    source = found.lookup(f"{TREE}/os.py".encode())
    assert isinstance(source, FileEntry)
    assert (source.uid, source.gid, source.mtime_ns) == (0, 0, MTIME_NS)


def test_site_packages_are_left_open(tree: Tree, tmp_path: Path) -> None:
    tree.put(f"{TREE}/site-packages/pip/__init__.py", "")
    found = make(tree, tmp_path / "out")
    path = f"{TREE}/site-packages".encode()
    assert isinstance(found.lookup(path), DirectoryEntry)
    assert found.names(path) == ()
    assert not layer(found, None).is_guarded(path + b"/pip")


def test_what_a_pth_file_imports_has_bytecode_that_no_start_writes(
    tree: Tree, tmp_path: Path
) -> None:
    tree.put(f"{TREE}/site-packages/shim.pth", "import os; __import__('_hack')")
    tree.put(f"{TREE}/site-packages/_hack/__init__.py", "x = 1\n")
    tree.put(f"{TREE}/site-packages/other.py", "x = 1\n")
    base = make(tree, tmp_path / "out")
    site = tmp_path / f"out{TREE}/site-packages"
    assert [str(each.relative_to(site)) for each in site.rglob("*.pyc")] == [
        "_hack/__pycache__/__init__.cpython-311.pyc"
    ]
    assert base.names(f"{TREE}/site-packages".encode()) == ()


def test_links_inside_the_library_stay(tree: Tree, tmp_path: Path) -> None:
    tree.link(f"{TREE}/posix.py", "os.py")
    found = make(tree, tmp_path / "out")
    entry = found.lookup(f"{TREE}/posix.py".encode())
    assert isinstance(entry, LinkEntry)
    assert entry.target == b"os.py"


def test_link_to_a_file_outside_becomes_that_file(tree: Tree, tmp_path: Path) -> None:
    tree.put("/etc/outside.py", "outside")
    tree.link(f"{TREE}/inside.py", "/etc/outside.py")
    found = make(tree, tmp_path / "out")
    assert isinstance(found.lookup(f"{TREE}/inside.py".encode()), FileEntry)
    assert (tmp_path / f"out{TREE}/inside.py").read_text() == "outside"


def test_sitecustomize_may_be_a_link_outside_and_is_not_compiled(
    tree: Tree, tmp_path: Path
) -> None:
    # It is measured as what it is, so that its source has to be what counts.
    tree.put("/etc/python3.11/sitecustomize.py", "x = 1\n")
    tree.link(f"{TREE}/sitecustomize.py", "/etc/python3.11/sitecustomize.py")
    found = make(tree, tmp_path / "out")
    assert isinstance(found.lookup(f"{TREE}/sitecustomize.py".encode()), LinkEntry)
    names = [name for name, _ in found.names(f"{TREE}/__pycache__".encode())]
    assert not [name for name in names if name.startswith(b"sitecustomize")]


def test_link_that_leaves_the_library_on_its_way_becomes_a_file(tree: Tree, tmp_path: Path) -> None:
    tree.link("/etc/turned.py", f"{TREE}/os.py")
    tree.link(f"{TREE}/turning.py", "/etc/turned.py")
    found = make(tree, tmp_path / "out")
    assert isinstance(found.lookup(f"{TREE}/turning.py".encode()), FileEntry)


def test_link_that_leads_nowhere_is_not_in_the_library(tree: Tree, tmp_path: Path) -> None:
    tree.link(f"{TREE}/later.py", "/etc/later.py")
    found = make(tree, tmp_path / "out")
    assert found.lookup(f"{TREE}/later.py".encode()) is None


def test_link_to_a_directory_outside_is_refused(tree: Tree, tmp_path: Path) -> None:
    tree.put("/opt/package/__init__.py", "")
    tree.link(f"{TREE}/package", "/opt/package")
    with pytest.raises(Unsupported, match="a directory outside"):
        make(tree, tmp_path / "out")


def test_the_same_image_gives_the_same_tree(tree: Tree, tmp_path: Path) -> None:
    first, second = tmp_path / "one", tmp_path / "two"
    make(tree, first)
    for path in tree.path.rglob("*.py"):
        os.utime(path)
    make(tree, second)
    for path in first.rglob("*"):
        other = second / path.relative_to(first)
        status = path.lstat()
        assert (status.st_mode, status.st_mtime) == (other.lstat().st_mode, other.lstat().st_mtime)
        if path.is_file() and not path.is_symlink():
            assert path.read_bytes() == other.read_bytes()


def test_python3_anywhere_comes_before_python(tree: Tree) -> None:
    tree.put("/usr/local/bin/python", elf(interpreter=GLIBC, content=b"python 2"))
    assert find(tree).path == "/usr/bin/python3.11"


@pytest.mark.parametrize("removed", ["usr/bin", "usr/bin/python3.11"])
def test_image_without_python_is_refused(tree: Tree, removed: str) -> None:
    place = tree.path / removed
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    with pytest.raises(Misconfigured, match="no Python"):
        find(tree)


@pytest.mark.parametrize("version", ["3 10", "3 6", "2 7"])
def test_older_python_is_refused(tree: Tree, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    pretend(monkeypatch, f"cpython cpython-310 {version}")
    with pytest.raises(Unsupported, match=r"expected 3\.11 or newer"):
        find(tree)


def test_another_implementation_is_refused(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "pypy pypy311-pp73 3 11")
    with pytest.raises(Unsupported, match="pypy, expected CPython"):
        find(tree)


def test_musl_is_refused(tree: Tree) -> None:
    tree.put("/usr/bin/python3.11", elf(interpreter="/lib/ld-musl-x86_64.so.1"))
    with pytest.raises(Unsupported, match="musl"):
        find(tree)


def test_static_python_is_refused(tree: Tree) -> None:
    tree.put("/usr/bin/python3.11", elf(interpreter=None))
    with pytest.raises(Unsupported, match="not dynamically linked"):
        find(tree)


def test_script_is_refused(tree: Tree) -> None:
    tree.put("/usr/bin/python3.11", "#!/bin/sh\n")
    with pytest.raises(Unsupported, match="not an ELF program"):
        find(tree)


def test_curated_image_is_refused(tree: Tree) -> None:
    tree.put(REAL, elf(interpreter=GLIBC))
    with pytest.raises(Misconfigured, match="is a curated image"):
        find(tree)


def test_image_with_a_command_of_ours_is_refused(tree: Tree, tmp_path: Path) -> None:
    tree.put("/usr/local/bin/scone", "x")
    with pytest.raises(Misconfigured, match="is there already"):
        make(tree, tmp_path / "out")
