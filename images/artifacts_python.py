"""The Python of another root: where it is, and which parts of its library go where.

Decides what of the standard library the launcher gets, what only the services get, and what
neither does.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from crannog.errors import Misconfigured, Unsupported
from crannog.measure.root import Root

_CANDIDATES = ("/usr/local/bin/python3", "/usr/bin/python3")
_OLDEST = (3, 11)

NEVER = frozenset(
    {
        *("__phello__", "_aix_support", "_osx_support", "antigravity", "ensurepip", "idlelib"),
        *("lib2to3", "pydoc_data", "sitecustomize", "test", "this", "tkinter", "turtle"),
        *("turtledemo", "venv", "distutils", "unittest", "pydoc", "doctest", "pdb", "site"),
        *("__pycache__", "site-packages", "dist-packages", "lib-dynload", "EXTERNALLY-MANAGED"),
    }
)
"""Top-level names of the library that nobody gets."""

_NOT_FOLLOWED = NEVER | {
    # Imported by what the launcher imports, in functions that it does not call.
    *("asyncio", "multiprocessing", "sqlite3", "smtplib", "ftplib", "ssl", "xml", "xmlrpc"),
}
_FROM_C = frozenset(
    # What the interpreter imports by itself, not by a statement in a file.
    {"_strptime", "abc", "codecs", "copyreg", "encodings", "io", "linecache", "os", "traceback"}
    | {"unicodedata", "warnings", "zipimport", "_pydatetime"}
)
_CODECS = frozenset(
    {"__init__", "aliases", "ascii", "charmap", "cp437", "idna", "latin_1", "punycode"}
    | {"raw_unicode_escape", "unicode_escape", "undefined", "utf_16", "utf_16_be", "utf_16_le"}
    | {"utf_32", "utf_32_be", "utf_32_le", "utf_8", "utf_8_sig", "base64_codec", "hex_codec"}
)
_MODULES_NEVER = re.compile(
    r"_ctypes_test|_test.*|_xx.*|xx.*|_tkinter|_curses.*|readline|nis|ossaudiodev|_dbm|_gdbm"
    r"|_codecs_.*|_multibytecodec|audioop|_lsprof|_crypt|spwd"
)
_TESTS = ("/test/", "/tests/", "/__pycache__/")


class Python(NamedTuple):
    """An interpreter found in a root.

    Attributes:
        executable: its canonical path.
        version: such as `3.11`.
        library: the directory of its standard library.
    """

    executable: str
    version: str
    library: str

    @property
    def tag(self) -> str:
        """As in `cpython-311`."""
        return "cpython-" + self.version.replace(".", "")


class Source(NamedTuple):
    """A file of the library.

    Attributes:
        path: in the root.
        relative: below the library.
        top: the name by which `import` begins to look for it.
    """

    path: str
    relative: str
    top: str


def find_python(root: Root) -> Python:
    """The root's Python 3.

    Raises:
        Misconfigured: there is none.
        Unsupported: it is too old, or is the launcher of a curated image.
    """
    for candidate in _CANDIDATES:
        executable = root.canonical(candidate)
        if executable is None or not root.is_regular(executable):
            continue
        directory, name = os.path.split(executable)
        found = re.fullmatch(r"python(3\.[0-9]+)", name)
        if found is None:
            raise Unsupported(f"{candidate} leads to {executable}, expected a name like python3.11")
        prefix = os.path.dirname(directory)
        if root.is_regular(f"{prefix}/libexec/crannog/{name}"):
            raise Unsupported(
                f"{executable} is a launcher already",
                hint="take the image that the curated image was built on",
            )
        version = found[1]
        if tuple(map(int, version.split("."))) < _OLDEST:
            raise Unsupported(f"{executable}: expected Python 3.11 or newer")
        library = f"{prefix}/lib/python{version}"
        if not root.is_regular(f"{library}/os.py"):
            raise Misconfigured(
                f"{library}/os.py is not there", hint="install Python's library in the root"
            )
        return Python(executable, version, library)
    raise Misconfigured(
        f"no Python 3 in the root, looked for {' and '.join(_CANDIDATES)}",
        hint="--root names a directory with Debian's or the official image's Python",
    )


def library_sources(root: Root, python: Python) -> Iterator[Source]:
    """The library's Python files that anybody gets, in the order of their paths."""
    for relative in _below(root, python.library, ""):
        top = relative.partition("/")[0].removesuffix(".py")
        if top in NEVER or not relative.endswith(".py"):
            continue
        if any(part in f"/{relative}" for part in _TESTS):
            continue
        if top == "encodings" and relative.rpartition("/")[2].removesuffix(".py") not in _CODECS:
            continue
        yield Source(f"{python.library}/{relative}", relative, top)


def extension_modules(root: Root, python: Python) -> Iterator[Source]:
    """The library's extension modules that anybody gets, in the order of their names."""
    directory = f"{python.library}/lib-dynload"
    for name in root.names(directory):
        module = name.partition(".")[0]
        if name.endswith(".so") and not _MODULES_NEVER.fullmatch(module):
            yield Source(f"{directory}/{name}", f"lib-dynload/{name}", module)


def reachable(
    start: Iterable[str], library: Iterable[Source], read: Callable[[str], bytes]
) -> frozenset[str]:
    """The library's top-level names that `start`, and what these import, may import.

    Every `import` statement counts, wherever it stands, so that no rare way misses a module.

    Args:
        start: names that are imported from outside the library.
        library: its files.
        read: gives a file of the root.

    Raises:
        Unsupported: a file is not Python as this interpreter knows it.
    """
    files: dict[str, list[str]] = {}
    for source in library:
        files.setdefault(source.top, []).append(source.path)
    found: set[str] = set()
    queue = [*_FROM_C, *start]
    while queue:
        name = queue.pop()
        if name in found or name in _NOT_FOLLOWED:
            continue
        found.add(name)
        for path in files.get(name, ()):
            if path.endswith(".py"):
                queue += imported_names(read(path), path)
    return frozenset(found)


def imported_names(source: bytes, what: str) -> set[str]:
    """The top-level names that a Python file imports, its own package's relative ones left out.

    Raises:
        Unsupported: it is not Python as this interpreter knows it.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise Unsupported(
            f"{what} cannot be read: {error.msg}",
            hint="use a Python at least as new as the root's: make PYTHON=…",
        ) from error
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(each.name.partition(".")[0] for each in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module.partition(".")[0])
    return names


def _below(root: Root, directory: str, prefix: str) -> Iterator[str]:
    for name in root.names(directory):
        path, relative = f"{directory}/{name}", prefix + name
        if root.is_directory(path):
            if not prefix and name in NEVER:
                continue
            yield from _below(root, path, f"{relative}/")
        else:
            yield relative
