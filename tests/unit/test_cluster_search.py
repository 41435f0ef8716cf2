"""The search of the cluster tests finds what is there, so that nothing found means something."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from tests.cluster.search import search, search_blocks

NEEDLE = b"what is looked for"


def filler(size: int) -> bytes:
    return os.urandom(size)


@pytest.mark.parametrize("before", [0, (4 << 20) - 5, 9 << 20])
@pytest.mark.parametrize("zipped", [False, True])
def test_it_is_found_wherever_it_is(tmp_path: Path, before: int, zipped: bool) -> None:
    data = filler(before) + NEEDLE + filler(100)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(gzip.compress(data, 1) if zipped else data)
    assert search([tmp_path], [NEEDLE, b"something else"], since=0) == {NEEDLE}


def test_it_is_found_in_the_second_member_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(gzip.compress(filler(99)) + gzip.compress(NEEDLE))
    assert search([tmp_path], [NEEDLE], since=0) == {NEEDLE}


def test_it_is_found_across_blocks() -> None:
    assert search_blocks([NEEDLE[:7], NEEDLE[7:9], NEEDLE[9:]], [NEEDLE]) == {NEEDLE}


def test_what_is_older_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(NEEDLE)
    changed = (tmp_path / "a").stat().st_ctime
    assert search([tmp_path], [NEEDLE], since=changed + 1) == set()
