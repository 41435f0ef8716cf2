from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import pytest
from images.artifacts_elf import (
    CGROUP,
    PRELOAD,
    Libraries,
    needed_names,
    without_cgroup,
    without_preload,
    without_run_path,
)
from vectors.measurement.generate import elf

from crannog.errors import FormatError, Misconfigured, Unsupported
from crannog.measure.elf import read_elf
from crannog.measure.root import Root

GOOD = elf(needed=(b"libc.so.6", b"libm.so.6"), runpath=b"$ORIGIN/lib:/opt/lib")


def run_paths(data: bytes, tmp_path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    path = tmp_path / "file"
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        found = read_elf(descriptor, "file")
        return found.rpath, found.runpath
    finally:
        os.close(descriptor)


def test_run_paths_are_removed_and_nothing_else(tmp_path: Path) -> None:
    old = GOOD.replace(struct.pack("<qQ", 29, 21), struct.pack("<qQ", 15, 21))
    assert run_paths(GOOD, tmp_path)[1]
    assert run_paths(old, tmp_path)[0]
    for data in (GOOD, old):
        patched = without_run_path(data, "file")
        assert run_paths(patched, tmp_path) == ((), ())
        assert needed_names(patched, "file") == ("libc.so.6", "libm.so.6")
        assert len(patched) == len(data)


def test_a_file_without_run_path_stays_as_it_is() -> None:
    plain = elf(needed=(b"libc.so.6",))
    assert without_run_path(plain, "file") == plain


@pytest.mark.parametrize("data", [b"", b"#!/bin/sh\n" + bytes(64), GOOD[:63], GOOD[:-1]])
def test_what_is_no_elf_file_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        without_run_path(data, "file")


def test_the_preload_path_becomes_empty() -> None:
    data = b"\x7fELF before" + PRELOAD + b"after\0"
    patched = without_preload(data, "ld.so")
    assert len(patched) == len(data)
    assert patched == b"\x7fELF before" + bytes(len(PRELOAD)) + b"after\0"


@pytest.mark.parametrize(
    "data",
    [
        b"nothing",
        PRELOAD + b"x" + PRELOAD,
        b"x" + PRELOAD[1:],
        PRELOAD[:-1] + b".d\0",
        PRELOAD + b"x/etc/ld.so.preload.d\0",
    ],
    ids=["absent", "twice", "tail-of-another", "longer", "also-elsewhere"],
)
def test_a_loader_with_another_preload_path_is_refused(data: bytes) -> None:
    with pytest.raises(Unsupported, match="exactly once"):
        without_preload(data, "ld.so")


def test_the_share_of_processors_is_not_looked_up() -> None:
    patched = without_cgroup(b"a" + CGROUP + b"cpu.cfs_period_us", "rust.so")
    assert patched == b"a/proc/self/exe/up" + b"cpu.cfs_period_us"


@pytest.mark.parametrize("data", [b"nothing", CGROUP + CGROUP], ids=["absent", "twice"])
def test_a_library_with_another_cgroup_path_is_refused(data: bytes) -> None:
    with pytest.raises(Unsupported, match="exactly once"):
        without_cgroup(data, "rust.so")


def test_libraries_of_our_own_python() -> None:
    with Root("/") as root:
        libraries = Libraries(root, os.path.realpath(sys.executable))
        libraries.name("libgcc_s.so.1", "a test")
        found = libraries.result()
    assert {"libc.so.6", "libm.so.6", "libgcc_s.so.1"} <= set(found)
    assert list(found) == sorted(found)
    assert all(os.path.isfile(path) for path in found.values())


def test_a_library_that_is_nowhere_is_refused() -> None:
    with Root("/") as root:
        libraries = Libraries(root, os.path.realpath(sys.executable))
        with pytest.raises(Misconfigured, match=r"a test needs libnone\.so\.1"):
            libraries.name("libnone.so.1", "a test")


def test_a_static_program_is_refused(tmp_path: Path) -> None:
    without_interpreter = elf().replace(struct.pack("<II", 3, 4), struct.pack("<II", 0, 4))
    (tmp_path / "static").write_bytes(without_interpreter)
    with Root(str(tmp_path)) as root, pytest.raises(Unsupported, match="glibc"):
        Libraries(root, "/static")


def test_a_musl_program_is_refused(tmp_path: Path) -> None:
    (tmp_path / "program").write_bytes(elf(interpreter=b"/lib/ld-musl-x86_64.so.1\0"))
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "ld-musl-x86_64.so.1").write_bytes(GOOD)
    with Root(str(tmp_path)) as root, pytest.raises(Unsupported, match="glibc"):
        Libraries(root, "/program")
