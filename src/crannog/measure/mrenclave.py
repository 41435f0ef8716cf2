"""The canonical list and its hash. Pure; docs/formats/measurement.md is its text.

Decides how entries and settings become 64 hex digits. Leaves to `program` which entries there are.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

LABEL = b"crannog measurement v1\n"


class Role(IntEnum):
    """Why a path is in the list. The numbers are in the format and never change."""

    EXECUTABLE = 1
    SCRIPT = 2
    INTERPRETER = 3
    LIBRARY = 4
    MODULE = 5
    CONFIGURATION = 6


class Entry(NamedTuple):
    """A path and the SHA-256 of what is there, or None for: nothing is there."""

    role: Role
    path: str
    digest: bytes | None


class ProgramSettings(NamedTuple):
    """The measured settings, in bytes and as numbers; SCONE_MODE is not one of them."""

    heap: int = 64 << 20
    stack: int = 2 << 20
    allow_dlopen: int = 0
    fork: bool = False
    mprotect: bool = False


def canonical_list(
    settings: ProgramSettings, entries: Iterable[Entry], base_fspf: bytes | None = None
) -> bytes:
    """The bytes that are hashed: label, settings, base fspf, then the entries in order, each once.

    `ValueError` for a digest that is not 32 bytes and for one path with two digests in a role.
    """
    out = [LABEL]
    out.append(
        struct.pack(
            ">QQBBB",
            settings.heap,
            settings.stack,
            settings.allow_dlopen,
            settings.fork,
            settings.mprotect,
        )
    )
    out.append(_optional(base_fspf))
    listed = sorted({(entry.role, _encode(entry.path), entry.digest or b"") for entry in entries})
    if len({(role, path) for role, path, _ in listed}) != len(listed):
        raise ValueError("one path has two digests")
    out.append(struct.pack(">I", len(listed)))
    for role, path, digest in listed:
        out.append(struct.pack(">BI", role, len(path)) + path + _optional(digest or None))
    return b"".join(out)


def mrenclave(
    settings: ProgramSettings, entries: Iterable[Entry], base_fspf: bytes | None = None
) -> str:
    """64 hex digits: SHA-256 of the canonical list."""
    from hashlib import sha256  # not where nothing is hashed: it costs 3 ms

    return sha256(canonical_list(settings, entries, base_fspf)).hexdigest()


def _optional(digest: bytes | None) -> bytes:
    if digest is None:
        return b"\0"
    if len(digest) != 32:
        raise ValueError(f"digest of {len(digest)} bytes")
    return b"\1" + digest


def _encode(path: str) -> bytes:
    return os.fsencode(path)  # the kernel's bytes again, whatever the locale made of them
