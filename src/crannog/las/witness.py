"""(A) May the LAS vouch that this process is the node's launcher, started by the runtime?

One function per row of the table in docs/formats/las.md, "What is checked". Each yields the reasons
against; none at all is the only way to level node. Pure: records and facts in, reasons out. A fact
that is missing has no default here: who could not read it does not get this far.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from crannog.evidence.subject import Pins
from crannog.exchange.las import QuoteRequest
from crannog.las import bends, powers
from crannog.las.facts import Facts, LiveMount, Place, below
from crannog.las.oci import Mount
from crannog.las.record import Record, Release, plain

HOME = "/run/crannog"
LAUNCHER = f"{HOME}/launcher"
SOCKET = f"{HOME}/las"
ENTRY = f"{LAUNCHER}/run"

_ABOVE = ("/run", "/run/crannog")
_BIND = frozenset({"bind", "rbind"})
_READ_ONLY = frozenset({"ro", "rro"})
_OTHER_OPTIONS = frozenset({"private", "rprivate", "nosuid", "nodev", "relatime", "noatime"})


class Told(NamedTuple):
    """What the container's record tells the launcher, as the launcher reads it."""

    config_id: str
    cas: str
    pins: Pins


class Node(NamedTuple):
    """The node, as far as processes are compared with it.

    Attributes:
        mounts: the ids of the mounts that the node's init has. The kernel gives an id to one mount
            in one namespace.
        filters: how many seccomp filters the node's init has, as all of its processes.
        pid_namespace: inode of the node's; likewise `user_namespace`.
        enclave_devices: major and minor numbers of its devices of SGX.
        root: what is at the container's recorded root, by a mount table of the node; None where
            no table that could be read knows it.
    """

    mounts: frozenset[int]
    filters: int
    pid_namespace: int
    user_namespace: int
    enclave_devices: frozenset[tuple[int, int]]
    root: Place | None


def judge(
    record: Record, facts: Facts, release: Release, node: Node, told: Told, request: QuoteRequest
) -> tuple[str, ...]:
    """Every reason why this process is not vouched for; empty is: vouch."""
    return (
        *started_by_entry(record),
        *is_recorded_init(record, facts),
        *recorded_mounts(record),
        *live_mounts(record, facts, release),
        *runs_loader(facts, release),
        *root_as_recorded(facts, node),
        *own_namespaces(record, facts, node),
        *powers.powers(record.oci, facts, node.enclave_devices),
        *recorded_filters(record, facts, node),
        *bends.bends(record),
        *as_told(told, request),
        *launcher_as_ours(release, request),
        *on_root(request),
    )


def without_release(record: Record, facts: Facts) -> tuple[str, ...]:
    """What can be said where the node has no launcher to compare with, beside that reason."""
    return (
        *started_by_entry(record),
        *is_recorded_init(record, facts),
        *recorded_mounts(record),
    )


def started_by_entry(record: Record) -> Iterator[str]:
    """Code from the image before or instead of the launcher."""
    if record.oci.program != ENTRY:
        yield f"the container was started as {record.oci.program[:100]!r}, expected {ENTRY}"


def is_recorded_init(record: Record, facts: Facts) -> Iterator[str]:
    """Another process of the container, a stale record, a reused process id."""
    if facts.pid != record.pid or facts.pid != record.state.pid:
        yield "the process is not the container's init by the runtime's record"
    if facts.started != record.state.started:
        yield "the record is stale: the runtime started its init at another time"
    if facts.status.numbers[1:] != (1,):
        yield "the process is not process 1 of a PID namespace directly below the node's"
    if record.state.id != record.container.id:
        yield "the runtime's state is of another container"
    if record.state.bundle and plain(record.state.bundle) != plain(record.bundle):
        yield "the runtime took its configuration from another directory than the record's"
    yield from _groups(record, facts)
    if facts.children:
        yield "the process has child processes, the launcher has none before its evidence"


