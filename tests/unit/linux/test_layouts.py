"""Our structures against what this machine's kernel writes."""

from __future__ import annotations

import ctypes
import os
import platform
from pathlib import Path

import pytest

from crannog.linux.layouts import pack_stat, pack_statfs, pack_statx
from crannog.linux.syscalls import machine_named

_libc = ctypes.CDLL(None, use_errno=True)


def _kernels(name: str, path: Path, size: int, *between: int) -> bytes:
    buffer = ctypes.create_string_buffer(size)
    number = machine_named(platform.machine()).numbers[name]
    result = _libc.syscall(
        ctypes.c_long(number), ctypes.c_long(-100), os.fsencode(path), *between, buffer, 0
    )
    assert result == 0
    return buffer.raw


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5000)
    path.chmod(0o641)
    os.utime(path, ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    return path


def test_stat_is_the_kernels(file: Path) -> None:
    assert pack_stat(os.stat(file), platform.machine()) == _kernels(
        "newfstatat", file, 144 if platform.machine() == "x86_64" else 128
    )


@pytest.mark.parametrize(("machine", "size"), [("x86_64", 144), ("aarch64", 128)])
def test_sizes_of_stat(file: Path, machine: str, size: int) -> None:
    assert len(pack_stat(os.stat(file), machine)) == size


def test_statx_is_the_kernels_but_for_attributes_and_birth(file: Path) -> None:
    ours = pack_statx(os.stat(file))
    theirs = _kernels("statx", file, 256, 0, 0x7FF)
    assert len(ours) == 256
    for start, end in ((16, 30), (32, 56), (64, 80), (96, 144)):
        assert ours[start:end] == theirs[start:end]


def test_size_of_statfs() -> None:
    assert len(pack_statfs()) == 120
