"""A small reader for what the loader takes from an ELF file: interpreter, needed libraries, paths.

Decides only what the file says. Leaves to `loader` where the libraries are found. pyelftools would
do, and costs 50 ms to import, which is more than everything else the launcher does before it
starts a program (docs/adr/0401).

Source: System V ABI, generic part, and glibc's `elf/dl-load.c` for what is taken from where.
64-bit little-endian only, which is x86-64 and AArch64; other ABIs are refused by the file shield as
well.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from crannog.errors import FormatError, Unsupported

MAGIC = b"\x7fELF"
MACHINE_X86_64 = 62
MACHINE_AARCH64 = 183

_ET_EXEC = 2
_ET_DYN = 3
_PT_LOAD = 1
_PT_DYNAMIC = 2
_PT_INTERP = 3
_DT_NULL = 0
_DT_NEEDED = 1
_DT_STRTAB = 5
_DT_STRSZ = 10
_DT_SONAME = 14
_DT_RPATH = 15
_DT_RUNPATH = 29
_DT_FLAGS_1 = 0x6FFFFFFB
_DT_AUXILIARY = 0x7FFFFFFD
_DT_FILTER = 0x7FFFFFFF
_DT_AUDIT = 0x6FFFFEFC
_DT_DEPAUDIT = 0x6FFFFEFB
_DF_1_NODEFLIB = 0x800

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_DYNAMIC = struct.Struct("<qQ")

_MAX_SEGMENTS = 1024
_MAX_DYNAMIC = 1 << 20
_MAX_STRINGS = 1 << 26
_MAX_STRING = 4096
_MAX_NEEDED = 4096


class Elf(NamedTuple):
    """What an ELF file says about its loading. Strings are as in the file, `$ORIGIN` and all."""

    machine: int
    interpreter: str | None
    dynamic: bool
    soname: str | None
    needed: tuple[str, ...]
    rpath: tuple[str, ...]
    runpath: tuple[str, ...]
    no_default_directories: bool


def is_elf(head: bytes) -> bool:
    """Whether these first bytes of a file begin an ELF file."""
    return head.startswith(MAGIC)


def read_elf(descriptor: int, what: str) -> Elf:
    """Read the open file; its position does not matter and is not moved.

    Args:
        descriptor: a readable regular file.
        what: names the file in errors.

    Raises:
        FormatError: not ELF, truncated, or lengths and offsets that point outside.
        Unsupported: 32-bit, big-endian, or an architecture the launcher does not know.
    """
    return _Reader(descriptor, what).read()


class _Reader:
    def __init__(self, descriptor: int, what: str) -> None:
        self._descriptor = descriptor
        self._what = what
        self._size = os.fstat(descriptor).st_size

    def read(self) -> Elf:
        head = self._at(0, _HEADER.size, "its header")
        (ident, kind, machine, _, _, table, _, _, _, entry_size, count, *_) = _HEADER.unpack(head)
        if ident[:4] != MAGIC:
            raise FormatError(f"{self._what}: not an ELF file", offset=0)
        if ident[4] != 2 or ident[5] != 1 or machine not in (MACHINE_X86_64, MACHINE_AARCH64):
            raise Unsupported(
                f"{self._what}: ELF class {ident[4]}, data {ident[5]}, machine {machine}, expected "
                "64-bit little-endian for x86-64 or AArch64"
            )
        if kind not in (_ET_EXEC, _ET_DYN):
            raise FormatError(
                f"{self._what}: ELF type {kind}, expected a program or a shared object", offset=16
            )
        if entry_size != _SEGMENT.size or count > _MAX_SEGMENTS:
            raise FormatError(
                f"{self._what}: {count} program headers of {entry_size} bytes, expected at most "
                f"{_MAX_SEGMENTS} of {_SEGMENT.size}",
                offset=54,
            )
        raw = self._at(table, count * _SEGMENT.size, "its program headers")
        segments = tuple(_SEGMENT.iter_unpack(raw))
        interpreter: str | None = None
        dynamic: tuple[int, int] | None = None
        for kind, _, offset, _, _, size, _, _ in segments:
            if kind == _PT_INTERP and interpreter is None:  # the kernel takes the first
                if not 2 <= size <= _MAX_STRING:
                    raise FormatError(f"{self._what}: interpreter of {size} bytes", offset=offset)
                text = self._at(offset, size, "its interpreter")
                if text[-1]:
                    raise FormatError(f"{self._what}: interpreter does not end", offset=offset)
                interpreter = os.fsdecode(text.partition(b"\0")[0])
            elif kind == _PT_DYNAMIC:  # the loader takes the last
                dynamic = (offset, size)
        if dynamic is None:
            return Elf(machine, interpreter, False, None, (), (), (), False)
        return self._dynamic(machine, interpreter, segments, *dynamic)

    def _dynamic(
        self,
        machine: int,
        interpreter: str | None,
        segments: tuple[tuple[int, ...], ...],
        offset: int,
        size: int,
    ) -> Elf:
        if size > _MAX_DYNAMIC:
            raise FormatError(f"{self._what}: dynamic section of {size} bytes", offset=offset)
        raw = self._at(offset, size - size % _DYNAMIC.size, "its dynamic section")
        needed: list[int] = []
        values: dict[int, int] = {}
        for tag, value in _DYNAMIC.iter_unpack(raw):
            if tag == _DT_NULL:
                break
            if tag == _DT_NEEDED:
                needed.append(value)
            elif tag in (_DT_FILTER, _DT_AUXILIARY):
                # A filter's filtee is loaded as well, before the filter itself is looked into.
                needed.append(value)
            elif tag in (_DT_AUDIT, _DT_DEPAUDIT):
                raise Unsupported(
                    f"{self._what}: names an audit library (DT_AUDIT), which is not measured",
                    hint="link the program without -z,audit",
                )
            else:
                values[tag] = value  # the last of a kind, as the loader does
        if len(needed) > _MAX_NEEDED:
            raise FormatError(f"{self._what}: needs {len(needed)} libraries", offset=offset)
        strings = b""
        if needed or {_DT_SONAME, _DT_RPATH, _DT_RUNPATH} & values.keys():
            if _DT_STRTAB not in values or _DT_STRSZ not in values:
                raise FormatError(f"{self._what}: dynamic section without a string table")
            length = values[_DT_STRSZ]
            if length > _MAX_STRINGS:
                raise FormatError(f"{self._what}: string table of {length} bytes")
            strings = self._at(
                self._file_offset(segments, values[_DT_STRTAB]), length, "its string table"
            )
        runpath = self._paths(strings, values.get(_DT_RUNPATH))
        # gABI: DT_RPATH is ignored where DT_RUNPATH is there.
        rpath = () if _DT_RUNPATH in values else self._paths(strings, values.get(_DT_RPATH))
        soname = values.get(_DT_SONAME)
        return Elf(
            machine,
            interpreter,
            True,
            None if soname is None else self._string(strings, soname),
            tuple(self._string(strings, position) for position in needed),
            rpath,
            runpath,
            bool(values.get(_DT_FLAGS_1, 0) & _DF_1_NODEFLIB),
        )

    def _file_offset(self, segments: tuple[tuple[int, ...], ...], address: int) -> int:
        for kind, _, offset, virtual, _, size, _, _ in segments:
            if kind == _PT_LOAD and virtual <= address < virtual + size:
                return address - virtual + offset
        raise FormatError(f"{self._what}: string table at no loaded address")

    def _paths(self, strings: bytes, position: int | None) -> tuple[str, ...]:
        if position is None:
            return ()
        return tuple(self._string(strings, position).split(":"))

    def _string(self, strings: bytes, position: int) -> str:
        end = strings.find(b"\0", position, position + _MAX_STRING) if position >= 0 else -1
        if position >= len(strings) or end < 0:
            raise FormatError(f"{self._what}: a string at {position} outside its string table")
        return os.fsdecode(strings[position:end])

    def _at(self, offset: int, length: int, part: str) -> bytes:
        if length < 0 or offset < 0 or offset + length > self._size:
            raise FormatError(
                f"{self._what}: {part} ends at byte {offset + length} of {self._size}",
                offset=min(offset, 2**62),
            )
        data = os.pread(self._descriptor, length, offset)
        if len(data) != length:
            raise FormatError(f"{self._what}: {part} is cut short", offset=offset)
        return data
