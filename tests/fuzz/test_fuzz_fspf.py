"""From hostile bytes only our own errors escape."""

from __future__ import annotations

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import Error
from crannog.shield.fspf import open_fspf, open_index, open_plain, sealed_tag, write_plain
from crannog.testing.protection import protect

MADE = protect(
    {b"/app/a": b"x" * 5000, b"/app/d/b": b""}, links={b"/app/l": b"a"}, chunk_length=4096
)
PLAIN = write_plain(open_index(MADE.sealed, key=MADE.key, tag=MADE.tag))


@given(st.binary(max_size=300))
def test_any_bytes_as_plain(data: bytes) -> None:
    for prefix in (b"", b"CRANFSPF", b"CRANFSPF\x01\x00\x00\x00"):
        with contextlib.suppress(Error):
            open_plain(prefix + data)


@given(st.binary(max_size=300))
def test_any_bytes_as_sealed(data: bytes) -> None:
    for prefix in (b"", b"CRANFSPF\x01\x01\x00\x00"):
        sealed = prefix + data
        with contextlib.suppress(Error):
            open_fspf(sealed, key=MADE.key, tag=sealed_tag(sealed, key=MADE.key))


@given(st.lists(st.tuples(st.integers(0, len(PLAIN) - 1), st.binary(max_size=9)), max_size=4))
def test_changed_bytes(changes: list[tuple[int, bytes]]) -> None:
    data = bytearray(PLAIN)
    for position, value in changes:
        data[position : position + len(value)] = value
    with contextlib.suppress(Error):
        fspf = open_plain(bytes(data))
        for path in fspf.paths():
            fspf.lookup(path)
            fspf.names(path)


@given(st.integers(0, len(PLAIN)), st.integers(0, len(PLAIN)), st.binary(max_size=9))
def test_cut_and_spliced(first: int, second: int, between: bytes) -> None:
    with contextlib.suppress(Error):
        open_plain(PLAIN[:first] + between + PLAIN[second:])


def test_the_unchanged_file_opens() -> None:
    assert len(open_plain(PLAIN)) == 5
