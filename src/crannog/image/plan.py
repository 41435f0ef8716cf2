"""What has to happen to an image for a request: pure, from a scan of its layers.

For each layer the members that go; for each file of a protected path the member that holds its
content; for directories and links their entries in the fspf. Refusals are `check`'s.
"""

from __future__ import annotations

from typing import NamedTuple

from crannog.image.request import Request
from crannog.oci.names import is_below, parent
from crannog.oci.scan import Scan
from crannog.oci.tar import Member, Type
from crannog.oci.union import Directory, Place
from crannog.shield.model import DirectoryEntry, Entry, LinkEntry, Protection

_ROOT_MODE = 0o755
# Shorter contents are the same by chance, or empty.
COPY_LENGTH = 32


class Plan(NamedTuple):
    """What is done to the layers.

    Attributes:
        drop: for each layer, the numbers of the members that do not stay.
        hide: those of them that become whiteouts, since they hide what a lower layer has there.
        wanted: the member that holds a file's content, with the file's names in protected paths.
        entries: directories and links of protected paths, by relative path.
        links: links of encrypted paths, which the new layer has too.
        directories: directories of encrypted paths, parents first.
        copies: visible files elsewhere with the content of an encrypted one.
        shared: visible names elsewhere of a file whose content goes with an encrypted path.
    """

    drop: tuple[frozenset[int], ...]
    hide: tuple[frozenset[int], ...]
    wanted: dict[Place, list[tuple[bytes, Protection]]]
    entries: dict[bytes, Entry]
    links: tuple[tuple[bytes, bytes], ...]
    directories: tuple[bytes, ...]
    copies: tuple[bytes, ...]
    shared: tuple[bytes, ...]


def make_plan(scan: Scan, request: Request) -> Plan:
    """The plan for a request that `check` has nothing against, or finds its objections in."""
    encrypted = [path[1:] for path in request.encrypt]
    wanted: dict[Place, list[tuple[bytes, Protection]]] = {}
    entries: dict[bytes, Entry] = {}
    links: list[tuple[bytes, bytes]] = []
    directories: list[bytes] = []
    for root, protection in _roots(request):
        for path, node in scan.union.walk(root):
            hidden = protection is Protection.ENCRYPTED
            if isinstance(node, Directory):
                entries[path] = _directory(node.member)
                if hidden:
                    directories.append(path)
            elif node.member.type is Type.LINK:
                member = node.member
                entries[path] = LinkEntry(member.target, member.uid, member.gid, member.mtime_ns)
                if hidden:
                    links.append((path, member.target))
            else:
                wanted.setdefault(node.place, []).append((path, protection))
    drop = [_dropped(names, encrypted) for names in scan.touched]
    hide: list[set[int]] = [set() for _ in drop]
    copies, shared = _elsewhere(scan, encrypted, drop, hide)
    return Plan(
        tuple(frozenset(numbers) for numbers in drop),
        tuple(frozenset(numbers) for numbers in hide),
        wanted,
        entries,
        tuple(links),
        tuple(directories),
        copies,
        shared,
    )


def _roots(request: Request) -> list[tuple[bytes, Protection]]:
    return [(path[1:], Protection.ENCRYPTED) for path in request.encrypt] + [
        (path[1:], Protection.AUTHENTICATED) for path in request.authenticate
    ]


def _dropped(names: tuple[tuple[bytes, Type], ...], encrypted: list[bytes]) -> set[int]:
    """The members of a layer that lie in an encrypted path; none where only its root does."""
    inside = {
        number: (name, kind)
        for number, (name, kind) in enumerate(names)
        if kind is not Type.COMMENT and any(is_below(name, root) for root in encrypted)
    }
    if all(kind is Type.DIRECTORY and name in encrypted for name, kind in inside.values()):
        return set()  # such a layer holds nothing that the new one would not show
    return set(inside)


def _elsewhere(
    scan: Scan, encrypted: list[bytes], drop: list[set[int]], hide: list[set[int]]
) -> tuple[tuple[bytes, ...], tuple[bytes, ...]]:
    """Contents of encrypted files under other names: hidden ones are dropped, visible ones told.

    A hidden one (in a layer below the one that deleted or replaced it) can go without anybody
    noticing. Files that had the path before count as well.
    """

    def inside(name: bytes) -> bool:
        return any(is_below(name, root) for root in encrypted)

    secret = {
        found.digest
        for found in scan.shipped
        if found.size >= COPY_LENGTH and any(inside(name) for _, name in found.file.paths)
    }
    first = _first_layers(scan)
    copies: set[bytes] = set()
    shared: set[bytes] = set()
    for found in scan.shipped:
        outside = [(place, name) for place, name in found.file.paths if not inside(name)]
        linked = len(outside) < len(found.file.paths)
        if not outside or not (linked or found.digest in secret):
            continue
        visible = {name for _, name in outside if scan.union.lookup(name) is found.file}
        if not visible:
            for place, name in outside:
                drop[place.layer].add(place.number)
                if first[name] < place.layer:
                    hide[place.layer].add(place.number)
        elif linked:
            shared |= visible
        else:
            copies |= visible
    return tuple(sorted(copies)), tuple(sorted(shared))


def _first_layers(scan: Scan) -> dict[bytes, int]:
    """The lowest layer that has something at, or below, each path."""
    first: dict[bytes, int] = {}
    for layer, names in enumerate(scan.touched):
        for name, _ in names:
            while name not in first:
                first[name] = layer
                name = parent(name)
    return first


def _directory(member: Member | None) -> DirectoryEntry:
    if member is None:
        return DirectoryEntry(_ROOT_MODE, 0, 0, 0)
    return DirectoryEntry(member.mode, member.uid, member.gid, member.mtime_ns)
