"""ELF files made by hand: small enough to see, with what the loader reads and nothing else."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path

X86_64 = 62
AARCH64 = 183


def elf(
    *,
    interpreter: str | None = "/lib64/ld-test.so",
    needed: Sequence[str] = (),
    soname: str | None = None,
    rpath: str | None = None,
    runpath: str | None = None,
    machine: int = X86_64,
    flags_1: int = 0,
    content: bytes = b"",
) -> bytes:
    strings, tags = b"\0", b""

    def tag(number: int, text: str) -> None:
        nonlocal strings, tags
        tags += struct.pack("<qQ", number, len(strings))
        strings += text.encode() + b"\0"

    for name in needed:
        tag(1, name)
    for number, text in ((14, soname), (15, rpath), (29, runpath)):
        if text is not None:
            tag(number, text)
    if flags_1:
        tags += struct.pack("<qQ", 0x6FFFFFFB, flags_1)
    interp = b"" if interpreter is None else interpreter.encode() + b"\0"
    count = 2 + (interpreter is not None)
    base = 64 + count * 56
    at_strings = base + len(interp)
    at_tags = at_strings + len(strings)
    tags += struct.pack("<qQqQqQ", 5, at_strings, 10, len(strings), 0, 0)
    size = at_tags + len(tags)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        *(3, machine, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0),
    )
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    if interpreter is not None:
        segments += struct.pack("<IIQQQQQQ", 3, 4, base, base, 0, len(interp), len(interp), 1)
    segments += struct.pack("<IIQQQQQQ", 2, 6, at_tags, at_tags, 0, len(tags), len(tags), 8)
    return header + segments + interp + strings + tags + content


def cache(*libraries: tuple[str, str, int], flags: int = 0x0303) -> bytes:
    """An ld.so.cache with (name, path, hwcap) entries."""
    strings, rows = b"", []
    start = 48 + 24 * len(libraries)
    for name, path, hwcap in libraries:
        key = start + len(strings)
        strings += name.encode() + b"\0"
        value = start + len(strings)
        strings += path.encode() + b"\0"
        rows.append(struct.pack("<iIIIQ", flags, key, value, 0, hwcap))
    header = struct.pack("<20sIIB3xI12x", b"glibc-ld.so.cache1.1", len(rows), len(strings), 2, 0)
    return header + b"".join(rows) + strings


class Tree:
    """A root directory to put files into."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.put("/lib64/ld-test.so", elf(interpreter=None, content=b"\0/lib/\0/usr/lib/\0"))

    def put(self, path: str, content: bytes | str, mode: int = 0o755) -> Path:
        target = self.path / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        target.chmod(mode)
        return target

    def link(self, path: str, target: str) -> None:
        place = self.path / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(target)
