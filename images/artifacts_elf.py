"""ELF files of another root: which libraries belong together, and what is patched in their copies.

Decides which of a root's libraries a launcher directory needs and under which name its loader asks
for them. The search itself is `crannog.measure.loader`'s, the same that measures programs.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator

from crannog.errors import Misconfigured, Unsupported
from crannog.measure.elf import MAGIC, Elf, read_elf
from crannog.measure.loader import Closure, Loader, Mapped
from crannog.measure.root import Root

PRELOAD = b"\0/etc/ld.so.preload\0"
"""What the loader reads before any library, whatever its options are."""

CGROUP = b"/proc/self/cgroup"
"""What Rust's library reads first when it asks for the share of processors it may use."""

# As long, and never there, since the executable is no directory. The last byte stays: the compiled
# code holds it itself.
_NO_CGROUP = b"/proc/self/exe/up"
_LIMIT = 256 << 20  # bytes of one library
_PT_DYNAMIC = 2
_DT_NULL = 0
_RUN_PATHS = frozenset({15, 29})  # DT_RPATH, DT_RUNPATH


class Libraries:
    """Collects the libraries that programs and modules of `root` need, by the name they ask for."""

    def __init__(self, root: Root, executable: str) -> None:
        self._root = root
        self._loader = Loader(root)
        self._closure: Closure = self._loader.closure(executable)
        if self._closure.interpreter is None or self._closure.musl:
            raise Unsupported(
                f"{executable} is not a dynamic glibc program",
                hint="the launcher needs an interpreter that glibc's loader starts; images that "
                "run it may be anything",
            )
        self.interpreter: str = self._closure.interpreter
        self._found: dict[str, str] = {}
        self._add(executable, self._closure.libraries, (m.name for m in self._closure.missing))

    def module(self, path: str) -> None:
        """An extension module of the root, with what it needs.

        Raises:
            Misconfigured: something it needs is nowhere.
        """
        mapped = self._loader.load(path, self._closure.executable)
        if mapped is None:
            raise Misconfigured(f"{path}: not there, or not a regular file")
        self._needed_by(path, (mapped,))

    def name(self, name: str, wanted_by: str) -> None:
        """A library by the name that something outside the root asks for, with what it needs."""
        if name in self._found or name == os.path.basename(self.interpreter):
            return
        found = _unconditional(self._loader.by_name(name, self._closure.executable))
        if not found:
            raise _nowhere(name, wanted_by)
        self._add(wanted_by, found, ())
        self._needed_by(wanted_by, found)

    def result(self) -> dict[str, str]:
        """Path in the root by the name that the loader asks for, sorted by name."""
        return dict(sorted(self._found.items()))

    def _needed_by(self, path: str, start: tuple[Mapped, ...]) -> None:
        libraries, missing = self._loader.also(start, self.interpreter)
        self._add(path, libraries, (each.name for each in missing))

    def _add(self, path: str, libraries: Iterable[Mapped], missing: Iterable[str]) -> None:
        for name in missing:
            raise _nowhere(name, path)
        for mapped in _unconditional(libraries):
            for name in mapped.names:
                if "/" in name:
                    raise Unsupported(f"{path} needs {name}, which is a path and not a name")
                other = self._found.setdefault(name, mapped.path)
                if self._root.canonical(other) != self._root.canonical(mapped.path):
                    raise Unsupported(f"{name} is both {other} and {mapped.path}")


def needed_names(data: bytes, what: str) -> tuple[str, ...]:
    """The libraries that the ELF file with these bytes asks for."""
    return _parse(data, what).needed


def without_run_path(data: bytes, what: str) -> bytes:
    """The ELF file without DT_RPATH and DT_RUNPATH, which come before or after the loader's option.

    Raises:
        FormatError, Unsupported: it cannot be read, or is of another kind.
    """
    _parse(data, what)  # refuses what the offsets below would be wrong for
    (segments,) = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    patched = bytearray(data)
    for index in range(count):
        kind, _, offset, _, _, length = struct.unpack_from("<IIQQQQ", data, segments + index * size)
        if kind != _PT_DYNAMIC:
            continue
        entries = list(_dynamic(data[offset : offset + length]))
        kept = [entry for entry in entries if entry[0] not in _RUN_PATHS]
        kept += [(_DT_NULL, 0)] * (len(entries) - len(kept))
        for place, entry in enumerate(kept):
            struct.pack_into("<qQ", patched, offset + 16 * place, *entry)
    return bytes(patched)


def without_preload(data: bytes, what: str) -> bytes:
    """The loader with an empty path where it looks for /etc/ld.so.preload: a lookup of nothing.

    Raises:
        Unsupported: the path is not there exactly once, as it is in the loaders known to us.
    """
    if data.count(PRELOAD) != 1 or data.count(PRELOAD.strip(b"\0")) != 1:
        raise Unsupported(
            f"{what} does not hold {PRELOAD.strip(bytes(1)).decode()} exactly once, which a "
            "launcher directory's loader must not read",
            hint="is it glibc's loader, 2.33 or newer?",
        )
    return data.replace(PRELOAD, bytes(len(PRELOAD)))


def without_cgroup(data: bytes, what: str) -> bytes:
    """A library in Rust that does not look below /sys/fs/cgroup for its share of processors.

    It takes the number that the kernel lets the process run on instead.

    Raises:
        Unsupported: the path is not there exactly once, as in the wheels known to us.
    """
    if data.count(CGROUP) != 1:
        raise Unsupported(
            f"{what} does not hold {CGROUP.decode()} exactly once, expected from Rust's library",
            hint="has cryptography been upgraded? Trace what it looks up, then change this check",
        )
    return data.replace(CGROUP, _NO_CGROUP)


def read_elf_file(root: Root, path: str) -> bytes:
    """The bytes of an ELF file in the root.

    Raises:
        Misconfigured: it is not there, or is no ELF file.
    """
    data = root.read(path, limit=_LIMIT)
    if data is None or not data.startswith(MAGIC):
        raise Misconfigured(f"{path}: not there, or not an ELF file")
    return data


def _dynamic(data: bytes) -> Iterator[tuple[int, int]]:
    yield from struct.iter_unpack("<qQ", data[: len(data) // 16 * 16])


def _parse(data: bytes, what: str) -> Elf:
    descriptor = os.memfd_create("elf", os.MFD_CLOEXEC)
    try:
        with os.fdopen(os.dup(descriptor), "wb") as file:
            file.write(data)
        return read_elf(descriptor, what)
    finally:
        os.close(descriptor)


def _unconditional(libraries: Iterable[Mapped]) -> tuple[Mapped, ...]:
    """Without the variants for some processors: one directory is one launcher everywhere."""
    return tuple(each for each in libraries if not _is_variant(each.path))


def _is_variant(path: str) -> bool:
    directory = os.path.basename(os.path.dirname(path))
    return "/glibc-hwcaps/" in path or directory in {"haswell", "xeon_phi", "avx512_1", "tls"}


def _nowhere(name: str, path: str) -> Misconfigured:
    return Misconfigured(
        f"{path} needs {name}, which is nowhere in the root",
        hint="is the root whole? install the package that the library is from",
    )