def recorded_mounts(record: Record) -> Iterator[str]:
    """A mount over, inside or above the launcher, as recorded."""
    found: dict[str, Mount] = {}
    for mount in record.oci.mounts:
        point = _normal(mount.destination)
        if point is None:
            yield f"a recorded mount has destination {mount.destination[:100]!r}"
            continue
        if point == "/" or (point in _ABOVE and not _is_new(mount, "tmpfs")):
            yield f"something is mounted at {point}, above the launcher, that is not a tmpfs"
        if below(point, "/proc") and (point != "/proc" or not _is_new(mount, "proc")):
            yield f"something is mounted at {point[:100]}"
        if below(point, HOME) and point != HOME:
            if point not in (LAUNCHER, SOCKET) or point in found:
                yield f"something else is mounted at {point[:100]}"
            found[point] = mount
    for point in (LAUNCHER, SOCKET):
        if point not in found:
            yield f"the record has no mount at {point}"
        elif not _is_bind(found[point]):
            yield f"the recorded mount at {point} is not a read-only private bind mount"


def live_mounts(record: Record, facts: Facts, release: Release) -> Iterator[str]:
    """The same in the live mount table, and that it is this node's launcher and LAS."""
    recorded = {_normal(mount.destination) for mount in record.oci.mounts}
    at: dict[str, LiveMount] = {}
    for mount in facts.mounts:
        watched = mount.point in ("/", "/proc", *_ABOVE) or below(mount.point, HOME)
        if not watched:
            if _hides_self(mount.point):
                yield f"something is mounted at {mount.point[:100]}"
            continue
        if mount.point in at:
            yield f"two mounts lie on one another at {mount.point[:100]}"
        at[mount.point] = mount
    for point, mount in at.items():
        if point in _ABOVE and (mount.kind != "tmpfs" or mount.source.path != "/"):
            yield f"something is mounted at {point}, above the launcher, that is not a tmpfs"
        if point in _ABOVE and point not in recorded:
            yield f"the mount at {point}, above the launcher, is not in the record"
        if below(point, HOME) and point not in (HOME, LAUNCHER, SOCKET):
            yield f"something else is mounted at {point[:100]}"
    root = at.get("/")
    if root is None:
        yield "the process's mount table has no root"
        return
    for point, expected, what in (
        (LAUNCHER, release.launcher, "this node's launcher"),
        (SOCKET, release.socket, "this LAS's socket directory"),
    ):
        if point not in at:
            yield f"nothing is mounted at {point}"
            continue
        if "ro" not in at[point].options:
            yield f"the mount at {point} is not read-only"
        if expected is None or at[point].source != expected:
            yield f"the mount at {point} is not {what}"
        # Not hidden under something that was mounted above it later.
        above = next((at[one] for one in reversed(_ABOVE) if one in at), root)
        if at[point].parent != above.number:
            yield f"the mount at {point} does not lie on what is mounted above it"
    proc = at.get("/proc")
    if proc is None or proc.kind != "proc" or proc.source.path != "/":
        yield "what is mounted at /proc is not a whole proc file system"


def runs_loader(facts: Facts, release: Release) -> Iterator[str]:
    """What executes is the release's own loader, the very file."""
    if tuple(facts.executable) != tuple(release.loader):
        yield "the process does not execute the node's launcher"


def root_as_recorded(facts: Facts, node: Node) -> Iterator[str]:
    """The root file system is the recorded one, so that the image of the claims is the image."""
    live = next((mount.source for mount in facts.mounts if mount.point == "/"), None)
    if node.root is None:
        yield "the node's mount table does not show the container's recorded root"
    elif live != node.root:
        yield "the container's root is not the recorded one"


