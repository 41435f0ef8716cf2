from __future__ import annotations

from pathlib import Path

import pytest
from images.artifacts_python import (
    Source,
    extension_modules,
    find_python,
    imported_names,
    library_sources,
    reachable,
)

from crannog.errors import Misconfigured, Unsupported
from crannog.measure.root import Root


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A root with the files of a Python 3.12, as Debian lays them."""
    library = tmp_path / "usr/lib/python3.12"
    for name in (
        *("os.py", "json/__init__.py", "json/tests/test_a.py", "test/__init__.py", "turtle.py"),
        *("encodings/utf_8.py", "encodings/cp1252.py", "site-packages/evil.py", "README"),
        *("lib-dynload/_json.cpython-312-x86_64-linux-gnu.so", "lib-dynload/_testcapi.abi3.so"),
        "__pycache__/os.cpython-312.pyc",
    ):
        path = library / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "usr/bin/python3.12").touch()
    (tmp_path / "usr/bin/python3").symlink_to("/usr/bin/python3.12")
    return tmp_path


def test_python_is_found_through_links_inside_the_root(tree: Path) -> None:
    with Root(str(tree)) as root:
        found = find_python(root)
    assert found == ("/usr/bin/python3.12", "3.12", "/usr/lib/python3.12")
    assert found.tag == "cpython-312"


def test_the_official_images_python_comes_first(tree: Path) -> None:
    (tree / "usr/local/bin").mkdir(parents=True)
    (tree / "usr/local/lib/python3.13").mkdir(parents=True)
    (tree / "usr/local/lib/python3.13/os.py").touch()
    (tree / "usr/local/bin/python3.13").touch()
    (tree / "usr/local/bin/python3").symlink_to("python3.13")
    with Root(str(tree)) as root:
        assert find_python(root).library == "/usr/local/lib/python3.13"


def test_a_root_without_python_is_refused(tmp_path: Path) -> None:
    with Root(str(tmp_path)) as root, pytest.raises(Misconfigured, match="no Python 3"):
        find_python(root)


def test_a_curated_image_is_refused(tree: Path) -> None:
    (tree / "usr/libexec/crannog").mkdir(parents=True)
    (tree / "usr/libexec/crannog/python3.12").touch()
    with Root(str(tree)) as root, pytest.raises(Unsupported, match="a launcher already"):
        find_python(root)


def test_a_python_without_its_library_is_refused(tree: Path) -> None:
    (tree / "usr/lib/python3.12/os.py").unlink()
    with Root(str(tree)) as root, pytest.raises(Misconfigured, match=r"os\.py is not there"):
        find_python(root)


@pytest.mark.parametrize("name", ["python3.9", "python3.10"])
def test_an_old_python_is_refused(tree: Path, name: str) -> None:
    (tree / "usr/bin/python3").unlink()
    (tree / "usr/bin" / name).touch()
    (tree / "usr/bin/python3").symlink_to(name)
    with Root(str(tree)) as root, pytest.raises(Unsupported, match=r"3\.11 or newer"):
        find_python(root)


def test_a_python_of_another_name_is_refused(tree: Path) -> None:
    (tree / "usr/bin/python3").unlink()
    (tree / "usr/bin/pypy3").touch()
    (tree / "usr/bin/python3").symlink_to("pypy3")
    with Root(str(tree)) as root, pytest.raises(Unsupported, match="expected a name like"):
        find_python(root)


def test_what_of_the_library_anybody_gets(tree: Path) -> None:
    with Root(str(tree)) as root:
        python = find_python(root)
        sources = {each.relative for each in library_sources(root, python)}
        modules = {(each.relative, each.top) for each in extension_modules(root, python)}
    assert sources == {"os.py", "json/__init__.py", "encodings/utf_8.py"}
    assert modules == {("lib-dynload/_json.cpython-312-x86_64-linux-gnu.so", "_json")}


def test_imports_count_wherever_they_stand() -> None:
    text = b"import a.b, c\nfrom d.e import f\nfrom . import g\ndef h():\n    import i\n"
    assert imported_names(text, "file") == {"a", "c", "d", "i"}


def test_a_file_of_a_newer_python_is_refused() -> None:
    with pytest.raises(Unsupported, match=r"new\.py cannot be read"):
        imported_names(b"import x !\n", "new.py")


def test_reachable_follows_packages_and_stops_where_told() -> None:
    files = {
        "/l/a.py": b"import b",
        "/l/b/__init__.py": b"import asyncio, test",
        "/l/b/c.py": b"import d",
        "/l/d.py": b"import a",
        "/l/asyncio.py": b"import ssl",
        "/l/unused.py": b"import a",
    }
    library = [
        Source(path, path[3:], path[3:].partition("/")[0].removesuffix(".py")) for path in files
    ]
    found = reachable(["a"], library, files.__getitem__)
    assert {"a", "b", "d"} <= found
    assert not {"asyncio", "ssl", "test", "unused"} & found
