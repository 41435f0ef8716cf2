"""Which region a path belongs to, and which sets of regions are allowed.

The rules (reference, section 3.5): a path belongs to the region with the longest common prefix, by
whole components; regions do not overlap, except that `/` is below all of them; with more than one
region there has to be `/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crannog.errors import FormatError
from crannog.shield.model import Region
from crannog.shield.paths import is_below, printable

MAX_REGIONS = 256


class RegionMap:
    """The regions of one fspf, ordered by path.

    Raises:
        FormatError: two regions of one path, one below another that is not `/`, or more than
            `MAX_REGIONS`.
    """

    __slots__ = ("_by_path", "_root")

    def __init__(self, regions: Iterable[Region]) -> None:
        ordered = sorted(regions)
        if len(ordered) > MAX_REGIONS:
            raise FormatError(f"{len(ordered)} regions, expected at most {MAX_REGIONS}")
        self._by_path: dict[bytes, Region] = {}
        for region in ordered:
            _refuse_overlap(region, self._by_path.values())
            self._by_path[region.path] = region
        self._root = self._by_path.get(b"/")

    def find(self, path: bytes) -> Region | None:
        """The region of canonical `path`, or None where no region covers it."""
        by_path = self._by_path
        while path and path != b"/":
            region = by_path.get(path)
            if region is not None:
                return region
            path = path[: path.rfind(b"/")]
        return self._root

    def at(self, path: bytes) -> Region | None:
        """The region whose embed point is exactly `path`."""
        return self._by_path.get(path)

    def __iter__(self) -> Iterator[Region]:
        return iter(self._by_path.values())

    def __len__(self) -> int:
        return len(self._by_path)


def check_complete(regions: RegionMap) -> None:
    """Refuse several regions without `/`, which the reference requires.

    Called when an fspf is used or encrypted, not after each `addr`: the first of two may be `/app`.

    Raises:
        FormatError: more than one region, and none is `/`.
    """
    if len(regions) > 1 and regions.at(b"/") is None:
        raise FormatError(
            f"there are {len(regions)} regions and none is '/'",
            hint="add it: crannog fspf addr FILE / --not-protected --kernel /",
        )


def _refuse_overlap(region: Region, others: Iterable[Region]) -> None:
    for other in others:
        if other.path == region.path:
            raise FormatError(f"region {printable(region.path)} is there twice")
        if other.path != b"/" and is_below(region.path, other.path):
            raise FormatError(
                f"region {printable(region.path)} lies inside region {printable(other.path)},"
                " expected regions that do not overlap",
                hint="only '/' may have other regions below it",
            )
