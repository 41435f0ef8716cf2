"""The library of a base image's Python: its bytecode, and the base fspf over it.

Decides what is in the library: files, directories, links that stay in it, and bytecode that is made
here. Leaves to `install` which Python it is. Runs where `install` runs.
"""

from __future__ import annotations

import json
import os
import posixpath
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

from crannog.errors import Misconfigured, Unsupported
from crannog.measure.python import find_python
from crannog.measure.python_start import start_files
from crannog.measure.root import Root
from crannog.shield.chunks import protect_file
from crannog.shield.fspf import open_plain, write_plain
from crannog.shield.index import build_index
from crannog.shield.layers import OPEN_NAMES, layer
from crannog.shield.model import (
    CHUNK_LENGTH,
    FILE_KEY,
    DirectoryEntry,
    Entry,
    FileEntry,
    LinkEntry,
    Protection,
    Region,
)
from crannog.shield.regions import RegionMap

MTIME_NS = 315_532_800 * 10**9
"""Of every file: 1980-01-01, the first day that a zip file can hold."""

# Part of the measurement by themselves, so that they may lead out of the library.
_MEASURED_LINKS = ("sitecustomize.py", "usercustomize.py")
_LIMIT = 1 << 30  # bytes of one file


class Interpreter(NamedTuple):
    """What was found.

    Attributes:
        path: canonical.
        tag: the middle of its bytecode's names, such as `cpython-311`.
        version: such as `3.11`.
        trees: the canonical directories of its library.
    """

    path: str
    tag: str
    version: str
    trees: tuple[str, ...]


class Output:
    """The tree to be copied over the image.

    Args:
        root: where directories take their mode from.
        top: its directory on the disk that is written to.
        seconds: the time that everything in it gets.
    """

    def __init__(self, root: str, top: str, seconds: int) -> None:
        self._root = root
        self._top = top
        self._seconds = seconds

    def place(self, path: str) -> str:
        """Where `path` of the image is to be written; its directories are made."""
        made = self._top + posixpath.dirname(path)
        os.makedirs(made, mode=0o755, exist_ok=True)
        return self._top + path

    def write(self, path: str, content: bytes, mode: int) -> None:
        """A file, in place of what the image has there."""
        name = self.place(path)
        with open(name, "xb") as file:
            file.write(content)
        os.chmod(name, mode)

    def link(self, path: str, target: str) -> None:
        """A symbolic link, likewise."""
        os.symlink(target, self.place(path))

    def settle(self) -> None:
        """Give everything its time, and the image's directories their modes."""
        for directory, _, files in os.walk(self._top, topdown=False):
            for name in (*(f"{directory}/{file}" for file in files), directory):
                os.utime(name, (self._seconds, self._seconds), follow_symlinks=False)
            there = self._root.rstrip("/") + directory[len(self._top) :]
            if os.path.isdir(there):
                os.chmod(directory, os.stat(there).st_mode & 0o7777)


def compile_library(root: Root, directory: str, tree: str, found: Interpreter, out: Output) -> None:
    """Bytecode with unchecked hashes for every file of a library that compiles, in `out`."""
    work: list[tuple[str, str, str]] = []
    for path, kind in walk(root, directory, tree):
        if kind != "file" or not path.endswith(".py"):
            continue
        name = posixpath.basename(path).removesuffix(".py")
        if name in ("sitecustomize", "usercustomize"):
            continue  # measured as they are, so their source has to count
        work.append(_work(directory, path, found, out))
    _compile(directory, found, "unchecked", work)


def compile_start(root: Root, directory: str, found: Interpreter, out: Output) -> None:
    """Bytecode with checked hashes for what the site directories run at every start, in `out`.

    It is measured as it is. Where there is none, the first start as root would write it, and be
    another program from then on. Checked, since a package may be replaced by another release.
    """
    python = find_python(root, found.path, found.path, ())
    sites = tuple(f"{site}/" for site in python.sites) if python is not None else ()
    paths = dict.fromkeys(start_files(root, python)) if python is not None else {}
    work = [
        _work(directory, path, found, out)
        for path in paths
        if path.startswith(sites)
        and path.endswith(".py")
        and not posixpath.dirname(path).endswith("/__pycache__")
        and root.canonical(path) is not None
    ]
    if work:
        _compile(directory, found, "checked", work)


def _work(directory: str, path: str, found: Interpreter, out: Output) -> tuple[str, str, str]:
    name = posixpath.basename(path).removesuffix(".py")
    target = f"{posixpath.dirname(path)}/__pycache__/{name}.{found.tag}.pyc"
    return directory.rstrip("/") + path, out.place(target), path


def _compile(
    directory: str, found: Interpreter, kind: str, work: list[tuple[str, str, str]]
) -> None:
    with open(posixpath.dirname(os.path.abspath(__file__)) + "/bytecode.py") as file:
        program = file.read()
    run_python(directory, found.path, ["-B", "-c", program, kind], json.dumps(work))


