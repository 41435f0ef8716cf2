"""Which region, and which sets of regions."""

from __future__ import annotations

import pytest

from crannog.errors import FormatError
from crannog.shield.model import Protection, Region
from crannog.shield.paths import canonical, printable
from crannog.shield.regions import MAX_REGIONS, RegionMap, check_complete


def region(path: bytes) -> Region:
    return Region(path, Protection.ENCRYPTED, path)


MAP = RegionMap([region(b"/"), region(b"/app"), region(b"/srv/data")])


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (b"/", b"/"),
        (b"/app", b"/app"),
        (b"/app/x/y", b"/app"),
        (b"/application", b"/"),
        (b"/srv", b"/"),
        (b"/srv/data/x", b"/srv/data"),
        (b"/srv/database", b"/"),
    ],
)
def test_longest_prefix_by_components(path: bytes, expected: bytes) -> None:
    found = MAP.find(path)
    assert found is not None
    assert found.path == expected


def test_no_region_without_root() -> None:
    assert RegionMap([region(b"/app")]).find(b"/etc/passwd") is None


def test_region_inside_another_is_refused() -> None:
    with pytest.raises(FormatError, match="lies inside"):
        RegionMap([region(b"/a"), region(b"/a/b")])


def test_region_twice_is_refused() -> None:
    with pytest.raises(FormatError, match="twice"):
        RegionMap([region(b"/a"), region(b"/a")])


def test_too_many_regions_are_refused() -> None:
    with pytest.raises(FormatError, match="at most"):
        RegionMap([region(b"/%d" % number) for number in range(MAX_REGIONS + 1)])


def test_one_region_needs_no_root() -> None:
    check_complete(RegionMap([region(b"/app")]))


def test_two_regions_need_the_root() -> None:
    with pytest.raises(FormatError, match="none is '/'"):
        check_complete(RegionMap([region(b"/a"), region(b"/b")]))


@pytest.mark.parametrize(
    ("given", "expected"),
    [(b"/app/", b"/app"), (b"//a///b", b"/a/b"), (b"/./a/.", b"/a"), (b"/", b"/"), (b"//", b"/")],
)
def test_paths_are_made_canonical(given: bytes, expected: bytes) -> None:
    assert canonical(given, "path") == expected


@pytest.mark.parametrize(
    "path", [b"", b"app", b"./app", b"/a/../b", b"/..", b"/a\0b", b"/" + b"n" * 256, b"/n" * 2048]
)
def test_path_is_refused(path: bytes) -> None:
    with pytest.raises(FormatError):
        canonical(path, "path")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a b", "a b"),
        (b"a\nb", r"a\x0ab"),
        (b"\x1b[31m", r"\x1b[31m"),
        (b"\xff", r"\xff"),
        (rb"\xff", r"\x5cxff"),
        ("é".encode(), "é"),
        ("\u202e".encode(), r"\xe2\x80\xae"),
    ],
)
def test_names_are_safe_to_print_and_stay_different(name: bytes, expected: str) -> None:
    assert printable(name) == expected
