"""One build of the launcher directory, the services directory and the front.

Decides what lies where, by docs/formats/launcher.md. Leaves how each part is found, patched and
compiled to the modules beside this one.
"""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

from crannog.errors import Misconfigured, Unavailable
from crannog.measure.elf import MAGIC
from crannog.measure.launcher import DIGEST, MODULES, PACKAGES
from crannog.measure.launcher_directory import directory_digest
from crannog.measure.root import Root
from images.artifacts_elf import (
    Libraries,
    needed_names,
    read_elf_file,
    without_cgroup,
    without_preload,
    without_run_path,
)
from images.artifacts_entries import SOURCES, Entries, compile_entries
from images.artifacts_python import (
    Python,
    extension_modules,
    find_python,
    imported_names,
    library_sources,
    reachable,
)
from images.artifacts_tree import PROGRAM, link, put, settle
from images.artifacts_wheels import PROJECT, Extras, install, names, requirements

_LOADER = "ld.so"
_LOADER_MODE = 0o711  # executed, not read: who may not read it may not read its memory either
_LOADED_LATER = ("libgcc_s.so.1",)  # by pthread_cancel and pthread_exit
_PACKAGE = PROJECT / "src" / "crannog"
_RUST = "/_rust.abi3.so"
_RECORDS = frozenset({"INSTALLER", "RECORD", "REQUESTED", "direct_url.json"})
# Scripts; and what makes bindings, which are made already.
_NOT_IMPORTED = frozenset({"bin", "cffi", "pycparser"})
_EMPTY_ZIP = b"PK\x05\x06" + bytes(18)
# TZif version 2 (RFC 9636): one type, UTC; no transitions.
_TZIF = b"TZif2" + bytes(15) + struct.pack(">6I", 0, 0, 0, 0, 1, 4) + bytes(6) + b"UTC\0"
_UTC = _TZIF + _TZIF + b"\nUTC0\n"


