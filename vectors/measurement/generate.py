"""Write the vectors of docs/formats/measurement.md: one fact each. Independent of the package.

Run it in this directory; the files it writes are checked in and compared by a test.
"""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

HERE = Path(__file__).parent
DIGEST = hashlib.sha256(b"content").hexdigest()
DEFAULTS = {"heap": 67108864, "stack": 81920, "allow_dlopen": 0, "fork": False, "mprotect": False}


def optional(digest: str | None) -> bytes:
    return b"\0" if digest is None else b"\1" + bytes.fromhex(digest)


def canonical(settings: dict[str, int], entries: list[list[object]], base: str | None) -> bytes:
    out = b"crannog measurement v1\n"
    out += struct.pack(">QQBBB", *(settings[name] for name in DEFAULTS))
    out += optional(base)
    out += struct.pack(">I", len(entries))
    rows = [(role, str(path).encode(), digest) for role, path, digest in entries]
    for role, path, digest in sorted(rows, key=lambda row: row[:2]):
        out += bytes([role]) + struct.pack(">I", len(path)) + path + optional(digest)  # type: ignore[list-item, arg-type]
    return out


def measurement(
    name: str, *, entries: list[list[object]], base: str | None = None, **settings: int
) -> None:
    values = DEFAULTS | settings
    data = canonical(values, entries, base)
    write(
        name,
        {
            "settings": values,
            "base_fspf": base,
            "entries": entries,
            "canonical": data.hex(),
            "mrenclave": hashlib.sha256(data).hexdigest(),
        },
    )


def write(name: str, content: object) -> None:
    text = json.dumps(content, indent=1, ensure_ascii=False)
    (HERE / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def elf(
    *, interpreter: bytes = b"/lib/ld.so\0", needed: tuple[bytes, ...] = (), runpath: bytes = b""
) -> bytes:
    """A program with three headers (PT_LOAD over the whole file, PT_INTERP, PT_DYNAMIC)."""
    strings = b"\0"
    tags = b""
    for name in needed:
        tags += struct.pack("<qQ", 1, len(strings))
        strings += name + b"\0"
    if runpath:
        tags += struct.pack("<qQ", 29, len(strings))
        strings += runpath + b"\0"
    base = 64 + 3 * 56
    at_strings = base + len(interpreter)
    tags += struct.pack("<qQqQqQ", 5, at_strings, 10, len(strings), 0, 0)
    at_tags = at_strings + len(strings)
    size = at_tags + len(tags)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        3,
        62,
        1,
        0,
        64,
        0,
        0,
        64,
        56,
        3,
        0,
        0,
        0,
    )
    segments = struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, 4096)
    segments += struct.pack("<IIQQQQQQ", 3, 4, base, base, 0, len(interpreter), len(interpreter), 1)
    segments += struct.pack("<IIQQQQQQ", 2, 6, at_tags, at_tags, 0, len(tags), len(tags), 8)
    return header + segments + interpreter + strings + tags


def main() -> None:
    measurement("empty", entries=[])
    measurement("one-file", entries=[[1, "/bin/true", DIGEST]])
    measurement("absent", entries=[[6, "/etc/ld.so.preload", None]])
    measurement("order", entries=[[4, "/b", DIGEST], [1, "/z", DIGEST], [4, "/a", None]])
    measurement("not-ascii", entries=[[1, "/opt/grüße", DIGEST]])
    measurement("one-path-two-roles", entries=[[2, "/x", DIGEST], [6, "/x", DIGEST]])
    measurement("base-fspf", entries=[], base=DIGEST)
    measurement(
        "settings", entries=[], heap=1 << 30, stack=4096, allow_dlopen=2, fork=1, mprotect=1
    )

    first_needed = struct.pack("<qQ", 1, 1)
    outside = struct.pack("<qQ", 1, 9999)
    audit = struct.pack("<qQ", 0x6FFFFEFC, 1)
    good = elf(needed=(b"libc.so.6", b"libm.so.6"), runpath=b"$ORIGIN/lib:/opt/lib")
    read = {
        "interpreter": "/lib/ld.so",
        "needed": ["libc.so.6", "libm.so.6"],
        "runpath": ["$ORIGIN/lib", "/opt/lib"],
    }
    for name, data, expected in (
        ("elf-good", good, read),
        ("elf-empty", b"", "malformed"),
        ("elf-not", b"#!/bin/sh\n" + bytes(64), "malformed"),
        ("elf-truncated-header", good[:63], "malformed"),
        ("elf-truncated-segments", good[:100], "malformed"),
        ("elf-truncated-dynamic", good[:-1], "malformed"),
        ("elf-32-bit", good[:4] + b"\x01" + good[5:], "not-supported-yet"),
        ("elf-big-endian", good[:5] + b"\x02" + good[6:], "not-supported-yet"),
        ("elf-other-machine", good[:18] + b"\x03\0" + good[20:], "not-supported-yet"),
        ("elf-object-file", good[:16] + b"\x01\0" + good[18:], "malformed"),
        ("elf-interpreter-without-end", elf(interpreter=b"/lib/ld.so"), "malformed"),
        ("elf-string-outside", good.replace(first_needed, outside), "malformed"),
        ("elf-audit", good.replace(first_needed, audit), "not-supported-yet"),
    ):
        write(name, {"file": data.hex(), "expected": expected})


if __name__ == "__main__":
    main()
