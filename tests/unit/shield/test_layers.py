"""Nothing of a session's fspf weakens an image's base fspf."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from crannog.errors import FormatError, Misconfigured
from crannog.shield.fspf import Fspf, open_plain, write_plain
from crannog.shield.layers import Layers, layer
from crannog.shield.model import DirectoryEntry, FileEntry, Kind, Protection, Region
from crannog.testing.protection import protect, protect_index

TREE = b"/usr/lib/python3.11"
ROOT = Region(b"/", Protection.NOT_PROTECTED, b"/", 0)


def base(
    files: Mapping[bytes, bytes] | None = None,
    *,
    directories: tuple[bytes, ...] = (TREE + b"/site-packages",),
    regions: tuple[Region, ...] = (Region(TREE, Protection.AUTHENTICATED, TREE),),
) -> Fspf:
    index, _ = protect_index(
        {TREE + b"/os.py": b"genuine"} if files is None else files,
        directories=directories,
        regions=regions,
        links={TREE + b"/link.py": b"os.py"} if files is None else {},
    )
    return open_plain(write_plain(index))


def session(
    *regions: Region,
    files: Mapping[bytes, bytes] | None = None,
    links: Mapping[bytes, bytes] | None = None,
) -> Fspf:
    found = tuple(regions) if ROOT.path in {each.path for each in regions} else (ROOT, *regions)
    return protect(files or {}, regions=found, links=links).open()


def region(path: bytes, protection: Protection, kernel: bytes | None = None) -> Region:
    length = 0 if protection is Protection.NOT_PROTECTED else 65536
    return Region(path, protection, kernel or path, length)


def is_genuine(layers: Layers) -> bool:
    found = layers.lookup(TREE + b"/os.py")
    here = layers.regions.find(TREE + b"/os.py")
    return (
        isinstance(found, FileEntry)
        and found.protection is Protection.AUTHENTICATED
        and here is not None
        and here.path == here.kernel_path == TREE
        and [name for name, _ in layers.names(TREE)] == [b"link.py", b"os.py", b"site-packages"]
        and layers.lookup(TREE + b"/added.py") is None
    )


def test_without_a_session_the_base_stands() -> None:
    layers = layer(base(), None)
    assert is_genuine(layers)
    assert layers.regions.find(b"/app") is None


def test_not_protected_root_of_the_session_does_not_reach_into_it() -> None:
    assert is_genuine(layer(base(), session(ROOT)))


@pytest.mark.parametrize("above", [b"/", b"/usr", b"/usr/lib"])
@pytest.mark.parametrize("protection", [Protection.ENCRYPTED, Protection.AUTHENTICATED])
def test_protected_region_above_does_not_replace_it(above: bytes, protection: Protection) -> None:
    other = session(
        region(above, protection, b"/elsewhere"), files={TREE + b"/os.py": b"the session's"}
    )
    assert is_genuine(layer(base(), other))


def test_not_protected_region_above_does_not_lift_it() -> None:
    other = session(region(b"/usr/lib", Protection.NOT_PROTECTED))
    assert is_genuine(layer(base(), other))


@pytest.mark.parametrize("protection", list(Protection))
@pytest.mark.parametrize("below", [b"", b"/encodings", b"/os.py", b"/site-packagesX"])
def test_region_at_or_below_it_is_refused(below: bytes, protection: Protection) -> None:
    with pytest.raises(Misconfigured, match="base fspf protects"):
        layer(base(), session(region(TREE + below, protection)))


def test_link_of_the_session_above_does_not_lead_away() -> None:
    other = session(region(b"/usr", Protection.AUTHENTICATED), links={b"/usr/lib": b"/evil"})
    layers = layer(base(), other)
    assert isinstance(layers.lookup(b"/usr/lib"), DirectoryEntry)
    assert (b"lib", Kind.DIRECTORY) in layers.names(b"/usr")


def test_site_packages_are_left_to_the_disk() -> None:
    layers = layer(base(), session(ROOT))
    found = layers.regions.find(TREE + b"/site-packages/x/y.py")
    assert found is not None
    assert not found.protected
    assert not layers.is_guarded(TREE + b"/site-packages")


def test_site_packages_are_the_sessions_where_it_protects_what_lies_around() -> None:
    path = TREE + b"/site-packages/x.py"
    other = session(region(b"/usr", Protection.ENCRYPTED, b"/data"), files={path: b"x"})
    layers = layer(base(), other)
    found = layers.regions.find(path)
    assert found is not None
    assert (found.protection, found.kernel_path) == (
        Protection.ENCRYPTED,
        b"/data/lib/python3.11/site-packages",
    )
    assert isinstance(layers.lookup(path), FileEntry)
    assert is_genuine(layers)


@pytest.mark.parametrize("below", [b"", b"/app"])
def test_session_may_protect_site_packages(below: bytes) -> None:
    path = TREE + b"/site-packages" + below
    other = session(region(path, Protection.ENCRYPTED), files={path + b"/x.py": b"x"})
    layers = layer(base(), other)
    assert isinstance(layers.lookup(path + b"/x.py"), FileEntry)
    assert layers.lookup(path + b"/added.py") is None
    assert is_genuine(layers)


def test_site_packages_that_the_base_does_not_list_are_not_open() -> None:
    layers = layer(base(directories=()), session(ROOT))
    assert layers.is_guarded(TREE + b"/site-packages/x.py")
    assert layers.lookup(TREE + b"/site-packages/x.py") is None


def test_only_the_first_level_is_left_open() -> None:
    nested = TREE + b"/ensurepip/site-packages"
    layers = layer(base(directories=(nested,)), None)
    assert layers.is_guarded(nested + b"/x.py")


def test_base_that_lists_what_it_leaves_open_is_refused() -> None:
    found = base({TREE + b"/site-packages/x.py": b"x"})
    with pytest.raises(FormatError, match="not empty"):
        layer(found, None)


@pytest.mark.parametrize(
    "regions",
    [
        (Region(TREE, Protection.ENCRYPTED, TREE),),
        (Region(b"/", Protection.AUTHENTICATED, b"/"),),
        (region(TREE, Protection.NOT_PROTECTED),),
    ],
)
def test_base_with_other_regions_is_refused(regions: tuple[Region, ...]) -> None:
    index, _ = protect_index({}, regions=regions)
    with pytest.raises(FormatError, match="base fspf"):
        layer(open_plain(write_plain(index)), None)


def test_two_trees_with_the_root_that_two_regions_need() -> None:
    other = b"/usr/lib64/python3.11"
    index, _ = protect_index(
        {TREE + b"/os.py": b"x", other + b"/os.py": b"x"},
        regions=(
            ROOT,
            Region(TREE, Protection.AUTHENTICATED, TREE),
            Region(other, Protection.AUTHENTICATED, other),
        ),
    )
    layers = layer(open_plain(write_plain(index)), None)
    assert layers.guarded == (TREE, other)
    assert layers.regions.find(b"/app") is None
