"""Protected files in memory, for tests: a dict of contents in, an fspf and its ciphertext out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from crannog.shield.chunks import protect_file
from crannog.shield.fspf import KEY_LENGTH, Fspf, open_fspf, seal, sealed_tag
from crannog.shield.index import Index, build_index
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
from crannog.shield.paths import parent
from crannog.shield.regions import RegionMap

_MTIME = 1_600_000_000_000_000_000


class Protected(NamedTuple):
    """What `protect` made.

    Attributes:
        sealed: the fspf's bytes.
        key: its key.
        tag: its tag.
        disk: what belongs on the disk, by path as programs see it.
    """

    sealed: bytes
    key: bytes
    tag: bytes
    disk: dict[bytes, bytes]

    def open(self) -> Fspf:
        """The fspf, opened."""
        return open_fspf(self.sealed, key=self.key, tag=self.tag)


def protect(
    files: Mapping[bytes, bytes],
    *,
    links: Mapping[bytes, bytes] | None = None,
    directories: Iterable[bytes] = (),
    modes: Mapping[bytes, int] | None = None,
    regions: Iterable[Region] = (
        Region(b"/", Protection.NOT_PROTECTED, b"/", 0),
        Region(b"/app", Protection.ENCRYPTED, b"/app"),
    ),
    chunk_length: int = CHUNK_LENGTH,
    owner: tuple[int, int] = (0, 0),
    random: Callable[[int], bytes] = os.urandom,
) -> Protected:
    """Protect `files` (contents by absolute path) and seal the fspf.

    Args:
        files: contents by path; each path in a protected region.
        links: targets by path.
        directories: further, empty ones; those above files are made in any case.
        modes: permission bits by path, otherwise 0644 and 0755.
        regions: all regions.
        chunk_length: bytes of a chunk.
        owner: uid and gid of everything.
        random: where keys and nonces come from.
    """
    index, disk = protect_index(
        files,
        links=links,
        directories=directories,
        modes=modes,
        regions=regions,
        chunk_length=chunk_length,
        owner=owner,
        random=random,
    )
    key = random(KEY_LENGTH)
    sealed = seal(index, key=key, random=random)
    return Protected(sealed, key, sealed_tag(sealed, key=key), disk)


def protect_index(
    files: Mapping[bytes, bytes],
    *,
    links: Mapping[bytes, bytes] | None = None,
    directories: Iterable[bytes] = (),
    modes: Mapping[bytes, int] | None = None,
    regions: Iterable[Region],
    chunk_length: int = CHUNK_LENGTH,
    owner: tuple[int, int] = (0, 0),
    random: Callable[[int], bytes] = os.urandom,
) -> tuple[Index, dict[bytes, bytes]]:
    """As `protect`, without sealing: the index, and what belongs on the disk."""
    found = RegionMap(regions)
    entries: dict[bytes, Entry] = {}
    modes = modes or {}
    disk: dict[bytes, bytes] = {}
    folders = {*directories, *(region.path for region in found if region.protected)}
    for path, content in sorted(files.items()):
        region = found.find(path)
        if region is None or not region.protected:
            raise ValueError(f"{path!r} is in no protected region")
        key = random(FILE_KEY) if region.protection is Protection.ENCRYPTED else bytes(FILE_KEY)
        disk[path], tags = protect_file(region.protection, key, content, chunk_length=chunk_length)
        entries[path[1:]] = FileEntry(
            region.protection,
            modes.get(path, 0o644),
            *owner,
            len(content),
            _MTIME,
            chunk_length,
            key,
            tags,
        )
    for path, target in (links or {}).items():
        entries[path[1:]] = LinkEntry(target, *owner, _MTIME)
    for path in [b"/" + path for path in entries] + list(folders):
        above = path
        while above not in (region.path for region in found):
            above = parent(above)
            folders.add(above)
    for path in folders:
        entries[path[1:]] = DirectoryEntry(modes.get(path, 0o755), *owner, _MTIME)
    return build_index(found, entries), disk
