"""A program's measurement: the executable, what it loads natively, what changes its loading.

Decides the entries of the canonical list (docs/formats/measurement.md) and joins the parts of this
package. Leaves to the launcher where the executable was found and what is done with the result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from crannog.errors import FormatError, Misconfigured, Unsupported
from crannog.measure.defaults import DEFAULT_PATH
from crannog.measure.elf import is_elf
from crannog.measure.front import base_fspf, behind, called
from crannog.measure.loader import Closure, Loader, Mapped, musl_name
from crannog.measure.mrenclave import Entry, ProgramSettings, Role, mrenclave
from crannog.measure.python import Python, extension_modules, find_python
from crannog.measure.python_start import start_files
from crannog.measure.root import FileIdentity, Root, identify
from crannog.measure.script import parse_shebang
from crannog.measure.system import (
    CACHE,
    NSSWITCH,
    PRELOAD,
    libc_files,
    library_bytes,
    nss_modules,
    openssl_directory,
    openssl_files,
)

_BASE_LIMIT = 64 << 20  # bytes of a base fspf; Debian's Python has 0.3 MiB
_IMPLICIT = ("libgcc_s.so.1",)  # pthread_exit and pthread_cancel unwind with it
_MAX_SCRIPTS = 4  # the kernel allows five interpreters in a row


class MeasuredFile(NamedTuple):
    """A native file of the measurement, as it was when its bytes were read."""

    path: str
    identity: FileIdentity


class Measurement(NamedTuple):
    """What was measured.

    Attributes:
        mrenclave: 64 hex digits.
        program: absolute path of what was asked for: the script, where it is one; for an
            interpreter behind a front what it is called (`front.called`).
        executable: absolute path of the ELF file that is executed.
        identity: of that file.
        prefix: what goes before the program's arguments: empty, or what `#!` lines add, from
            `argv[0]` up to and including the script's path.
        native: ELF files that may be loaded whatever SCONE_ALLOW_DLOPEN says.
        others: the other files that are there, as they were.
        absent: absolute paths where nothing was.
        entries: the canonical list's, sorted.
        settings: the measured settings.
        python: whether the executable is a CPython interpreter.
        base: the image's base fspf, the bytes whose digest was measured; None where there is none.
    """

    mrenclave: str
    program: str
    executable: str
    identity: FileIdentity
    prefix: tuple[str, ...]
    native: tuple[MeasuredFile, ...]
    others: tuple[MeasuredFile, ...]
    absent: tuple[str, ...]
    entries: tuple[Entry, ...]
    settings: ProgramSettings
    python: bool
    base: bytes | None = None


class NativeFiles(NamedTuple):
    """What a program loads natively, found and not hashed; the fields are `Measurement`'s."""

    program: str
    executable: str
    prefix: tuple[str, ...]
    native: tuple[MeasuredFile, ...]


class _Loaded(NamedTuple):
    """`libraries` are also those that only `dlopen` loads."""

    executable: Mapped
    libraries: tuple[Mapped, ...]
    musl: bool
    python: Python | None
    identities: Mapping[str, FileIdentity]


class _Target(NamedTuple):
    """The end of all `#!` lines. `name` is what the program at the start is called."""

    executable: str
    argv0: str
    name: str
    prefix: tuple[str, ...]


def native_files(root: Root, path: str) -> NativeFiles:
    """The native files of the program at `path`, for a start that proves nothing to anybody.

    They are those of its measurement, with their identities now. Nothing is hashed: such a start
    reports no hash, and what may be loaded is decided by identity.

    Raises:
        Misconfigured, FormatError, Unsupported: as `measure_program`.
    """
    return _Measuring(root).identify(path)


def measure_program(root: Root, path: str, settings: ProgramSettings) -> Measurement:
    """Measure the program at `path`, an absolute path inside `root`.

    Raises:
        Misconfigured: it, its interpreter or its library is not there, or may not be read.
        FormatError, Unsupported: it is neither ELF nor a script, or needs what cannot be measured.
    """
    return _Measuring(root).measure(path, settings)


