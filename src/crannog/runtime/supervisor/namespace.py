"""The names that regions and injected files put over the disk's. Pure, fixed at the start.

Answers what a canonical path is without looking at the disk. How a path that a program gives
becomes a canonical one is `resolve`'s business; what is in a file is `contents`'s.

Everything here behaves as a mount: a region begins at its embed point whatever lies there on disk,
an injected file hides what is below it, and the directories that lead to either exist.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from crannog.errors import Misconfigured, Unsupported
from crannog.runtime.supervisor.world import InjectedFile, World
from crannog.shield.fspf import Fspf
from crannog.shield.layers import Layers, layer, refuse_guarded
from crannog.shield.model import DirectoryEntry, Entry, Kind, Region
from crannog.shield.paths import canonical, is_below, join, parent, printable


class Owner(NamedTuple):
    """Who owns what has no owner of its own: injected files, directories that only lead there."""

    uid: int
    gid: int
    time_ns: int


class Place(enum.Enum):
    """What covers a path."""

    DISK = 0
    PROTECTED = 1
    INJECTED = 2


class Namespace:
    """Regions and injected files, by canonical path.

    Args:
        world: what the program sees over the disk.
        owner: for what has no owner of its own.
        real_directory: the canonical path of a directory on disk, as far as it exists; called for
            the parents of embed points and injected files only, at the start only.

    Raises:
        Unsupported: an unprotected region whose files are elsewhere on disk.
        Misconfigured: a region or an injected file would take the place of what the base fspf
            protects, by whatever name.
        crannog.errors.FormatError: an injected file's path is not canonical.
    """

    __slots__ = (
        "_aliases",
        "_leading",
        "_owner",
        "_points",
        "_real_parents",
        "fspf",
        "injected",
    )

    def __init__(
        self, world: World, owner: Owner, real_directory: Callable[[bytes], bytes]
    ) -> None:
        self.fspf: Fspf | Layers | None = world.fspf
        if world.base is not None:
            self.fspf = layer(world.base, world.fspf)
        self._owner = owner
        regions = tuple(self.fspf.regions) if self.fspf is not None else ()
        for region in regions:
            _refuse_moved(region)
        self.injected: dict[bytes, InjectedFile] = {}
        for file in world.files:
            path = canonical(file.path, "path of an injected file")
            self.injected[path] = file._replace(path=path)
        # Where something begins that is not its surroundings'.
        self._points: dict[bytes, Region | InjectedFile] = {
            region.path: region for region in regions if region.path != b"/"
        }
        self._points.update(self.injected)
        self._real_parents: dict[bytes, bytes] = {}
        self._aliases: dict[bytes, bytes] = {}
        for path in self._points:
            real = parent(path)
            if not (isinstance(self.fspf, Layers) and self.fspf.is_guarded(real)):
                real = real_directory(real)  # the disk is not asked inside the base's regions
            self._real_parents[path] = real
            alias = self._real(path)
            if alias != path:
                self._aliases[alias] = path
        if isinstance(self.fspf, Layers):
            self._keep_base(self.fspf)
        self._leading = _leading(self._points, self._aliases)

    def _keep_base(self, layers: Layers) -> None:
        """(A) Nothing begins in the base's regions but what is its own, by any name of either."""
        real = {self._real(path): path for path in layers.guarded}
        for path, point in self._points.items():
            if path in layers.guarded and not isinstance(point, InjectedFile):
                continue
            what = f"region {printable(path)} of the session's fspf"
            if isinstance(point, InjectedFile):
                what = f"injected file {printable(path)}"
                if any(is_below(each, path) for each in (*layers.guarded, *real)):
                    raise Misconfigured(
                        f"{what} hides the interpreter's library, which the image's base fspf"
                        " protects",
                        hint="inject it elsewhere",
                    )
            refuse_guarded(layers, path, what)
            name = self._real(path)
            for there, literal in real.items():
                if is_below(name, there):
                    refuse_guarded(layers, join(literal, name[len(there) :].lstrip(b"/")), what)

    def _real(self, point: bytes) -> bytes:
        return join(self._real_parents[point], point.rpartition(b"/")[2])

    def point_of(self, path: bytes) -> bytes | None:
        """The embed point or injected file that begins at `path`, literal or real; or None."""
        if path in self._points:
            return path
        return self._aliases.get(path)

    def longest_point(self, path: bytes) -> bytes | None:
        """The longest prefix of a literal path, by components, at which something begins."""
        points = self._points
        while path:
            if path in points:
                return path
            path = path[: path.rfind(b"/")]
        return None

    def place(self, path: bytes) -> Place:
        """What covers the canonical path."""
        points = self._points
        found: Region | InjectedFile | None = points.get(path)
        if isinstance(found, InjectedFile):
            return Place.INJECTED
        if self.fspf is None:
            return Place.DISK
        region = self.fspf.regions.find(path)
        return Place.PROTECTED if region is not None and region.protected else Place.DISK

    def is_base(self, path: bytes) -> bool:
        """Whether the canonical path lies in a region of the image's base fspf."""
        return isinstance(self.fspf, Layers) and self.fspf.is_guarded(path)

    def region(self, path: bytes) -> Region | None:
        """The region of the canonical path, protected or not."""
        return self.fspf.regions.find(path) if self.fspf is not None else None

    def parent(self, path: bytes) -> bytes:
        """Where `..` leads from the canonical path: for an embed point, its real parent."""
        return self._real_parents.get(path) or parent(path)

    def entry(self, path: bytes) -> Entry | None:
        """What the fspf says of a path in a protected region, else of a leading directory."""
        found = self.fspf.lookup(path) if self.fspf is not None else None
        if found is None and (path in self._leading or path in self._points):
            return self.leading_directory()
        return found

    def leads(self, path: bytes) -> bool:
        """Whether something begins below the canonical path: it must neither move nor go."""
        return path in self._leading

    def leading_directory(self) -> DirectoryEntry:
        """A directory that exists only because something injected lies below it."""
        return DirectoryEntry(0o755, self._owner.uid, self._owner.gid, self._owner.time_ns)

    def added_names(self, directory: bytes) -> Mapping[bytes, Kind]:
        """The names that must be seen in a directory whatever else it holds."""
        return self._leading.get(directory, {})

    def names(self, directory: bytes) -> dict[bytes, Kind]:
        """All names in a directory of a protected region, or in one that only leads somewhere."""
        names: dict[bytes, Kind] = {}
        if self.fspf is not None and self.place(directory) is Place.PROTECTED:
            names.update(self.fspf.names(directory))
        names.update(self.added_names(directory))
        return names


def _refuse_moved(region: Region) -> None:
    if not region.protected and region.kernel_path != region.path:
        raise Unsupported(
            f"region {printable(region.path)} is not protected and its files are in"
            f" {printable(region.kernel_path)}, expected the same path",
            hint="give the region's own path with --kernel, or protect the region",
        )


def _leading(
    points: Mapping[bytes, Region | InjectedFile], aliases: Mapping[bytes, bytes]
) -> dict[bytes, dict[bytes, Kind]]:
    """For every directory above a point: the names in it that lead there."""
    leading: dict[bytes, dict[bytes, Kind]] = {}
    begins: Iterable[tuple[bytes, bytes]] = [
        *((path, path) for path in points),
        *aliases.items(),
    ]
    for path, point in begins:
        kind = Kind.FILE if isinstance(points[point], InjectedFile) else Kind.DIRECTORY
        while path != b"/":
            above, _, name = path.rpartition(b"/")
            above = above or b"/"
            leading.setdefault(above, {})[name] = kind
            kind = Kind.DIRECTORY
            path = above
    return leading
