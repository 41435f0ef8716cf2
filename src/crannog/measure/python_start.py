"""What a CPython interpreter loads and runs besides its library and the script that it is given.

Decides which files in its library and site directories change every start: `sitecustomize`,
`usercustomize`, `.pth`, what these import by name, and what the library asks for and does not have.

Source: CPython's `Lib/site.py`, 3.8 to 3.14, and Debian's.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from crannog.measure.python import Python, zips
from crannog.measure.root import Root

_SOURCE_LIMIT = 1 << 20
_MAX_CUSTOM_FILES = 1000
_CUSTOM = ("sitecustomize", "usercustomize")
_IMPORTS = rb"(?m)(?:^|[;:])[ \t]*(?:import[ \t]+([^\n;#]+)|from[ \t]+([\w.]+)[ \t]+import)"
_IMPORTED = rb"(?:__import__|import_module|find_spec)\([ \t]*['\"]([\w.]+)"

# Modules of other systems and of other Pythons, and those in C that a build may lack: `import copy`
# asks for `org`, `mimetypes` for `_winapi`. The next directory on the path that has it gives it.
_NAMES = """
    _asyncio _bisect _blake2 _bz2 _codecs_cn _codecs_hk _codecs_iso2022 _codecs_jp _codecs_kr
    _codecs_tw _contextvars _crypt _csv _ctypes _curses _curses_panel _datetime _dbm _decimal
    _elementtree _gdbm _hashlib _heapq _hmac _interpchannels _interpqueues _interpreters _json
    _lsprof _lzma _md5 _msi _multibytecodec _multiprocessing _opcode _overlapped _pickle
    _posixshmem _posixsubprocess _queue _random _remote_debugging _scproxy _sha1 _sha2 _sha256
    _sha3 _sha512 _socket _sqlite3 _ssl _statistics _struct _suggestions _tkinter _types
    _typing _uuid _winapi _winreg _wmi _xxsubinterpreters _zoneinfo _zstd array audioop
    binascii cmath crypt fcntl grp java math mmap msilib msvcrt nis nt org ossaudiodev pyexpat
    readline resource select spwd syslog termios tkinter tzdata unicodedata vms_lib
    win32evtlog win32evtlogutil winreg winsound zlib
"""
_ASKED_FOR = frozenset(_NAMES.split())


def start_files(root: Root, python: Python) -> Iterator[str]:
    """Files that change every start, and the places where one would: absent ones included."""
    yield from python.configurations
    for tree in python.trees:
        # Searched before the tree; whole library in one file where it is there.
        yield from zips(os.path.dirname(tree), os.path.basename(tree))
    own = [*python.trees, *(f"{tree}/lib-dynload" for tree in python.trees)]
    added: dict[str, None] = {}
    imported: dict[str, None] = {}
    for directory in (*own, *python.sites):
        for path in _modules(root, directory, _CUSTOM):
            yield path
            if path.endswith(".py"):
                imported.update(dict.fromkeys(_imports(_source(root, path))))
    for directory in python.sites:
        for name in root.names(directory):
            if name.endswith(".pth"):
                yield f"{directory}/{name}"
                text = _source(root, f"{directory}/{name}")
                imported.update(dict.fromkeys(_imports(text)))
                added.update(dict.fromkeys(_added(directory, text)))
    # Debian's sitecustomize imports a module that no package of it has: whoever brings one is run.
    for directory in dict.fromkeys((*python.sites, *added)):
        yield from _modules(root, directory, tuple(imported))
        stems = dict.fromkeys(name.partition(".")[0] for name in root.names(directory))
        yield from _modules(root, directory, tuple(name for name in stems if name in _ASKED_FOR))
    for directory in added:
        yield from _modules(root, directory, _CUSTOM)


def _modules(root: Root, directory: str, names: tuple[str, ...]) -> Iterator[str]:
    """The modules `names` of a directory in any form that `import` takes; `.py` if absent, too."""
    for stem in names:
        yield f"{directory}/{stem}.py"
    for folder in (directory, f"{directory}/__pycache__"):
        for name in root.names(folder):
            if name.partition(".")[0] in names:
                path = f"{folder}/{name}"
                if "." in name or not root.is_directory(path):
                    yield path
                else:
                    yield from _below(root, path)


def _source(root: Root, path: str) -> bytes:
    return root.read(path, limit=_SOURCE_LIMIT) or b""


def _imports(text: bytes) -> Iterator[str]:
    """The first component of what a source, or a `.pth` file, imports by name."""
    words = [each for both in re.findall(_IMPORTS, text) for each in b",".join(both).split(b",")]
    for word in (*words, *re.findall(_IMPORTED, text)):
        name = (word.split() or [b""])[0].partition(b".")[0].decode("ascii", "replace")
        if name.isidentifier():
            yield name


def _added(directory: str, text: bytes) -> Iterator[str]:
    """The directories that a `.pth` file puts on the search path."""
    for line in text.splitlines():
        name = os.fsdecode(line.strip())
        if name and not name.startswith(("#", "import ", "import\t")) and "\0" not in name:
            yield os.path.normpath(os.path.join(directory, name))


def _below(root: Root, directory: str) -> Iterator[str]:
    queue = [directory]
    for current in queue:
        if len(queue) > _MAX_CUSTOM_FILES:
            return
        for name in root.names(current):
            path = f"{current}/{name}"
            if root.is_directory(path):
                queue.append(path)
            else:
                yield path
