"""Decompression: any input in pieces of any size, and no more work than the bytes there are."""

from __future__ import annotations

import gzip
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import FormatError
from crannog.oci.streams import Deflating, Inflating, Reading, Writing


class Counting:
    """A source that counts what was taken of it."""

    def __init__(self, data: bytes) -> None:
        self.data = io.BytesIO(data)
        self.taken = 0

    def read(self, size: int, /) -> bytes:
        data = self.data.read(size)
        self.taken += len(data)
        return data

    def close(self) -> None:
        pass


@given(st.lists(st.binary(max_size=2000), min_size=1, max_size=4), st.integers(1, 700))
def test_members_one_after_another_in_pieces(parts: list[bytes], size: int) -> None:
    data = b"".join(gzip.compress(part) for part in parts)
    stream = Inflating(Reading(io.BytesIO(data)), "a test", 1 << 20)
    found = b""
    while piece := stream.read(size):
        assert len(piece) <= size
        found += piece
        assert stream.read(0) == b""
    assert found == b"".join(parts)


def test_garbage_after_the_end_is_refused() -> None:
    stream = Inflating(Reading(io.BytesIO(gzip.compress(b"x") + b"more")), "a test", 1 << 20)
    assert stream.read(100) == b"x"
    with pytest.raises(FormatError, match="not a gzip stream"):
        stream.read(100)


def test_a_small_read_takes_a_small_part_of_the_input() -> None:
    source = Counting(gzip.compress(bytes(range(256)) * 40_000, 0))
    stream = Inflating(Reading(source), "a test", 1 << 30)
    assert len(stream.read(512)) == 512
    assert source.taken < 1 << 17


@given(st.lists(st.binary(max_size=500), max_size=5))
def test_what_we_compress_is_the_same_each_time(parts: list[bytes]) -> None:
    results = set()
    for _ in range(2):
        out = io.BytesIO()
        writing = Writing(out, "a test")
        deflating = Deflating(writing)
        for part in parts:
            deflating.write(part)
        deflating.finish()
        assert writing.count == len(out.getvalue())
        assert gzip.decompress(out.getvalue()) == b"".join(parts)
        results.add(writing.digest())
    assert len(results) == 1
