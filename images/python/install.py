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
import os
import posixpath
import sys

# The launcher's packages in an image; and this directory's files, as the checkout has them.
sys.path += [sys.prefix + "/site", os.path.abspath(__file__).rsplit("/", 3)[0]]

from images.python.library import (
    MTIME_NS,
    Interpreter,
    Output,
    base_fspf,
    compile_library,
    compile_start,
    read_file,
    run_python,
)

from crannog.errors import EXIT_REFUSED, Error, Misconfigured, Unsupported, chain, hints
from crannog.measure.elf import is_elf, read_elf
from crannog.measure.front import BASE_FSPF, place_behind
from crannog.measure.python import find_python
from crannog.measure.root import Root

NAMES = ("python3", "python")
COMMANDS = ("crannog", "scone")
_PATH = ("/usr/local/bin", "/usr/bin")
_OLDEST = (3, 11)
_ABOUT = (
    "import sys; print(sys.implementation.name, sys.implementation.cache_tag,"
    " sys.version_info[0], sys.version_info[1])"
)


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
    out.write(real, read_file(root, found.path), 0o755)
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
    compile_start(root, directory, found, out)
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
    path = next((there for each in paths if (there := _leads_to(root, each)) is not None), None)
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
    words = run_python(directory, path, ["-I", "-c", _ABOUT], "").split()
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
    before, after = (run_python("/", path, asked, "") for path in (found.path, real))
    if before != after:
        raise Unsupported(f"{real} has prefix {after.strip()}, expected {before.strip()}")


def _leads_to(root: Root, path: str) -> str | None:
    try:
        return root.canonical(path)
    except Misconfigured:
        return None  # a link that leads nowhere: what it stood for was removed


def _same(root: Root, one: str, other: str) -> bool:
    return root.is_regular(one) and read_file(root, one) == read_file(root, other)


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
