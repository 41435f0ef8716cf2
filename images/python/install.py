"""Makes a base image's Python the launcher: what `images/python/Containerfile` runs.

    install.py --root ROOT --front FRONT --out OUT

Finds ROOT's interpreter and writes to OUT, as a tree to be copied over the image: the interpreter
at its new place, the front under its names, bytecode of its library, the base fspf over that
library, and links to the command line. The result depends on ROOT's files alone, so the same base
image gives the same measurement. docs/curated-image.md and ADR 0923 say why it is so.

Runs on the launcher directory's own Python, with the launcher's packages, since the image's Python
need not be able to.
"""

from __future__ import annotations

import argparse
import json
import os
import posixpath
import stat
import subprocess
import sys
from collections.abc import Iterator
from typing import NamedTuple

sys.path.append(sys.prefix + "/site")

from crannog.errors import EXIT_REFUSED, Error, Misconfigured, Unsupported, chain, hints
from crannog.measure.elf import is_elf, read_elf
from crannog.measure.front import BASE_FSPF, place_behind
from crannog.measure.python import find_python
from crannog.measure.root import Root
from crannog.shield.chunks import protect_file
from crannog.shield.fspf import (
    open_plain,
    write_plain,
)
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

NAMES = ("python3", "python")
COMMANDS = ("crannog", "scone")
MTIME_NS = 315_532_800 * 10**9  # 1980-01-01: the first day that a zip file can hold
_PATH = ("/usr/local/bin", "/usr/bin")
_OLDEST = (3, 11)
_ABOUT = (
    "import sys; print(sys.implementation.name, sys.implementation.cache_tag,"
    " sys.version_info[0], sys.version_info[1])"
)
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


def install(root: Root, directory: str, front: bytes, out: Output) -> Interpreter:
    """Write the tree.

    Args:
        root: the image.
        directory: where the image is, for what has to be executed.
        front: the front's bytes.
        out: takes the result.

    Raises:
        Misconfigured: there is no Python, or the image is curated already.
        Unsupported: a Python or an image that is not known to work.
    """
    found = find_interpreter(root, directory)
    real = place_behind(found.path)
    out.write(real, _read(root, found.path), 0o755)
    out.write(found.path, front, 0o755)
    here = posixpath.dirname(found.path)
    for name in (*NAMES, f"python{found.version}"):
        path = f"{here}/{name}"
        there = root.canonical(path)
        if there is None or (there != found.path and _same(root, there, found.path)):
            out.link(path, posixpath.basename(found.path))
        elif there != found.path:
            print(f"install: {path} is another program and was left as it is", file=sys.stderr)
    for tree in found.trees:
        compile_library(root, directory, tree, found, out)
    base = base_fspf(root, directory, found, out)
    out.write(f"{posixpath.dirname(real)}/{BASE_FSPF}", base, 0o644)
    for name in COMMANDS:
        path = f"/usr/local/bin/{name}"
        if root.canonical(path) is not None:
            raise Misconfigured(f"{path} is there already, expected a base image without it")
        out.link(path, "/opt/crannog/bin/crannog")
    return found


def find_interpreter(root: Root, directory: str) -> Interpreter:
    """The image's `python3`, the first on PATH.

    Raises:
        Misconfigured, Unsupported: as `install`.
    """
    paths = [f"{each}/{name}" for name in NAMES for each in _PATH]
    path = next((there for each in paths if (there := root.canonical(each)) is not None), None)
    if path is None:
        raise Misconfigured(
            f"the base image has no Python: looked for {', '.join(paths)}",
            hint="--build-arg BASE names an image with Python 3.11 or newer on glibc, as"
            " python:3.11-slim-bookworm",
        )
    if root.is_regular(place_behind(path)):
        raise Misconfigured(
            f"{path} is a front already: the base image is a curated image",
            hint="take the image that it was built on",
        )
    descriptor = root.open_regular(path)
    if descriptor is None:
        raise Misconfigured(f"{path} is not a regular file")
    try:
        if not is_elf(os.pread(descriptor, 4, 0)):
            raise Unsupported(f"{path} is not an ELF program, expected CPython itself")
        elf = read_elf(descriptor, path)
    finally:
        os.close(descriptor)
    loader = posixpath.basename(elf.interpreter or "")
    if not loader.startswith("ld-linux"):
        what = "musl" if loader.startswith("ld-musl") else "not dynamically linked with glibc"
        raise Unsupported(
            f"{path} is {what}: its interpreter is {elf.interpreter}",
            hint="take a base image with glibc, as Debian's or python:3.11-slim-bookworm; images"
            " with musl run under the launcher directory instead (/crannog/run)",
        )
    return _ask(root, directory, path, elf.needed)