def base_fspf(root: Root, directory: str, found: Interpreter, out: Output) -> bytes:
    """The plain fspf with an authenticated region over each directory of the library."""
    entries: dict[bytes, Entry] = {}
    regions = []
    for tree in found.trees:
        point = os.fsencode(tree)
        regions.append(Region(point, Protection.AUTHENTICATED, point, CHUNK_LENGTH))
        entries[point[1:]] = DirectoryEntry(0o755, 0, 0, MTIME_NS)
        for path, kind in walk(root, directory, tree):
            _enter(entries, root, out, path, kind)
        for written in _written(out, tree):
            name = os.fsencode(written)
            entries.setdefault(posixpath.dirname(name)[1:], DirectoryEntry(0o755, 0, 0, MTIME_NS))
            with open(out.place(written), "rb") as file:
                entries[name[1:]] = _file(file.read(), 0o644)
    if len(regions) > 1:
        regions.append(Region(b"/", Protection.NOT_PROTECTED, b"/", 0))
    data = write_plain(build_index(RegionMap(regions), entries))
    layer(open_plain(data), None)  # as it will be opened
    return data


def _enter(entries: dict[bytes, Entry], root: Root, out: Output, path: str, kind: str) -> None:
    name = os.fsencode(path)[1:]
    if kind == "directory":
        entries[name] = DirectoryEntry(0o755, 0, 0, MTIME_NS)
    elif kind == "file":
        entries[name] = _file(read_file(root, path), 0o755 if _is_executable(root, path) else 0o644)
    elif kind == "nowhere":
        return
    elif kind == "out":
        # Its target could be changed without a word: the image gets a copy in its place.
        content = read_file(root, path)
        out.write(path, content, 0o644)
        entries[name] = _file(content, 0o644)
    else:
        entries[name] = LinkEntry(os.fsencode(kind.partition(":")[2]), 0, 0, MTIME_NS)


def _file(content: bytes, mode: int) -> FileEntry:
    key = bytes(FILE_KEY)
    _, tags = protect_file(Protection.AUTHENTICATED, key, content, chunk_length=CHUNK_LENGTH)
    size = len(content)
    return FileEntry(Protection.AUTHENTICATED, mode, 0, 0, size, MTIME_NS, CHUNK_LENGTH, key, tags)


def walk(root: Root, directory: str, tree: str) -> Iterator[tuple[str, str]]:
    """What is in a library: `file`, `directory`, `link:TARGET`, `out` or `nowhere`.

    `out` is a link that leaves it and ends at a regular file. Bytecode is left out, which is made
    anew; the directories that the base fspf leaves open are there, and nothing of what they hold.

    Raises:
        Unsupported: something that is none of these, or a link to a directory outside.
    """
    queue = [tree]
    for current in queue:
        for name in root.names(current):
            path = f"{current}/{name}"
            status = os.lstat(directory.rstrip("/") + path)
            if name == "__pycache__":
                continue
            if stat.S_ISDIR(status.st_mode):
                yield path, "directory"
                if current != tree or os.fsencode(name) not in OPEN_NAMES:
                    queue.append(path)
            elif stat.S_ISREG(status.st_mode):
                yield path, "file"
            elif stat.S_ISLNK(status.st_mode):
                yield path, _link(root, directory, tree, path)
            else:
                raise Unsupported(f"{path} is neither a file, a directory nor a link")


def _link(root: Root, directory: str, tree: str, path: str) -> str:
    target = os.readlink(directory.rstrip("/") + path)
    if posixpath.basename(path) in _MEASURED_LINKS:
        return f"link:{target}"
    try:
        there = root.canonical(path)
    except Misconfigured:
        there = None
    if there is None:
        print(f"install: {path} leads nowhere and will not be seen", file=sys.stderr)
        return "nowhere"
    text = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
    if there.startswith(f"{tree}/") and text.startswith(f"{tree}/"):
        return f"link:{target}"
    if not root.is_regular(there):
        raise Unsupported(f"{path} is a link to {there}, a directory outside the library")
    return "out"


def _written(out: Output, tree: str) -> Iterator[str]:
    """The bytecode files that were written below `tree`, in order."""
    top = out.place(f"{tree}/x")[: -len("/x")]
    for directory, below, files in os.walk(top):
        below.sort()
        for name in sorted(files):
            if name.endswith(".pyc"):
                yield tree + f"{directory}/{name}"[len(top) :]


def run_python(directory: str, program: str, arguments: list[str], text: str) -> str:
    """Run the image's interpreter without site and with a fixed environment."""
    # Sets would be written in another order otherwise; so not -I, which ignores the variable.
    environment = {"PYTHONHASHSEED": "0", "PYTHONSAFEPATH": "1", "LC_ALL": "C"}
    words = [directory.rstrip("/") + program, "-S", "-s", "-X", "utf8", *arguments]
    done = subprocess.run(
        words, env=environment, input=text, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Unsupported(
            f"{program} cannot be used: status {done.returncode}: {done.stderr.strip()[-500:]}",
            hint="expected CPython 3.11 or newer",
        )
    return done.stdout


def read_file(root: Root, path: str) -> bytes:
    """A file of the image that is known to be there."""
    content = root.read(path, limit=_LIMIT)
    if content is None:
        raise Misconfigured(f"{path} went away")
    return content


def _is_executable(root: Root, path: str) -> bool:
    descriptor = root.open_regular(path)
    if descriptor is None:
        return False
    try:
        return bool(os.fstat(descriptor).st_mode & 0o100)
    finally:
        os.close(descriptor)