class Maker:
    """One build: the root, the places, and what has been found out so far."""

    def __init__(self, root: Root, root_path: Path, out: Path, scratch: Path) -> None:
        self._root = root
        self._root_path = root_path.resolve()
        self._out = out.resolve()
        self._scratch = scratch
        self.python: Python = find_python(root)
        self._entries: Entries = compile_entries(scratch)
        self._launcher = self._out / "launcher"
        self._services = self._out / "services"
        self._kubernetes = self._out / "kubernetes"
        self._library = f"lib/python{self.python.version}"
        self._libraries = Libraries(root, self.python.executable)
        self._machine = int.from_bytes(read_elf_file(root, self.python.executable)[18:20], "little")
        self._locked = requirements(Extras.LAUNCHER)
        self._sources: list[tuple[str, str, str]] = []
        self._files = (*library_sources(root, self.python), *extension_modules(root, self.python))
        self._reachable: frozenset[str] = frozenset()

    def launcher(self) -> None:
        """Everything of the launcher directory but its bytecode and its digest."""
        place = self._launcher
        put(place / "run", self._entries.run.read_bytes(), PROGRAM)
        put(place / "start.py", (SOURCES / "start.py").read_bytes())
        put(place / "etc" / "openssl.cnf", (SOURCES / "openssl.cnf").read_bytes())
        put(place / "etc" / "utc", _UTC)
        put(place / "lib" / "first.so", self._entries.first.read_bytes())
        zipped = self._library.replace(".", "") + ".zip"
        put(place / zipped, _EMPTY_ZIP)
        python = read_elf_file(self._root, self.python.executable)
        put(place / "bin" / "python3", without_run_path(python, "python3"), PROGRAM)
        wheels = self._scratch / "launcher-wheels"
        self._install(self._locked, wheels, without=())
        self._wheels(wheels, place / "site")
        self._package([*(f"{name}.py" for name in MODULES), *PACKAGES], place / "site")
        self._reachable = reachable(self._imported(), self._files, self._read)
        self._standard_library(place)
        for name in _LOADED_LATER:
            self._libraries.name(name, "the C library")
        self._shared(place / "lib")
        loader = read_elf_file(self._root, self._libraries.interpreter)
        put(
            place / "lib" / _LOADER,
            without_preload(without_run_path(loader, _LOADER), _LOADER),
            _LOADER_MODE,
        )
        # Libraries ask for the loader by its own name as well.
        link(place / "lib" / Path(self._libraries.interpreter).name, _LOADER)

    def services(self) -> None:
        """The services directory, which is used beside a launcher directory."""
        place = self._services
        put(place / "bin" / "crannog", self._entries.services.read_bytes(), PROGRAM)
        link(place / "bin" / "scone", "crannog")
        put(place / "start.py", (SOURCES / "start_services.py").read_bytes())
        wheels = self._scratch / "services-wheels"
        self._install(requirements(Extras.SERVICES), wheels, without=names(self._locked))
        self._wheels(wheels, place / "site")
        self._package(
            sorted(path.name for path in _PACKAGE.iterdir() if path.name != "__pycache__"),
            place / "site",
            sources=True,
        )
        self._standard_library(place)
        self._shared(place / "lib")

    def kubernetes(self) -> None:
        """What the device plugin needs beside the services directory, and no other image has."""
        place = self._kubernetes
        wheels = self._scratch / "kubernetes-wheels"
        there = names(requirements(Extras.SERVICES))
        self._install(requirements(Extras.KUBERNETES), wheels, without=there)
        self._wheels(wheels, place / "site")
        self._shared(place / "lib", self._services)

    def finish(self) -> str:
        """Compile, settle modes and times, write the digest; returns it."""
        self._compile()
        put(self._out / "front", self._entries.front.read_bytes(), PROGRAM)
        settle(self._services)
        settle(self._kubernetes)
        settle(self._launcher)
        digest = directory_digest(str(self._launcher)).hex()
        put(self._launcher / DIGEST, digest.encode() + b"\n")
        settle(self._launcher)
        return digest

    def try_it(self) -> None:
        """Start the launcher, and load its libraries: what cannot do that is not handed out.

        Raises:
            Unavailable: it does not start.
        """
        load = f"import sys; sys.path.append({str(self._launcher / 'site')!r}); import OpenSSL.SSL"
        for command in (
            [str(self._launcher / "run"), "--help"],
            [*self._python(), "-I", "-S", "-B", "-c", load],
        ):
            done = subprocess.run(command, env={}, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                raise Unavailable(
                    f"the launcher does not start, status {done.returncode}: "
                    f"{done.stderr.strip()[-2000:]}"
                )

    def _install(self, text: str, into: Path, *, without: tuple[str, ...]) -> None:
        install(
            text,
            into=into,
            python=self.python.version,
            machine=self._machine,
            without=without,
        )

    def _standard_library(self, place: Path) -> None:
        """Of the standard library what the launcher can reach, or for the services the rest."""
        for source in self._files:
            if (source.top in self._reachable) is not (place == self._launcher):
                continue
            if source.relative.endswith(".py"):
                self._source(self._host(source.path), place / self._library, source.relative)
            else:
                data = read_elf_file(self._root, source.path)
                put(place / self._library / source.relative, without_run_path(data, source.path))
                self._libraries.module(source.path)

    def _imported(self) -> set[str]:
        """What the launcher's own files and wheels, collected so far, import."""
        found: set[str] = set()
        for source, _, name in self._sources:
            found |= imported_names(Path(source).read_bytes(), name)
        return found

    def _read(self, path: str) -> bytes:
        return self._host(path).read_bytes()

    def _wheels(self, wheels: Path, site: Path) -> None:
        for path in sorted(wheels.rglob("*")):
            relative = path.relative_to(wheels).as_posix()
            if not path.is_file() or not _is_kept(relative):
                continue
            data = path.read_bytes()
            if data.startswith(MAGIC):
                for name in needed_names(data, relative):
                    self._libraries.name(name, relative)
                if relative.endswith(_RUST):
                    data = without_cgroup(data, relative)
                put(site / relative, without_run_path(data, relative))
            elif relative.endswith(".py"):
                self._source(path, site, relative)
            else:
                put(site / relative, data)

    def _package(self, parts: Iterable[str], site: Path, *, sources: bool = False) -> None:
        for part in parts:
            found = _PACKAGE / part
            for path in sorted(found.rglob("*")) if found.is_dir() else [found]:
                if path.is_dir() or "__pycache__" in path.parts:
                    continue
                relative = f"crannog/{path.relative_to(_PACKAGE).as_posix()}"
                if path.suffix == ".py":
                    self._source(path, site, relative, beside=sources)
                elif sources:
                    put(site / relative, path.read_bytes())

    def _source(self, source: Path, place: Path, relative: str, *, beside: bool = False) -> None:
        """A Python file: as bytecode alone, or beside its bytecode where it is read as text."""
        trees = (self._launcher, self._services, self._kubernetes)
        tree = next(each for each in trees if place.is_relative_to(each))
        name = (place / relative).relative_to(tree).as_posix()
        target = place / f"{relative}c"
        if beside:
            path = place / relative
            put(path, source.read_bytes())
            target = path.parent / "__pycache__" / f"{path.stem}.{self.python.tag}.pyc"
        self._sources.append((str(source), str(target), name))

    def _shared(self, place: Path, *beside: Path) -> None:
        """The libraries that were asked for and are in no directory that is used with this one."""
        trees = (self._launcher, *beside)
        for name, path in self._libraries.result().items():
            if name == Path(self._libraries.interpreter).name:
                continue
            if not any((tree / "lib" / name).exists() for tree in trees):
                data = read_elf_file(self._root, path)
                put(place / name, without_run_path(data, path))

    def _python(self) -> tuple[str, ...]:
        """The directory's Python, as its entry starts it, but for Python's own options."""
        library, python = str(self._launcher / "lib"), str(self._launcher / "bin" / "python3")
        loader = f"{library}/{_LOADER}"
        return (loader, "--inhibit-cache", "--library-path", library, "--argv0", python, python)

    def _compile(self) -> None:
        prefix = str(self._root_path) + str(Path(self.python.library).parent.parent)
        command = [
            *(*self._python(), "-s", "-S", "-P", "-B", "-X", "utf8"),
            str(Path(__file__).with_name("artifacts_bytecode.py")),
        ]
        try:
            subprocess.run(
                command,
                input=json.dumps(sorted(self._sources)),
                env={"PYTHONHOME": prefix, "PYTHONHASHSEED": "0", "LC_ALL": "C"},
                check=True,
                capture_output=True,
                text=True,
            )
        except OSError as error:
            raise Misconfigured(
                f"the root's Python cannot be started: {error.strerror}",
                hint="is the root for this machine's architecture?",
            ) from error
        except subprocess.CalledProcessError as error:
            raise Unavailable(
                f"the root's Python cannot compile: {error.stderr.strip()[-2000:]}"
            ) from error

    def _host(self, path: str) -> Path:
        """Where a file of the root is for us."""
        canonical = self._root.canonical(path) or path
        return (
            Path(str(self._root_path) + canonical)
            if str(self._root_path) != "/"
            else Path(canonical)
        )


def _is_kept(relative: str) -> bool:
    """Of a wheel: its code, data that code reads, its licences, and what it is called."""
    top, _, rest = relative.partition("/")
    if top.endswith(".dist-info"):
        return rest not in _RECORDS and not rest.startswith("sboms/")
    if top in _NOT_IMPORTED or "__pycache__" in relative or relative == "OpenSSL/debug.py":
        return False
    return not relative.endswith((".pyi", ".typed", ".pxd", ".h", ".c", ".pyx"))