def _ask(root: Root, directory: str, path: str, needed: tuple[str, ...]) -> Interpreter:
    words = _run(directory, path, ["-I", "-c", _ABOUT], "").split()
    implementation, tag, major, minor = words if len(words) == 4 else ("", "", "0", "0")
    version = f"{major}.{minor}"
    if implementation != "cpython":
        raise Unsupported(f"{path} is {implementation or 'unknown'}, expected CPython")
    if (int(major), int(minor)) < _OLDEST:
        raise Unsupported(
            f"{path} is Python {version}, expected 3.11 or newer",
            hint="take a newer base image",
        )
    python = find_python(root, path, path, needed)
    trees = dict.fromkeys(
        tree
        for each in (python.trees if python is not None else ())
        if posixpath.basename(each) == f"python{version}"
        and (tree := root.canonical(each)) is not None
    )
    if not any(root.is_regular(f"{tree}/os.py") for tree in trees):
        raise Misconfigured(f"{path}: its library, with os.py, was not found")
    return Interpreter(path, tag, version, tuple(trees))


def try_moved(found: Interpreter) -> None:
    """Start the interpreter at its new place, in the image where this runs, and compare its prefix.

    Raises:
        Unsupported: it does not start there (a library that it finds by `$ORIGIN` only), or would
            take another library.
    """
    real = place_behind(found.path)
    os.makedirs(posixpath.dirname(real), exist_ok=True)
    with open(found.path, "rb") as source, open(real, "xb") as target:
        os.fchmod(target.fileno(), 0o755)
        while block := source.read(1 << 20):
            target.write(block)
    asked = ["-I", "-c", "import sys; print(sys.prefix, sys.exec_prefix)"]
    before, after = (_run("/", path, asked, "") for path in (found.path, real))
    if before != after:
        raise Unsupported(f"{real} has prefix {after.strip()}, expected {before.strip()}")


def compile_library(root: Root, directory: str, tree: str, found: Interpreter, out: Output) -> None:
    """Bytecode with unchecked hashes for every file of a library that compiles, in `out`."""
    work: list[tuple[str, str, str]] = []
    for path, kind in walk(root, directory, tree):
        if kind != "file" or not path.endswith(".py"):
            continue
        name = posixpath.basename(path).removesuffix(".py")
        if name in ("sitecustomize", "usercustomize"):
            continue  # measured as they are, so their source has to count
        target = f"{posixpath.dirname(path)}/__pycache__/{name}.{found.tag}.pyc"
        work.append((directory.rstrip("/") + path, out.place(target), path))
    with open(posixpath.dirname(os.path.abspath(__file__)) + "/bytecode.py") as file:
        program = file.read()
    _run(directory, found.path, ["-B", "-c", program], json.dumps(work))


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
        entries[name] = _file(_read(root, path), 0o755 if _is_executable(root, path) else 0o644)
    elif kind == "nowhere":
        return
    elif kind == "out":
        # Its target could be changed without a word: the image gets a copy in its place.
        content = _read(root, path)
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


def _run(directory: str, program: str, arguments: list[str], text: str) -> str:
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


def _read(root: Root, path: str) -> bytes:
    content = root.read(path, limit=_LIMIT)
    if content is None:
        raise Misconfigured(f"{path} went away")
    return content


def _same(root: Root, one: str, other: str) -> bool:
    return root.is_regular(one) and _read(root, one) == _read(root, other)


def _is_executable(root: Root, path: str) -> bool:
    descriptor = root.open_regular(path)
    if descriptor is None:
        return False
    try:
        return bool(os.fstat(descriptor).st_mode & 0o100)
    finally:
        os.close(descriptor)


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="install", description=__doc__)
    for name in ("--root", "--front", "--out"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    try:
        with open(options.front, "rb") as file, Root(options.root) as root:
            out = Output(options.root, options.out, MTIME_NS // 10**9)
            found = install(root, options.root, file.read(), out)
        if options.root == "/":
            try_moved(found)
        out.settle()
    except Error as error:
        for line in chain(error):
            print(f"install: error: {line}", file=sys.stderr)
        for line in hints(error):
            print(f"install: hint: {line}", file=sys.stderr)
        return EXIT_REFUSED
    print(f"install: {found.path} is the launcher now, Python {found.version}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