class _Measuring:
    def __init__(self, root: Root) -> None:
        self._root = root
        self._listed: dict[tuple[Role, str], None] = {}
        self._native: dict[str, None] = {}

    def measure(self, path: str, settings: ProgramSettings) -> Measurement:
        from hashlib import sha256  # only here: it costs 3 ms

        target = self._scripts(path)
        executable = target.executable
        loaded = self._natives(executable, target.argv0)
        if loaded.python is not None:
            for name in start_files(self._root, loaded.python):
                self._add(Role.CONFIGURATION, name)
        self._system(loaded)
        digests = self._root.digests(path for _, path in self._listed)
        entries = tuple(
            sorted(
                Entry(role, name, None if (found := digests[name]) is None else found.digest)
                for role, name in self._listed
            )
        )
        native = tuple(
            MeasuredFile(name, found.identity)
            for name in self._native
            if (found := digests[name]) is not None
        )
        others = tuple(
            MeasuredFile(name, found.identity)
            for name, found in digests.items()
            if found is not None and name not in self._native
        )
        absent = tuple(
            name for name, found in digests.items() if found is None and name.startswith("/")
        )
        itself = digests[executable]
        if itself is None:
            raise Misconfigured(f"{executable}: went away while it was measured")
        base = self._base(executable)
        return Measurement(
            mrenclave(settings, entries, None if base is None else sha256(base).digest()),
            target.name,
            executable,
            itself.identity,
            target.prefix,
            native,
            others,
            absent,
            entries,
            settings,
            loaded.python is not None,
            base,
        )

    def identify(self, path: str) -> NativeFiles:
        target = self._scripts(path)
        known = self._natives(target.executable, target.argv0).identities
        native = tuple(
            MeasuredFile(name, known[name]) if name in known else self._identified(name)
            for name in self._native
        )
        return NativeFiles(target.name, target.executable, target.prefix, native)

    def _identified(self, path: str) -> MeasuredFile:
        descriptor = self._root.open_regular(path)
        if descriptor is None:
            raise Misconfigured(f"{path}: went away while it was looked at")
        try:
            return MeasuredFile(path, identify(descriptor))
        finally:
            os.close(descriptor)

    def _base(self, executable: str) -> bytes | None:
        path = base_fspf(self._root.canonical(executable) or executable)
        return None if path is None else self._root.read(path, limit=_BASE_LIMIT)

    def _natives(self, path: str, name: str) -> _Loaded:
        """List the executable, which is started as `name`, and everything that it loads."""
        loader = Loader(self._root)
        closure = loader.closure(path)
        if closure.missing:
            lost = closure.missing[0]
            raise Misconfigured(f"{lost.needed_by} needs {lost.name}, which is nowhere")
        self._add(Role.EXECUTABLE, path, native=True)
        if closure.interpreter is not None:
            self._add(Role.INTERPRETER, closure.interpreter, native=True)
        for library in closure.libraries:
            self._add(Role.LIBRARY, library.path, native=True)
        modules = self._modules(loader, closure.executable, closure.libraries, closure.interpreter)
        python = find_python(
            self._root,
            name,
            closure.executable.path if name == path else self._root.canonical(name) or name,
            closure.executable.elf.needed,
            libraries=tuple(
                os.path.dirname(self._root.canonical(each.path) or each.path)
                for each in closure.libraries
                if os.path.basename(each.path).startswith("libpython")
            ),
        )
        if python is not None:
            modules += self._extensions(loader, python, closure)
        return _Loaded(
            closure.executable,
            (*closure.libraries, *modules),
            closure.musl,
            python,
            loader.identities,
        )

    def _scripts(self, path: str) -> _Target:
        """Follow `#!` lines to the ELF file, as the kernel does; env is resolved here and now."""
        prefix: tuple[str, ...] = ()
        current = path
        for _ in range(_MAX_SCRIPTS + 1):
            head = self._head(current)
            if is_elf(head):
                real = behind(self._root, current)
                name = current if real is None else called(self._root, current, real)
                named = (name, *prefix[1:]) if prefix else ()
                return _Target(real or current, name, path if prefix else name, named)
            shebang = parse_shebang(head, current)
            self._add(Role.SCRIPT, current)
            rest = prefix or (current,)
            if shebang.env is not None:
                # env would search the program's PATH; measured is what is executed, so that is
                # decided here. env itself does not run.
                current = self._find(shebang.env, current)
                prefix = (current, *shebang.arguments, *rest)
            else:
                current = shebang.interpreter
                prefix = (current, *shebang.arguments, *rest)
        raise Unsupported(f"{path}: more than {_MAX_SCRIPTS} interpreters in a row")

    def _head(self, path: str) -> bytes:
        descriptor = self._root.open_regular(path)
        if descriptor is None:
            raise Misconfigured(f"{path}: not there, or not a regular file")
        try:
            return os.pread(descriptor, 512, 0)
        finally:
            os.close(descriptor)

    def _find(self, name: str, script: str) -> str:
        if "/" in name:
            return name
        for directory in DEFAULT_PATH.split(":"):
            if self._root.is_regular(f"{directory}/{name}"):
                return f"{directory}/{name}"
        raise Misconfigured(
            f"{script}: its interpreter {name!r} is not on the fixed PATH",
            hint=f"name it by its absolute path in the #! line; the PATH is {DEFAULT_PATH}",
        )

    def _modules(
        self,
        loader: Loader,
        executable: Mapped,
        libraries: tuple[Mapped, ...],
        interpreter: str | None,
    ) -> list[Mapped]:
        """What glibc loads by itself, by nsswitch.conf or always, with what those need."""
        libc = next((each for each in libraries if "libc.so.6" in each.names), None)
        modules: list[Mapped] = []
        if libc is None:
            return modules
        for name in (*nss_modules(self._root), *_IMPLICIT):
            found = loader.by_name(name, libc)
            if not found:
                self._add(Role.MODULE, name)  # relative: there is no such file
            modules += found
        also, _ = loader.also((executable, *libraries, *modules), interpreter)
        modules += [each for each in also if each.path not in self._native]
        for module in modules:
            self._add(Role.MODULE, module.path, native=True)
        return modules

    def _extensions(self, loader: Loader, python: Python, closure: Closure) -> list[Mapped]:
        """CPython's own extension modules, with what those need."""
        executable = closure.executable
        extensions: list[Mapped] = []
        for name in extension_modules(self._root, python):
            try:
                mapped = loader.load(name, executable)
            except (FormatError, Unsupported):
                mapped = None  # measured as it is; it cannot be loaded
            self._add(Role.MODULE, name, native=mapped is not None)
            if mapped is not None:
                extensions.append(mapped)
        also, _ = loader.also((executable, *closure.libraries, *extensions), closure.interpreter)
        for each in also:
            self._add(Role.MODULE, each.path, native=True)
        return [*extensions, *also]

    def _system(self, loaded: _Loaded) -> None:
        """What changes loading in every program of this C library."""
        executable = loaded.executable
        if loaded.musl:
            self._add(
                Role.CONFIGURATION, f"/etc/{musl_name(executable.elf.interpreter or '')}.path"
            )
        elif executable.elf.interpreter is not None:
            self._add(Role.CONFIGURATION, PRELOAD)
            self._add(Role.CONFIGURATION, CACHE)
        # A static program has its C library and its libcrypto, if any, in itself.
        static = executable.elf.interpreter is None
        seen: set[str] = set()
        for mapped in (executable, *loaded.libraries) if static else loaded.libraries:
            name = os.path.basename(mapped.path)
            is_libc = "libc.so.6" in mapped.names or (static and mapped is executable)
            is_crypto = name.startswith("libcrypto") or (static and mapped is executable)
            if mapped.path in seen or not (is_libc or is_crypto):
                continue
            seen.add(mapped.path)
            data = library_bytes(self._root, mapped.path)
            if is_libc:
                files = list(libc_files(self._root, data))
                if files:  # glibc, and not a static program of another C library
                    self._add(Role.CONFIGURATION, NSSWITCH)
                for path in files:
                    self._add(Role.CONFIGURATION, path)
            directory = openssl_directory(data) if is_crypto else None
            if directory is not None:
                for path in openssl_files(self._root, directory):
                    self._add(Role.CONFIGURATION, path)

    def _add(self, role: Role, path: str, *, native: bool = False) -> None:
        if native and path in self._native:
            return  # it has its place already, in the first role that needs it
        self._listed[(role, path)] = None
        if native:
            self._native[path] = None
