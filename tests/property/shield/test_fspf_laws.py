"""Laws of the format: parse∘serialise, flipped bits, regions against a naive model."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import Error, FormatError
from crannog.shield.chunks import protect_file, read_file
from crannog.shield.fspf import open_fspf, open_plain_index, write_plain
from crannog.shield.index import build_index, decode_body
from crannog.shield.model import (
    DirectoryEntry,
    Entry,
    FileEntry,
    Kind,
    LinkEntry,
    Protection,
    Region,
)
from crannog.shield.regions import RegionMap
from crannog.testing.protection import protect

names = st.binary(min_size=1, max_size=6).filter(
    lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b"..")
)
u32 = st.integers(0, 2**32 - 1)
times = st.integers(-(2**63), 2**63 - 1)
modes = st.integers(0, 0o7777)


@st.composite
def files(draw: st.DrawFn) -> FileEntry:
    size = draw(st.integers(0, 3 * 4096))
    tags = draw(st.binary(min_size=16 * -(-size // 4096), max_size=16 * -(-size // 4096)))
    key = draw(st.binary(min_size=32, max_size=32))
    return FileEntry(
        Protection.ENCRYPTED,
        draw(modes),
        draw(u32),
        draw(u32),
        size,
        draw(times),
        4096,
        key,
        tags,
    )


links = st.builds(
    LinkEntry, st.binary(min_size=1, max_size=9).filter(lambda t: b"\0" not in t), u32, u32, times
)
folders = st.builds(DirectoryEntry, modes, u32, u32, times)


@st.composite
def trees(draw: st.DrawFn) -> dict[bytes, Entry]:
    entries: dict[bytes, Entry] = {b"app": draw(folders)}
    for _ in range(draw(st.integers(0, 12))):
        above = draw(
            st.sampled_from(
                [path for path, found in entries.items() if found.kind == Kind.DIRECTORY]
            )
        )
        path = above + b"/" + draw(names)
        if path not in entries:
            entries[path] = draw(st.one_of(files(), links, folders))
    return entries


REGIONS = RegionMap([Region(b"/app", Protection.ENCRYPTED, b"/other")])


@given(trees())
def test_parse_after_serialise_is_the_same(entries: dict[bytes, Entry]) -> None:
    data = write_plain(build_index(REGIONS, entries))
    index = open_plain_index(data)
    assert dict(index.items()) == entries
    assert write_plain(build_index(index.regions, dict(index.items()))) == data


@given(trees())
def test_lookup_and_kind_agree_with_the_tree(entries: dict[bytes, Entry]) -> None:
    index = build_index(REGIONS, entries)
    for path, entry in entries.items():
        assert index.lookup(path) == entry
        assert index.kind(path) is entry.kind


@given(trees(), st.data())
def test_changed_body_is_refused_or_is_another_body(
    entries: dict[bytes, Entry], data: st.DataObject
) -> None:
    """Where a changed byte decodes at all, it decodes to exactly these bytes again."""
    body = bytearray(build_index(REGIONS, entries).body)
    position = data.draw(st.integers(0, len(body) - 1))
    body[position] ^= data.draw(st.integers(1, 255))
    try:
        index = decode_body(bytes(body))
    except FormatError:
        return
    assert build_index(index.regions, dict(index.items())).body == body


@given(st.data())
def test_flipped_bit_of_a_sealed_fspf_is_refused(data: st.DataObject) -> None:
    made = protect({b"/app/f": b"content"})
    changed = bytearray(made.sealed)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Error):
        open_fspf(bytes(changed), key=made.key, tag=made.tag)


@given(
    st.binary(min_size=1, max_size=9000),
    st.sampled_from([Protection.ENCRYPTED, Protection.AUTHENTICATED]),
    st.data(),
)
def test_flipped_bit_of_a_file_is_refused(
    content: bytes, protection: Protection, data: st.DataObject
) -> None:
    key = bytes(range(32))
    disk, tags = protect_file(protection, key, content, chunk_length=4096)
    entry = FileEntry(protection, 0o644, 0, 0, len(content), 0, 4096, key, tags)
    assert read_file(entry, disk) == content
    changed = bytearray(disk)
    changed[data.draw(st.integers(0, len(disk) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Error):
        read_file(entry, bytes(changed))


paths = st.lists(st.sampled_from([b"a", b"b", b"ab"]), max_size=4).map(
    lambda parts: b"/" + b"/".join(parts)
)


def nested(first: bytes, second: bytes) -> bool:
    one, other = first + b"/", second + b"/"
    return one.startswith(other) or other.startswith(one)


@given(st.lists(paths, max_size=5), paths)
def test_find_agrees_with_a_naive_model(roots: list[bytes], path: bytes) -> None:
    regions = [Region(root, Protection.NOT_PROTECTED, root, 0) for root in roots]
    try:
        found = RegionMap(regions).find(path)
    except FormatError:
        overlap = [
            (first, second)
            for position, first in enumerate(roots)
            for second in roots[position + 1 :]
            if first == second or (b"/" not in (first, second) and nested(first, second))
        ]
        assert overlap
        return
    parts = [part for part in path.split(b"/") if part]
    best = None
    for region in regions:
        root = [part for part in region.path.split(b"/") if part]
        longer = best is None or len(region.path) > len(best.path)
        if parts[: len(root)] == root and longer:
            best = region
    assert found == best
