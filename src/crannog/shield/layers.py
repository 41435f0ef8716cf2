"""A base fspf and a session's fspf over each other, seen as one. Pure.

The *base fspf* comes with an image, is measured, and protects an interpreter's own library tree.
Decides that nothing of a session's weakens it: at and below a base region the base alone counts,
whatever region of the session lies above; a session's region there is refused. What is left out of
a base region is `site-packages` and `dist-packages` directly in it, if the base lists them: there
the session's regions count, and the disk where it has none. docs/formats/fspf.md, section 7.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from crannog.errors import FormatError, Misconfigured
from crannog.shield.fspf import Fspf
from crannog.shield.model import DirectoryEntry, Entry, Kind, Protection, Region
from crannog.shield.paths import is_below, join, parent, printable

OPEN_NAMES = (b"site-packages", b"dist-packages")


class LayeredRegions:
    """The regions of both, by the longest prefix. As `regions.RegionMap`, but these may nest."""

    __slots__ = ("_by_path",)

    def __init__(self, regions: Iterable[Region]) -> None:
        self._by_path = {region.path: region for region in regions}

    def find(self, path: bytes) -> Region | None:
        """The region of canonical `path`, or None where no region covers it."""
        by_path = self._by_path
        while path and path != b"/":
            region = by_path.get(path)
            if region is not None:
                return region
            path = path[: path.rfind(b"/")]
        return by_path.get(b"/")

    def at(self, path: bytes) -> Region | None:
        """The region whose embed point is exactly `path`."""
        return self._by_path.get(path)

    def __iter__(self) -> Iterator[Region]:
        return iter(self._by_path.values())

    def __len__(self) -> int:
        return len(self._by_path)


class Layers:
    """Both, with the methods of one `Fspf`. Made by `layer`.

    Attributes:
        regions: of both.
        guarded: the embed points of the base's regions.
    """

    __slots__ = ("_base", "_known", "_open", "_session", "guarded", "regions")

    def __init__(self, base: Fspf, session: Fspf | None) -> None:
        self._base = base
        self._session = session
        self._known: dict[bytes, Entry] = {}  # of the base; a start asks for most of them often
        # `/` is there, not protected, where there are several: the format asks for it.
        own = [region for region in base.regions if region.protected]
        self.guarded: tuple[bytes, ...] = tuple(region.path for region in own)
        self._open: tuple[bytes, ...] = tuple(_open_directories(base))
        regions = {region.path: region for region in session.regions} if session is not None else {}
        for path in self._open:
            if path not in regions:
                regions[path] = _as_around(session, path)
        regions.update({region.path: region for region in own})
        self.regions = LayeredRegions(regions[path] for path in sorted(regions))

    def is_guarded(self, path: bytes) -> bool:
        """Whether the base alone decides what canonical `path` is."""
        return any(is_below(path, each) for each in self.guarded) and not any(
            is_below(path, each) for each in self._open
        )

    def lookup(self, path: bytes) -> Entry | None:
        """As `Fspf.lookup`."""
        known = self._known.get(path)
        if known is not None:
            return known
        if self.is_guarded(path):
            entry = self._base.lookup(path)
            if entry is not None:
                self._known[path] = entry
            return entry
        found = self._session.lookup(path) if self._session is not None else None
        if not isinstance(found, DirectoryEntry) and self._leads(path):
            # A link or a file of the session's would lead away from what was measured.
            return DirectoryEntry(0o755, 0, 0, 0)
        return found

    def names(self, directory: bytes) -> tuple[tuple[bytes, Kind], ...]:
        """As `Fspf.names`."""
        if self.is_guarded(directory):
            return self._base.names(directory)
        found = dict(self._session.names(directory)) if self._session is not None else {}
        for point in (*self.guarded, *self._open):
            if point != directory and is_below(point, directory):
                rest = point[len(directory) :].lstrip(b"/")
                found[rest.partition(b"/")[0]] = Kind.DIRECTORY
        return tuple(sorted(found.items()))

    def _leads(self, path: bytes) -> bool:
        return any(is_below(point, path) for point in (*self.guarded, *self._open))


def layer(base: Fspf, session: Fspf | None) -> Layers:
    """Both over each other.

    Raises:
        FormatError: the base has another region than authenticated ones below `/` and `/` itself,
            not protected; or lists something below a directory that it leaves open.
        Misconfigured: a region of the session's lies in what the base protects.
    """
    for region in base.regions:
        at_root = region.path == b"/"
        if region.protection is not (
            Protection.NOT_PROTECTED if at_root else Protection.AUTHENTICATED
        ):
            raise FormatError(
                f"base fspf: region {printable(region.path)} is not an authenticated one below '/'"
            )
    layers = Layers(base, session)
    for path in _open_directories(base):
        if base.names(path):
            raise FormatError(f"base fspf: {printable(path)} is left open and not empty")
    for region in session.regions if session is not None else ():
        refuse_guarded(
            layers, region.path, f"region {printable(region.path)} of the session's fspf"
        )
    return layers


def refuse_guarded(layers: Layers, path: bytes, what: str) -> None:
    """Refuse that something of the session's begins at canonical `path`; `what` names it.

    Raises:
        Misconfigured: it lies in what the base protects.
    """
    if layers.is_guarded(path):
        raise Misconfigured(
            f"{what} lies in the interpreter's library, which the image's base fspf protects",
            hint="what was measured is not replaced: use a directory of the application's own",
        )


def _open_directories(base: Fspf) -> Iterator[bytes]:
    for region in base.regions:
        for name in OPEN_NAMES:
            path = join(region.path, name)
            if isinstance(base.lookup(path), DirectoryEntry):
                yield path


def _as_around(session: Fspf | None, path: bytes) -> Region:
    """What the session says of an open directory: as of what lies around the base's region."""
    around = session.regions.find(parent(path)) if session is not None else None
    if around is None:
        return Region(path, Protection.NOT_PROTECTED, path, 0)
    below = path[len(around.path) :].lstrip(b"/")
    return around._replace(path=path, kernel_path=join(around.kernel_path, below))
