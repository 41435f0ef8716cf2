"""From hostile bytes only our own errors escape; a flipped bit never goes unnoticed."""

from __future__ import annotations

import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.errors import Error
from crannog.measure.elf import read_elf
from crannog.measure.ldcache import parse_cache
from crannog.measure.mrenclave import Entry, ProgramSettings, Role, canonical_list
from crannog.measure.script import parse_shebang
from crannog.measure.system import compiled_in, openssl_directory
from tests.unit.measure.elves import cache, elf

GOOD_ELF = elf(needed=["liba.so", "libb.so"], soname="x", runpath="$ORIGIN:/opt", rpath="/y")
GOOD_CACHE = cache(("liba.so", "/lib/liba.so", 0), ("libb.so", "/lib/libb.so", 1 << 62))


def read(data: bytes) -> object:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        return read_elf(file.fileno(), "file")


@st.composite
def damaged(draw: st.DrawFn, good: bytes) -> bytes:
    data = bytearray(good[: draw(st.integers(0, len(good)))] if draw(st.booleans()) else good)
    for _ in range(draw(st.integers(0, 6))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@settings(max_examples=400, deadline=None)
@given(damaged(GOOD_ELF))
def test_damaged_elf(data: bytes) -> None:
    try:
        read(data)
    except Error:
        return


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes_after_the_magic(data: bytes) -> None:
    try:
        read(b"\x7fELF\x02\x01\x01" + data)
    except Error:
        return


@settings(max_examples=400, deadline=None)
@given(damaged(GOOD_CACHE), st.sampled_from([62, 183]))
def test_damaged_cache(data: bytes, machine: int) -> None:
    try:
        found = parse_cache(data, machine)
        for name in ("liba.so", "libb.so"):
            found.lookup(name)
    except Error:
        return


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=300))
def test_shebang(data: bytes) -> None:
    try:
        found = parse_shebang(b"#!" + data, "script")
    except Error:
        return
    assert found.interpreter.startswith("/")


@given(st.binary(max_size=200))
def test_compiled_in_paths_are_absolute(data: bytes) -> None:
    assert all(path.startswith("/") for path in compiled_in(data + b"/x/gconv\0", b"/gconv\0"))
    directory = openssl_directory(data)
    assert directory is None or directory.startswith("/")


entries = st.lists(
    st.builds(
        Entry,
        st.sampled_from(Role),
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
        st.none() | st.binary(min_size=32, max_size=32),
    ),
    max_size=6,
    unique_by=lambda entry: (entry.role, entry.path),
)
program_settings = st.builds(
    ProgramSettings,
    st.integers(1, 2**47),
    st.integers(1, 2**47),
    st.integers(0, 2),
    st.booleans(),
    st.booleans(),
)
lists = st.tuples(program_settings, entries, st.none() | st.binary(min_size=32, max_size=32))


@settings(max_examples=300)
@given(lists, lists)
def test_different_programs_have_different_lists(
    one: tuple[ProgramSettings, list[Entry], bytes | None],
    other: tuple[ProgramSettings, list[Entry], bytes | None],
) -> None:
    same = (one[0], frozenset(one[1]), one[2]) == (other[0], frozenset(other[1]), other[2])
    assert (canonical_list(*one) == canonical_list(*other)) == same
