"""Sealing and opening: one refusal per test."""

from __future__ import annotations

import os

import pytest
from vectors.fspf.generate import same_gcm_tag

from crannog.errors import FormatError, IntegrityError, TooLarge
from crannog.shield.fspf import (
    open_fspf,
    open_plain,
    open_plain_index,
    seal,
    sealed_tag,
    write_plain,
)
from crannog.shield.index import build_index
from crannog.shield.model import (
    DirectoryEntry,
    FileEntry,
    Kind,
    LinkEntry,
    Protection,
    Region,
)
from crannog.shield.regions import RegionMap
from crannog.testing.protection import Protected, protect

FILES = {b"/app/a.py": b"a" * 10, b"/app/lib/b.py": b"b" * 200_000, b"/app/lib/empty": b""}


@pytest.fixture(scope="module")
def made() -> Protected:
    return protect(FILES, links={b"/app/link": b"lib/b.py"}, directories=[b"/app/none"])


def test_lookup_gives_what_was_added(made: Protected) -> None:
    fspf = made.open()
    file = fspf.lookup(b"/app/lib/b.py")
    assert isinstance(file, FileEntry)
    assert (file.size, file.mode, file.chunks, file.kind) == (200_000, 0o644, 4, Kind.FILE)
    link = fspf.lookup(b"/app/link")
    assert isinstance(link, LinkEntry)
    assert link.target == b"lib/b.py"
    assert isinstance(fspf.lookup(b"/app"), DirectoryEntry)


@pytest.mark.parametrize(
    "path", [b"/app/missing", b"/", b"/etc", b"/app/", b"/app/link/x", b"app/a.py", b""]
)
def test_unknown_path_does_not_exist(made: Protected, path: bytes) -> None:
    assert made.open().lookup(path) is None


def test_names_lists_a_directory_sorted_with_kinds(made: Protected) -> None:
    assert made.open().names(b"/app") == (
        (b"a.py", Kind.FILE),
        (b"lib", Kind.DIRECTORY),
        (b"link", Kind.LINK),
        (b"none", Kind.DIRECTORY),
    )


@pytest.mark.parametrize("path", [b"/app/none", b"/app/a.py", b"/app/missing", b"/"])
def test_names_of_anything_else_is_empty(made: Protected, path: bytes) -> None:
    assert made.open().names(path) == ()


def test_regions_below_a_protected_root_are_listed_and_found() -> None:
    regions = (
        Region(b"/", Protection.AUTHENTICATED, b"/"),
        Region(b"/srv/data", Protection.NOT_PROTECTED, b"/srv/data", 0),
    )
    fspf = protect({b"/etc/x": b"1"}, regions=regions).open()
    assert fspf.names(b"/") == ((b"etc", Kind.DIRECTORY), (b"srv", Kind.DIRECTORY))
    assert fspf.names(b"/srv") == ((b"data", Kind.DIRECTORY),)
    assert fspf.lookup(b"/srv") == DirectoryEntry(0o755, 0, 0, 0)


def test_wrong_key_is_refused(made: Protected) -> None:
    with pytest.raises(IntegrityError):
        open_fspf(made.sealed, key=os.urandom(32), tag=made.tag)


def test_wrong_tag_is_refused(made: Protected) -> None:
    with pytest.raises(IntegrityError):
        open_fspf(made.sealed, key=made.key, tag=bytes(16))


@pytest.mark.parametrize("key", [b"", bytes(31), bytes(33)])
def test_key_of_another_length_is_refused(made: Protected, key: bytes) -> None:
    with pytest.raises(FormatError):
        open_fspf(made.sealed, key=key, tag=made.tag)


@pytest.mark.parametrize("length", [0, 8, 15, 17])
def test_tag_of_another_length_is_refused(made: Protected, length: int) -> None:
    with pytest.raises(FormatError):
        open_fspf(made.sealed, key=made.key, tag=made.tag[:length] + bytes(max(0, length - 16)))


def test_truncated_fspf_is_refused(made: Protected) -> None:
    with pytest.raises(IntegrityError):
        open_fspf(made.sealed[:-1], key=made.key, tag=made.tag)


def test_extended_fspf_is_refused(made: Protected) -> None:
    with pytest.raises(IntegrityError):
        open_fspf(made.sealed + b"\0", key=made.key, tag=made.tag)


def test_another_fspf_with_the_same_gcm_tag_is_refused() -> None:
    """Who knows the key makes a second file with one multiplication; our tag tells them apart."""
    made = protect({b"/app/f": b"x" * 200_000})
    other = same_gcm_tag(made.sealed, made.key)
    assert other != made.sealed
    assert other[-16:] == made.sealed[-16:]
    own = sealed_tag(other, key=made.key)
    assert open_fspf(other, key=made.key, tag=own).lookup(b"/app/f") is not None
    with pytest.raises(IntegrityError):
        open_fspf(other, key=made.key, tag=made.tag)


def test_older_version_under_the_same_key_is_refused(made: Protected) -> None:
    older = seal(build_index(RegionMap([]), {}), key=made.key, random=os.urandom)
    with pytest.raises(IntegrityError):
        open_fspf(older, key=made.key, tag=made.tag)


def test_plain_fspf_is_not_opened_with_a_key(made: Protected) -> None:
    plain = write_plain(build_index(RegionMap([]), {}))
    with pytest.raises(FormatError, match="not sealed"):
        open_fspf(plain, key=made.key, tag=sealed_tag(plain, key=made.key))


def test_sealed_fspf_is_not_edited(made: Protected) -> None:
    with pytest.raises(FormatError, match="encrypted already"):
        open_plain_index(made.sealed)


def test_sealing_twice_gives_two_files(made: Protected) -> None:
    index = build_index(RegionMap([]), {})
    first, second = (seal(index, key=made.key, random=os.urandom) for _ in range(2))
    assert first != second


def test_several_regions_without_root_are_not_sealed() -> None:
    regions = RegionMap(
        [Region(path, Protection.NOT_PROTECTED, path, 0) for path in (b"/a", b"/b")]
    )
    with pytest.raises(FormatError, match="none is '/'"):
        seal(build_index(regions, {}), key=bytes(32), random=os.urandom)
    with pytest.raises(FormatError, match="none is '/'"):
        open_plain(write_plain(build_index(regions, {})))


def test_fspf_over_the_bound_is_refused(made: Protected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("crannog.shield.fspf.MAX_SIZE", len(made.sealed) - 1)
    with pytest.raises(TooLarge):
        made.open()


def test_neither_errors_nor_reprs_hold_the_key(made: Protected) -> None:
    entry = made.open().lookup(b"/app/a.py")
    assert isinstance(entry, FileEntry)
    assert entry.key.hex() not in repr(entry)
    assert repr(entry.key) not in repr(entry)
    with pytest.raises(IntegrityError) as caught:
        open_fspf(made.sealed, key=made.key, tag=bytes(16))
    assert made.key.hex() not in str(caught.value) + caught.value.hint
