"""Directory records: what the kernel's readers would make of them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.runtime.supervisor.dents import (
    DirectoryRecord,
    fill,
    number_of,
    pack,
    pack64,
    parse64,
    position_of,
)

names = st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name)
records = st.lists(
    st.builds(
        DirectoryRecord,
        st.integers(1, 2**64 - 1),
        st.integers(0, 2**62),
        st.sampled_from([4, 8, 10]),
        names,
    ),
    max_size=30,
)


@given(records)
def test_what_is_packed_is_parsed_again(given_records: list[DirectoryRecord]) -> None:
    data, _ = fill(given_records, 1 << 20, old=False) or (b"", 0)
    assert parse64(data) == [(each.inode, each.kind, each.name) for each in given_records]


@given(records, st.integers(0, 2000), st.booleans())
def test_reading_in_pieces_gives_each_record_once(
    given_records: list[DirectoryRecord], room: int, old: bool
) -> None:
    numbered = [each._replace(after=i + 1) for i, each in enumerate(given_records)]
    position, seen = 0, 0
    while True:
        filled = fill(numbered[position:], room, old=old)
        if filled is None:
            largest = len((pack if old else pack64)(numbered[position]))
            assert room < largest
            return
        data, after = filled
        if not data:
            assert seen == len(numbered)
            return
        assert len(data) <= room
        assert len(data) % 8 == 0
        seen += after - position
        position = after


def test_the_kernels_own_records_are_understood(tmp_path: object) -> None:
    import ctypes

    directory = str(tmp_path)
    for name in ("a", "bb", "ccccccccc"):
        os.mknod(f"{directory}/{name}")
    os.mkdir(f"{directory}/sub")
    opened = os.open(directory, os.O_RDONLY)
    buffer = ctypes.create_string_buffer(4096)
    size = ctypes.CDLL(None).getdents64(opened, buffer, 4096)
    os.close(opened)
    found = {name: (inode, kind) for inode, kind, name in parse64(buffer.raw[:size])}
    assert set(found) == {b".", b"..", b"a", b"bb", b"ccccccccc", b"sub"}
    assert found[b"sub"] == (os.stat(f"{directory}/sub").st_ino, 4)
    assert found[b"a"] == (os.stat(f"{directory}/a").st_ino, 8)


def test_the_old_records_end_with_their_kind() -> None:
    record = pack(DirectoryRecord(7, 9, 4, b"name"))
    assert record[-1] == 4
    assert len(record) == int.from_bytes(record[16:18], "little") == 24
    assert record[18:23] == b"name\0"


@given(st.binary(max_size=200))
def test_no_bytes_make_the_parser_fail_or_run_on(data: bytes) -> None:
    assert len(parse64(data)) <= len(data) // 20 + 1


@given(names)
def test_positions_are_those_that_every_file_system_takes(name: bytes) -> None:
    assert 16 <= position_of(name) < 1 << 42
    assert position_of(name) == position_of(name)


@given(names)
def test_made_up_inode_numbers_are_never_zero(name: bytes) -> None:
    assert number_of(name) >> 63 == 1


@pytest.mark.parametrize("old", [False, True])
def test_a_buffer_too_small_for_one_record_is_told_from_the_end(old: bool) -> None:
    assert fill([DirectoryRecord(1, 1, 8, b"name")], 8, old=old) is None
    assert fill([], 8, old=old) == (b"", 0)