def own_namespaces(record: Record, facts: Facts, node: Node) -> Iterator[str]:
    """Someone who can reach into it from beside: shared or the host's namespaces."""
    kinds = [space.kind for space in record.oci.namespaces]
    for space in record.oci.namespaces:
        if space.kind not in ("pid", "mount", "network", "ipc", "uts", "cgroup"):
            yield f"the record has a namespace of type {space.kind[:40]!r}"
        elif space.kind in ("pid", "mount") and space.path:
            yield f"the container shares the {space.kind} namespace of another"
    for kind in ("pid", "mount"):
        if kinds.count(kind) != 1:
            yield f"the container has no {kind} namespace of its own"
    if record.oci.mapped:
        yield "the container has user id mappings"
    if facts.pid_namespace == node.pid_namespace:
        yield "the process is in the host's PID namespace"
    if any(mount.number in node.mounts for mount in facts.mounts):
        yield "the process is in the host's mount namespace"
    if facts.user_namespace != node.user_namespace:
        yield "the process is in a user namespace"


def recorded_filters(record: Record, facts: Facts, node: Node) -> Iterator[str]:
    """The recorded seccomp profile is on, and no other filter: one could notify somebody.

    Where the record has none, and may have none (`bends`), there is no filter at all.
    """
    expected = 0 if record.oci.seccomp is None else 1
    more = facts.status.filters - node.filters
    if more != expected:
        yield (
            f"the process has {more} seccomp filters more than the node's init, expected {expected}"
        )


def as_told(told: Told, request: QuoteRequest) -> Iterator[str]:
    """Another configuration or CAS than the record's."""
    if request.config_id != told.config_id:
        yield "the configuration id asked for is not the one in the container's record"
    if request.cas != told.cas:
        yield "the CAS asked is not the one in the container's record"
    if request.pins != told.pins:
        yield "the pins are not those in the container's record"


def launcher_as_ours(release: Release, request: QuoteRequest) -> Iterator[str]:
    """The launcher claims to be what the node brought."""
    if request.launcher != release.digest:
        yield "the launcher's digest is not that of the node's launcher"


def on_root(request: QuoteRequest) -> Iterator[str]:
    """What was measured is the image's, not a volume's."""
    if request.foreign:
        yield f"{request.foreign[:200]!r} was measured and is not on the container's root mount"


def _groups(record: Record, facts: Facts) -> Iterator[str]:
    # Compared by the last name: a LAS in a control group namespace sees the rest relative to it.
    path = record.oci.cgroup
    if path.startswith("/"):
        expected = path.rstrip("/").rpartition("/")[2]
    else:
        # runc's systemd form, SLICE:PREFIX:NAME
        parts = path.split(":")
        expected = f"{parts[1]}-{parts[2]}.scope" if len(parts) == 3 else ""
    # crun may put a group of its own into a scope of systemd's.
    inside = [group.removesuffix("/container") for group in facts.groups if group.strip("/.")]
    if record.container.id not in expected:
        yield "the recorded control group is not the container's own"
    elif not inside or any(group.rpartition("/")[2] != expected for group in inside):
        yield "the process is not in the recorded control group"


def _is_new(mount: Mount, kind: str) -> bool:
    """Whether the runtime mounts a file system of its own there, and not what somebody else has."""
    return mount.kind == kind and not mount.mapped and not _BIND & set(mount.options)


def _is_bind(mount: Mount) -> bool:
    options = set(mount.options)
    return (
        mount.kind == "bind"
        and not mount.mapped
        and bool(options & _READ_ONLY)
        and bool(options & _BIND)
        and options <= _BIND | _READ_ONLY | _OTHER_OPTIONS
    )


def _hides_self(point: str) -> bool:
    name = point.removeprefix("/proc/").partition("/")[0]
    return point.startswith("/proc/") and (name in ("self", "thread-self") or name.isdigit())


def _normal(path: str) -> str | None:
    """An absolute path without its last slash; None where it could mean something else."""
    path = path.rstrip("/") or "/"
    parts = path.split("/")[1:]
    if not path.startswith("/") or (path != "/" and any(p in ("", ".", "..") for p in parts)):
        return None
    return path
