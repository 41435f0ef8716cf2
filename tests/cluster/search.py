"""Searching what a cluster has written: raw bytes, and what is inside of gzip."""

from __future__ import annotations

import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tests.cluster.rig import Cluster

_BLOCK = 4 << 20
_GZIP = b"\x1f\x8b"


def search(directories: Iterable[Path], needles: Sequence[bytes], *, since: float) -> set[bytes]:
    """Those of `needles` that are in a file below one of `directories`, changed after `since`.

    A file's change time counts (seconds since 1970), which an unpacked layer cannot set. Files in
    gzip are searched as they are, and decompressed.
    """
    found: set[bytes] = set()
    for directory in directories:
        assert directory.is_dir(), directory
        for path in _files(directory, since):
            found |= _in_file(path, needles)
    return found


def _files(directory: Path, since: float) -> Iterator[Path]:
    for where, _, names in os.walk(directory):
        for name in names:
            path = Path(where, name)
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # a living cluster
            if stat.S_ISREG(status.st_mode) and status.st_ctime >= since:
                yield path


def _in_file(path: Path, needles: Sequence[bytes]) -> set[bytes]:
    try:
        with path.open("rb") as file:
            zipped = file.read(2) == _GZIP
            file.seek(0)
            found = search_blocks(iter(lambda: file.read(_BLOCK), b""), needles)
            if zipped:
                file.seek(0)
                found |= search_blocks(_inflated(iter(lambda: file.read(_BLOCK), b"")), needles)
            return found
    except FileNotFoundError:
        return set()


def search_blocks(blocks: Iterable[bytes], needles: Sequence[bytes]) -> set[bytes]:
    """Those of `needles` that are in a stream."""
    found: set[bytes] = set()
    overlap = max(map(len, needles))
    tail = b""
    for block in blocks:
        text = tail + block
        found |= {needle for needle in needles if needle in text}
        tail = text[-overlap:]
    return found


def _inflated(blocks: Iterable[bytes]) -> Iterator[bytes]:
    inflate = zlib.decompressobj(wbits=31)
    for block in blocks:
        while block:
            yield inflate.decompress(block, _BLOCK)
            block = inflate.unconsumed_tail or (inflate.unused_data if inflate.eof else b"")
            if inflate.eof:
                if not block.startswith(_GZIP):
                    return
                inflate = zlib.decompressobj(wbits=31)


def in_memory_of(cluster: Cluster, node: str, needles: Sequence[str]) -> list[str]:
    """The files of a node's kubelet, container runtime and memory file systems with a needle."""
    patterns = [word for needle in needles for word in ("-e", needle)]
    places = ("/var/lib/kubelet", "/run/containerd", "/run/crannog", "/dev/shm", "/tmp")
    found = cluster.on_node(
        node, "grep", "-rlaF", "-D", "skip", "-s", *patterns, *places, check=False
    )
    return found.splitlines()
