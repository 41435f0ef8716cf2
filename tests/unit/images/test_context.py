"""A build context depends on names, modes and content, and on nothing else."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from images.build_context import write_context

from crannog.errors import FormatError

EPOCH = 1_700_000_000


def _context(sources: Path, tree: Path) -> bytes:
    stream = io.BytesIO()
    write_context(stream, sources, {"rootfs/opt/crannog": tree, "state": None}, epoch=EPOCH)
    return stream.getvalue()


def _make(directory: Path, names: list[str], *, umask: int) -> tuple[Path, Path]:
    sources, tree = directory / "sources", directory / "tree"
    before = os.umask(umask)
    try:
        for path in (sources, tree):
            path.mkdir(parents=True)
        (sources / "Containerfile").write_text("FROM scratch\n")
    finally:
        os.umask(before)
    for name in names:
        (tree / name).write_text(name)
        (tree / name).chmod(0o711)
    (tree / "link").symlink_to(names[0])
    return sources, tree


def test_the_same_files_make_the_same_bytes(tmp_path: Path) -> None:
    first = _make(tmp_path / "1", ["a", "b", "c"], umask=0o022)
    second = _make(tmp_path / "2", ["c", "b", "a"], umask=0o077)
    (second[1] / "link").unlink()
    (second[1] / "link").symlink_to("a")
    os.utime(second[1] / "a", (1, 1))
    assert _context(*first) == _context(*second)


def test_names_modes_and_owner(tmp_path: Path) -> None:
    sources, tree = _make(tmp_path, ["ld.so"], umask=0o077)
    (sources / "__pycache__").mkdir()
    (sources / "__pycache__" / "module.pyc").write_bytes(b"")
    with tarfile.open(fileobj=io.BytesIO(_context(sources, tree))) as archive:
        members = {member.name: member for member in archive}
    assert sorted(members) == [
        *("Containerfile", "rootfs", "rootfs/opt", "rootfs/opt/crannog"),
        *("rootfs/opt/crannog/ld.so", "rootfs/opt/crannog/link", "state"),
    ]
    assert members["Containerfile"].mode == 0o644
    assert members["rootfs/opt/crannog/ld.so"].mode == 0o711
    assert {(member.uid, member.gid, member.mtime) for member in members.values()} == {
        (0, 0, EPOCH)
    }


def test_a_socket_is_refused(tmp_path: Path) -> None:
    sources, tree = _make(tmp_path, ["a"], umask=0o022)
    os.mkfifo(tree / "pipe")
    with pytest.raises(FormatError, match="pipe"):
        _context(sources, tree)
