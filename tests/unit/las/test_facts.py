"""The texts of /proc, read."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.errors import Error, FormatError
from crannog.las.facts import (
    Place,
    locate,
    parse_groups,
    parse_misc_devices,
    parse_mounts,
    parse_process_status,
    parse_started,
)
from crannog.las.process import Process, mounts_of, own_namespace

TABLE = b"""\
20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
21 20 0:5 / /run rw - tmpfs tmpfs rw
22 21 8:2 /deep/dir /run/a\\040b ro,nosuid master:3 propagate_from:4 - ext4 /dev/sdb rw
23 21 0:9 / /run rw - tmpfs tmpfs rw
"""


def test_a_mount_table_is_read() -> None:
    mounts = parse_mounts(TABLE)
    assert mounts[2].point == "/run/a b"
    assert mounts[2].source == Place("8:2", "/deep/dir")
    assert mounts[2].options == ("ro", "nosuid")
    assert mounts[2].kind == "ext4"
    assert (mounts[2].number, mounts[2].parent) == (22, 21)


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/srv/x", Place("8:1", "/srv/x")),
        ("/", Place("8:1", "/")),
        ("/run/x", Place("0:9", "/x")),
        ("/run/a b/c", Place("8:2", "/deep/dir/c")),
        ("/running", Place("8:1", "/running")),
    ],
)
def test_where_a_path_lies(path: str, place: Place) -> None:
    assert locate(parse_mounts(TABLE), path) == place


def test_a_path_below_no_mount_lies_nowhere() -> None:
    assert locate((), "/x") is None


OTHER_LINE_ENDS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"


def test_a_mount_s_name_with_other_line_ends_does_not_break_the_table() -> None:
    # A directory of a volume may be named so, and its mount is in the table of the node's init.
    line = f"24 20 8:2 /{OTHER_LINE_ENDS} /srv/{OTHER_LINE_ENDS} rw - ext4 /dev/sdb rw\n"
    mounts = parse_mounts(TABLE + line.encode())
    assert mounts[:4] == parse_mounts(TABLE)
    assert mounts[4].source.path == f"/{OTHER_LINE_ENDS}"


@pytest.mark.parametrize("end", OTHER_LINE_ENDS)
def test_a_group_s_name_with_another_line_end_does_not_name_a_second_group(end: str) -> None:
    name = f"/mine{end}1:name=x:/docker/{'a' * 64}"
    assert parse_groups(f"0::{name}\n".encode()) == (name,)


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_other_texts_raise_our_errors_only(data: bytes) -> None:
    parsers = (parse_mounts, parse_process_status, parse_started, parse_groups, parse_misc_devices)
    for parse in parsers:
        try:
            parse(data)
        except Error:
            continue


def test_a_name_with_parentheses_does_not_move_the_start_time() -> None:
    fields = b" ".join(str(number).encode() for number in range(3, 30))
    assert parse_started(b"7 (a) S 1 (b) " + fields) == parse_started(b"7 (x) " + fields)


def test_a_status_without_a_needed_line_is_refused() -> None:
    with pytest.raises(FormatError):
        parse_process_status(b"PPid:\t1\nTracerPid:\t0\n")


def test_our_own_facts() -> None:
    with Process(os.getpid()) as process:
        facts = process.facts()
    assert facts.status.parent == os.getppid()
    assert facts.pid_namespace == own_namespace("pid")
    assert facts.mounts == mounts_of("self")
