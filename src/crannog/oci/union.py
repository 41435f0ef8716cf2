"""What programs see of several layers: the union, as container engines show it.

Layers are applied in order, the lowest first. A whiteout `.wh.NAME` hides NAME of the layers below,
the opaque marker `.wh..wh..opq` everything that those have in its directory; neither touches what
its own layer has, wherever it stands there. A directory over a directory merges; anything else
replaces. A hard link is another name of the same file. Links are not followed: a member whose path
leads through a link is unpacked differently by different engines, and so is only noted
(`Union.detours`).
Specification: OCI image format 1.1, `layer.md`, "Applying Changesets" and "Whiteouts".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from crannog.errors import FormatError
from crannog.oci.names import absolute, join, parent
from crannog.oci.tar import Member, Type

WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
_RESERVED = b".wh..wh."  # AUFS kept its own files under such names
_MAX_LINKS = 40


class Place(NamedTuple):
    """Which member of which layer: both are counted from 0."""

    layer: int
    number: int


@dataclass(slots=True)
class File:
    """Anything but a directory.

    Attributes:
        place: the member that holds the content.
        member: its header; of the first name where it has several.
        paths: every name that was ever given to it, in the order of the layers.
    """

    place: Place
    member: Member
    paths: list[tuple[Place, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class Directory:
    """A directory; `member` is None where only what lies in it says that it is there."""

    place: Place
    member: Member | None
    children: dict[bytes, Node] = field(default_factory=dict)


Node = File | Directory


class Detour(NamedTuple):
    """A member whose path leads through a symbolic link.

    Attributes:
        layer: the member's.
        path: the directory as it is named there.
        link: the link on the way.
        target: where the link led; empty where it led nowhere.
    """

    layer: int
    path: bytes
    link: bytes
    target: bytes


class Union:
    """The union of the layers applied so far."""

    def __init__(self) -> None:
        self.root = Directory(Place(-1, 0), None)
        self.detours: list[Detour] = []
        self._layer = -1
        self._names: dict[bytes, bool] = {}  # of this layer: whether it is a directory

    def apply(self, place: Place, member: Member) -> File | None:
        """Apply one member; the file that it brings or names, or None.

        Raises:
            FormatError: a hard link to what is not there or to a directory, a whiteout of nothing,
                a name that is there twice in the layer.
        """
        if member.type is Type.COMMENT:
            return None
        directory, _, name = member.name.rpartition(b"/")
        if name.startswith(WHITEOUT):
            self._whiteout(place, directory, name)
            return None
        if not member.name:
            self.root.member = member
            return None
        self._refuse_twice(place, member)
        if member.type is Type.DIRECTORY:
            self._directory(place, member)
            return None
        linked = member.type is Type.HARD_LINK
        file = self._linked(member) if linked else File(place, member)
        file.paths.append((place, member.name))
        self._parent(place, directory).children[name] = file
        return file

    def lookup(self, path: bytes) -> Node | None:
        """What lies at relative `path`, or None. No link is followed, also not on the way."""
        node: Node = self.root
        for part in path.split(b"/") if path else ():
            if not isinstance(node, Directory) or part not in node.children:
                return None
            node = node.children[part]
        return node

    def resolve(self, path: bytes) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Where relative `path` leads when links are followed, and through which paths.

        None where it leads nowhere. The paths are those of the links that were followed.
        """
        done: list[bytes] = []
        left = path.split(b"/")[::-1]
        seen: list[bytes] = []
        while left:
            part = left.pop()
            if part in (b"", b"."):
                continue
            if part == b"..":
                del done[-1:]
                continue
            done.append(part)
            here = b"/".join(done)
            node = self.lookup(here)
            if node is None:
                return None
            if isinstance(node, File) and node.member.type is Type.LINK:
                seen.append(here)
                if len(seen) > _MAX_LINKS:
                    return None
                done.pop()
                if node.member.target.startswith(b"/"):
                    done = []
                left += node.member.target.split(b"/")[::-1]
        return b"/".join(done), tuple(seen)

    def walk(self, root: bytes = b"") -> Iterator[tuple[bytes, Node]]:
        """`root` and everything below it, sorted by path within each directory, parents first."""
        node = self.lookup(root)
        if node is None:
            return
        pending: list[tuple[bytes, Node]] = [(root, node)]
        while pending:
            path, node = pending.pop()
            yield path, node
            if isinstance(node, Directory):
                pending += [
                    (join(path, name), node.children[name])
                    for name in sorted(node.children, reverse=True)
                ]

    def _refuse_twice(self, place: Place, member: Member) -> None:
        """One layer says once what lies at a path: engines differ in who wins.

        A directory may be named again, and is by what lies in it.
        """
        if place.layer != self._layer:
            self._layer, self._names = place.layer, {}
        name, is_directory = member.name, member.type is Type.DIRECTORY
        while name:
            known = self._names.get(name)
            if known is not None and not (known and is_directory):
                raise FormatError(f"{absolute(name)} is there twice, as different things")
            self._names[name] = is_directory
            if known:
                return  # and so are the directories above
            name, is_directory = parent(name), True

    def _directory(self, place: Place, member: Member) -> None:
        directory, _, name = member.name.rpartition(b"/")
        above = self._parent(place, directory)
        found = above.children.get(name)
        if isinstance(found, Directory):
            found.place, found.member = place, member
        else:
            above.children[name] = Directory(place, member)

    def _parent(self, place: Place, directory: bytes) -> Directory:
        """The directory of that path, which is made where it is not there."""
        node = self.root
        at = b""
        for part in directory.split(b"/") if directory else ():
            at = join(at, part)
            found = node.children.get(part)
            if not isinstance(found, Directory):
                if found is not None and found.member.type is Type.LINK:
                    target = self.resolve(at)
                    self.detours.append(
                        Detour(place.layer, directory, at, target[0] if target else b"")
                    )
                found = node.children[part] = Directory(place, None)
            node = found
        return node

    def _linked(self, member: Member) -> File:
        node = self.lookup(member.target)
        if not isinstance(node, File):
            what = "is not there" if node is None else "is a directory"
            raise FormatError(
                f"hard link {absolute(member.name)} names {absolute(member.target)}, which {what}"
            )
        return node

    def _whiteout(self, place: Place, directory: bytes, name: bytes) -> None:
        node = self.lookup(directory)
        if name == OPAQUE:
            if isinstance(node, Directory):
                _hide(node, directory, place.layer)
            return
        hidden = name.removeprefix(WHITEOUT)
        if name.startswith(_RESERVED):
            return  # AUFS's own: no engine makes a file of them
        if not hidden or hidden in (b".", b".."):
            raise FormatError(f"whiteout {absolute(join(directory, name))} hides nothing")
        if isinstance(node, Directory):
            found = node.children.get(hidden)
            if found is not None and not _keep(found, join(directory, hidden), place.layer):
                del node.children[hidden]


def _hide(directory: Directory, path: bytes, layer: int) -> None:
    """Take away what layers below `layer` have in `directory`, which lies at `path`."""
    for name in list(directory.children):
        if not _keep(directory.children[name], join(path, name), layer):
            del directory.children[name]


def _keep(node: Node, path: bytes, layer: int) -> bool:
    """Whether `node` is there without the layers below `layer`; a directory loses what is not."""
    if isinstance(node, File):
        return any(place.layer == layer and name == path for place, name in node.paths)
    _hide(node, path, layer)
    return node.place.layer == layer or bool(node.children)
