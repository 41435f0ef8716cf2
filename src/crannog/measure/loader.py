"""Which files the ELF loader will map for a program, found as it finds them.

Decides the closure of needed libraries, in the loader's order (breadth first), for glibc and for
musl, without any `LD_*` variable. Where the processor decides between variants of a library
(`glibc-hwcaps`, and the older `haswell`, `tls` and so on of glibc before 2.37) every variant that
is there belongs to the closure, so that one program has one measurement on every machine.

Source: ld.so(8), glibc's `elf/dl-load.c` and `dl-cache.c`, musl's `ldso/dynlink.c`.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from crannog.errors import Misconfigured, Unsupported
from crannog.measure.elf import MACHINE_AARCH64, MACHINE_X86_64, Elf, is_elf, read_elf
from crannog.measure.ldcache import CACHE_LIMIT, CACHE_PATH, EMPTY_CACHE, LoaderCache, parse_cache
from crannog.measure.root import FileIdentity, Root, identify

_MAX_OBJECTS = 4096
_HWCAPS = tuple(f"glibc-hwcaps/x86-64-v{version}" for version in (4, 3, 2))
_LEGACY = ("tls", "haswell", "xeon_phi", "avx512_1", "x86_64", "aarch64", "atomics")
_MUSL_OWN = r"lib(?:c|pthread|rt|m|dl|util|xnet)\."
_SYSTEM_DIRECTORIES = rb"(?:/[\x21-\x7e]*/\0){2,16}"
_PLATFORM = {MACHINE_X86_64: "x86_64", MACHINE_AARCH64: "aarch64"}
_FALLBACK = {
    MACHINE_X86_64: (
        "/lib/x86_64-linux-gnu",
        "/usr/lib/x86_64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ),
    MACHINE_AARCH64: (
        "/lib/aarch64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/lib64",
        "/usr/lib64",
        "/lib",
        "/usr/lib",
    ),
}


class Mapped(NamedTuple):
    """A file the loader maps. `names` are the ones it is known by while loading."""

    path: str
    elf: Elf
    parent: Mapped | None
    names: frozenset[str]


class Missing(NamedTuple):
    """A needed library that is nowhere: the program will not start, or not today."""

    name: str
    needed_by: str


class Closure(NamedTuple):
    """The executable first, then its interpreter if it has one, then libraries in order."""

    executable: Mapped
    interpreter: str | None
    libraries: tuple[Mapped, ...]
    missing: tuple[Missing, ...]
    musl: bool


class Loader:
    """Looks libraries up for one root. Keeps what it learned about directories and the cache.

    Attributes:
        identities: which file each ELF file was, by path, when it was read.
    """

    def __init__(self, root: Root) -> None:
        self._root = root
        self._cache: dict[int, LoaderCache] = {}
        self._variants: dict[str, tuple[str, ...]] = {}
        self.identities: dict[str, FileIdentity] = {}
        self._musl = False
        self._system: tuple[str, ...] = ()

    def closure(self, path: str) -> Closure:
        """Everything mapped when `path` starts.

        Raises:
            FormatError, Unsupported: an ELF file on the way cannot be read.
            Misconfigured: `path` or its interpreter is not there.
        """
        elf = self._read(path)
        if elf is None:
            raise Misconfigured(f"{path}: not there, or not a regular file")
        # $ORIGIN of a program is /proc/self/exe's directory, hence the canonical name.
        executable = Mapped(self._root.canonical(path) or path, elf, None, frozenset())
        interpreter = elf.interpreter
        if interpreter is not None:
            if not self._root.is_regular(interpreter):
                raise Misconfigured(f"{path}: its interpreter {interpreter} is not there")
            self._musl = os.path.basename(interpreter).startswith("ld-musl-")
            self._system = self._system_directories(interpreter, elf.machine)
        elif not elf.dynamic or not elf.needed:
            return Closure(executable, None, (), (), False)  # static
        else:
            self._system = _FALLBACK[elf.machine]
        libraries, missing = self.also((executable,), interpreter)
        return Closure(executable, interpreter, libraries, missing, self._musl)

    def also(
        self, start: tuple[Mapped, ...], interpreter: str | None
    ) -> tuple[tuple[Mapped, ...], tuple[Missing, ...]]:
        """The libraries that `start` needs, breadth first, without `start` itself."""
        known: dict[str, str] = {}
        if interpreter is not None:
            known[os.path.basename(interpreter)] = interpreter
        for mapped in start:
            known.update(dict.fromkeys(mapped.names, mapped.path))
        libraries: list[Mapped] = []
        missing: list[Missing] = []
        seen: set[str] = {mapped.path for mapped in start}
        queue: list[Mapped] = list(start)
        for current in queue:
            for name in current.elf.needed:
                if name in known or (self._musl and re.match(_MUSL_OWN, name)):
                    continue
                found = self._find(name, current)
                if not found:
                    missing.append(Missing(name, current.path))
                known[name] = name
                for path, elf in found:
                    if path in seen:
                        continue
                    seen.add(path)
                    names = {name, elf.soname} if elf.soname else {name}
                    known.update(dict.fromkeys((each for each in names if each), path))
                    mapped = Mapped(path, elf, current, frozenset(filter(None, names)))
                    libraries.append(mapped)
                    queue.append(mapped)
                    if len(queue) > _MAX_OBJECTS:
                        raise Unsupported(f"more than {_MAX_OBJECTS} libraries are needed")
        return tuple(libraries), tuple(missing)

    def load(self, path: str, parent: Mapped | None) -> Mapped | None:
        """`path` as the program would load it by `dlopen`; None where it is no ELF file."""
        elf = self._read(path)
        if elf is None:
            return None
        return Mapped(path, elf, parent, frozenset(filter(None, (elf.soname,))))

    def by_name(self, name: str, parent: Mapped) -> tuple[Mapped, ...]:
        """What `dlopen(name)` in the program would find, all variants; empty where nothing is."""
        return tuple(
            Mapped(path, elf, parent, frozenset((name,))) for path, elf in self._find(name, parent)
        )

    def _find(self, name: str, requester: Mapped) -> list[tuple[str, Elf]]:
        """Every file that could be taken for `name`, the unconditional one last."""
        if "/" in name:
            path = self._expand(name, requester)
            elf = self._usable(path, requester.elf.machine)
            return [] if elf is None else [(path, elf)]
        found: list[tuple[str, Elf]] = []
        for directory in self._run_paths(requester):
            if self._take(directory, name, requester, found):
                return found
        if not self._musl and not requester.elf.no_default_directories:
            for cached in self._loader_cache(requester.elf.machine).lookup(name):
                elf = self._usable(cached.path, requester.elf.machine)
                if elf is not None:
                    found.append((cached.path, elf))
                    if not cached.variant:
                        return found
        if not requester.elf.no_default_directories:
            for directory in self._system:
                if self._take(directory, name, requester, found):
                    return found
        return found

    def _take(
        self, directory: str, name: str, requester: Mapped, found: list[tuple[str, Elf]]
    ) -> bool:
        """Add what `directory` has for `name`; whether the search ends here on any processor."""
        directory = directory.rstrip("/")
        for variant in self._variants_in(directory):
            path = f"{directory}/{variant}/{name}"
            elf = self._usable(path, requester.elf.machine)
            if elf is not None:
                found.append((path, elf))
        path = f"{directory}/{name}"
        elf = self._usable(path, requester.elf.machine)
        if elf is not None:
            found.append((path, elf))
        return elf is not None

    def _run_paths(self, requester: Mapped) -> list[str]:
        """RPATH of the object and those that loaded it, then its own RUNPATH, expanded."""
        raw: list[tuple[str, Mapped]] = []
        ancestor: Mapped | None = requester
        if self._musl:
            # musl takes both kinds alike, and those of the ancestors too.
            while ancestor is not None:
                both = ancestor.elf.runpath or ancestor.elf.rpath
                raw += [(path, ancestor) for path in both]
                ancestor = ancestor.parent
        else:
            while ancestor is not None and not requester.elf.runpath:
                raw += [(path, ancestor) for path in ancestor.elf.rpath]
                ancestor = ancestor.parent
            raw += [(path, requester) for path in requester.elf.runpath]
        expanded = [self._expand(path, owner) for path, owner in raw if path]
        # A relative entry, or an empty one, is the working directory, where nothing is measured.
        if any(not path for path, _ in raw) or any(not path.startswith("/") for path in expanded):
            raise Unsupported(
                f"{requester.path}: its RPATH or RUNPATH names the working directory",
                hint="relink with absolute paths or with $ORIGIN",
            )
        return expanded

    def _expand(self, text: str, owner: Mapped) -> str:
        if "$" not in text:
            return text
        lib = self._system[0].lstrip("/") if self._system else "lib"
        for token, value in (
            ("ORIGIN", os.path.dirname(owner.path)),
            ("LIB", lib),
            ("PLATFORM", _PLATFORM[owner.elf.machine]),
        ):
            text = text.replace(f"${{{token}}}", value)
            text = re.sub(rf"\${token}(?![A-Za-z0-9_])", lambda _, value=value: value, text)  # type: ignore[misc]
        return text

    def _variants_in(self, directory: str) -> tuple[str, ...]:
        """The subdirectories for some processors that are there, in the order of the search."""
        if self._musl:
            return ()
        found = self._variants.get(directory)
        if found is None:
            here: list[str] = []
            if self._root.is_directory(f"{directory}/glibc-hwcaps"):
                here += [name for name in _HWCAPS if self._root.is_directory(f"{directory}/{name}")]
            here += self._legacy(directory, "", 0)
            found = tuple(here)
            self._variants[directory] = found
        return found

    def _legacy(self, directory: str, prefix: str, start: int) -> list[str]:
        """Nested combinations such as `tls/haswell/x86_64`, deepest first."""
        found: list[str] = []
        for position in range(start, len(_LEGACY)):
            name = prefix + _LEGACY[position]
            if self._root.is_directory(f"{directory}/{name}"):
                found += self._legacy(directory, f"{name}/", position + 1)
                found.append(name)
        return found

    def _loader_cache(self, machine: int) -> LoaderCache:
        found = self._cache.get(machine)
        if found is None:
            data = self._root.read(CACHE_PATH, limit=CACHE_LIMIT)
            found = EMPTY_CACHE if data is None else parse_cache(data, machine)
            self._cache[machine] = found
        return found

    def _system_directories(self, interpreter: str, machine: int) -> tuple[str, ...]:
        if self._musl:
            name = musl_name(interpreter)
            listed = self._root.read(f"/etc/{name}.path", limit=1 << 16)
            if listed is None:
                return ("/lib", "/usr/local/lib", "/usr/lib")
            return tuple(path for path in re.split(r"[:\n]", os.fsdecode(listed)) if path)
        # glibc keeps its list as strings one after the other, each ending with a slash.
        data = self._root.read(interpreter, limit=CACHE_LIMIT) or b""
        for mark in (b"/lib/\0", b"/lib64/\0"):
            position = data.find(mark)
            while position >= 0:
                window = data[max(0, position - 512) : position + 512]
                for run in re.findall(_SYSTEM_DIRECTORIES, window):
                    paths = [os.fsdecode(path).rstrip("/") for path in run.split(b"\0") if path]
                    if {"/lib", "/lib64", "/usr/lib", "/usr/lib64"} & set(paths):
                        return tuple(paths)
                position = data.find(mark, position + 1)
        return _FALLBACK[machine]

    def _usable(self, path: str, machine: int) -> Elf | None:
        """As the loader: a file of another class or machine is passed over, a broken one is not."""
        descriptor = self._root.open_regular(path)
        if descriptor is None:
            return None
        try:
            head = os.pread(descriptor, 20, 0)
            if not is_elf(head) or head[4:5] != b"\x02":
                return None
            if int.from_bytes(head[18:20], "little") != machine:
                return None
            self.identities[path] = identify(descriptor)
            return read_elf(descriptor, path)
        finally:
            os.close(descriptor)

    def _read(self, path: str) -> Elf | None:
        descriptor = self._root.open_regular(path)
        if descriptor is None:
            return None
        try:
            self.identities[path] = identify(descriptor)
            return read_elf(descriptor, path)
        finally:
            os.close(descriptor)


def musl_name(interpreter: str) -> str:
    """`ld-musl-ARCH` of musl's interpreter, whose search path is in /etc/ld-musl-ARCH.path."""
    return os.path.basename(interpreter).partition(".so")[0]
