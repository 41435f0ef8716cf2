"""Which executable is a CPython, and where its places are.

Decides where its library and site directories are, what names these places, and by which files
another library would be found. What is loaded from them before a script is `python_start`'s. The
library's other modules are the base fspf's job, an application's own code is its fspf's.

Source: CPython's `Modules/getpath.py` and `Lib/site.py`, 3.8 to 3.14, and Debian's `site.py`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from crannog.measure.defaults import DEFAULT_HOME
from crannog.measure.root import Root

_LIBRARY = r"libpython(\d+\.\d+)t?d?\.so"
_TEXT_LIMIT = 1 << 16
_LANDMARKS = ("os.py", "os.pyc")


class Python(NamedTuple):
    """One interpreter's places.

    Attributes:
        executable: the path it is started by, links not followed.
        trees: its standard library's directories, by prefix and exec prefix.
        sites: directories whose `.pth` files are run, in the virtual environment first.
        configurations: where `pyvenv.cfg`, `._pth` files, and what would make another directory its
            library, are looked for.
    """

    executable: str
    trees: tuple[str, ...]
    sites: tuple[str, ...]
    configurations: tuple[str, ...]


def find_python(
    root: Root,
    path: str,
    canonical: str,
    needed: tuple[str, ...],
    home: str = DEFAULT_HOME,
    libraries: tuple[str, ...] = (),
) -> Python | None:
    """The interpreter at `path`, or None where the executable is no Python.

    Args:
        root: where to look.
        path: absolute, as the program is started.
        canonical: the same without links.
        needed: names of the libraries it needs.
        home: the program's HOME, for the user's site directory.
        libraries: the directories of its own shared library, from where Python 3.14 searches too.
    """
    called = any(_is_program(os.path.basename(name)) for name in (canonical, path))
    if not called and not any(re.match(_LIBRARY, name) for name in needed):
        return None
    here = os.path.dirname(path)
    configurations = [f"{here}/pyvenv.cfg", f"{os.path.dirname(here).rstrip('/')}/pyvenv.cfg"]
    configurations += [f"{name}._pth" for name in dict.fromkeys((path, canonical))]
    starts = [os.path.dirname(canonical)]
    environment = ""
    for configuration in configurations[:2]:
        text = root.read(configuration, limit=_TEXT_LIMIT)
        if text is not None:
            environment = os.path.dirname(configuration)
            base = _home_of(text)
            if base:
                starts = [base]
            break
    # As getpath: from the real file, or from where the virtual environment says its base is.
    trees = _library_trees(root, starts) or _library_trees(root, [here])
    configurations += _elsewhere([*starts, here, *libraries], trees)
    sites = list(_site_directories(root, trees, environment, home))
    return Python(path, tuple(trees), tuple(sites), tuple(configurations))


def extension_modules(root: Root, python: Python) -> Iterator[str]:
    """The shared objects of its own library, which `import` loads without asking anyone."""
    for tree in python.trees:
        for name in root.names(f"{tree}/lib-dynload"):
            if name.endswith(".so"):
                yield f"{tree}/lib-dynload/{name}"


def _elsewhere(starts: list[str], trees: list[str]) -> Iterator[str]:
    """What, if it were there, would make getpath take another library than `trees`.

    A build tree's marks where the search begins; in each directory upwards the zipped library, and
    below the first library that was found the files by which it knows one.
    """
    names = dict.fromkeys(os.path.basename(tree) for tree in trees)
    for start in dict.fromkeys(starts):
        yield f"{start}/pybuilddir.txt"
        yield f"{start}/Modules/Setup.local"
        found = False
        directory = start
        while directory:
            libraries = [f"{directory.rstrip('/')}/{lib}" for lib in ("lib", "lib64")]
            found = found or any(f"{lib}/{name}" in trees for lib in libraries for name in names)
            for library in libraries:
                for name in names:
                    yield from zips(library, name)
                    if not found:
                        yield from (f"{library}/{name}/{mark}" for mark in _LANDMARKS)
            if directory == "/":
                break
            directory = os.path.dirname(directory)


def zips(library: str, name: str) -> Iterator[str]:
    """The zipped library of the Python whose directory is called `name`: with and without its t."""
    plain = name.replace(".", "")
    yield from dict.fromkeys(f"{library}/{each}.zip" for each in (plain.rstrip("t"), plain))


def _home_of(text: bytes) -> str:
    for line in text.decode("utf-8", "surrogateescape").splitlines():
        key, equals, value = line.partition("=")
        if equals and key.strip().lower() == "home":
            return value.strip()
    return ""


def _is_program(name: str) -> bool:
    """python, python3, python3.11, python3.13td; without a pattern, which would be compiled."""
    if not name.startswith("python"):
        return False
    version = name.removeprefix("python")
    if not version:
        return True
    major, dot, minor = version.removesuffix("d").removesuffix("t").partition(".")
    return major.isdecimal() and (not dot or minor.isdecimal())


def _is_tree(name: str) -> bool:
    """python3.11, python3.13t."""
    version = name.removeprefix("python")
    major, _, minor = version.removesuffix("t").partition(".")
    return version != name and major.isdecimal() and minor.isdecimal()


def _library_trees(root: Root, starts: list[str]) -> list[str]:
    """Upwards from each start, the first directory with a `lib/pythonX.Y` that getpath would take.

    Every version found there counts: which one the interpreter takes is compiled into it.
    """
    found: list[str] = []
    for start in dict.fromkeys(starts):
        directory = start
        while directory:
            here = [
                f"{directory.rstrip('/')}/{lib}/{name}"
                for lib in ("lib", "lib64")
                for name in root.names(f"{directory.rstrip('/')}/{lib}")
                if _is_tree(name)
            ]
            here = [
                tree
                for tree in here
                if any(root.is_regular(f"{tree}/{mark}") for mark in _LANDMARKS)
                or root.is_directory(f"{tree}/lib-dynload")
            ]
            if here:
                found += here
                break
            if directory == "/":
                break
            directory = os.path.dirname(directory)
    return list(dict.fromkeys(found))


def _site_directories(root: Root, trees: list[str], environment: str, home: str) -> Iterator[str]:
    """Where `site` looks, for each tree's version; only directories that are there."""
    names = dict.fromkeys(os.path.basename(tree) for tree in trees)
    found: list[str] = []
    if environment:
        names.update(
            dict.fromkeys(name for name in root.names(f"{environment}/lib") if _is_tree(name))
        )
        for name in names:
            found += [f"{environment}/{lib}/{name}/site-packages" for lib in ("lib", "lib64")]
    for tree in trees:
        prefix, name = os.path.dirname(os.path.dirname(tree)).rstrip("/"), os.path.basename(tree)
        found += [f"{tree}/site-packages", f"{tree}/dist-packages"]
        found += [f"{prefix}/lib/python3/dist-packages"]
        found += [
            f"{prefix}/local/lib/{name}/{kind}" for kind in ("dist-packages", "site-packages")
        ]
    for name in names:
        found.append(f"{home.rstrip('/')}/.local/lib/{name}/site-packages")
    seen: set[str] = set()
    for path in found:
        canonical = root.canonical(path)  # lib64 is often a link to lib
        if canonical is not None and canonical not in seen and root.is_directory(path):
            seen.add(canonical)
            yield path
