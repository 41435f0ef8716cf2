"""What the kernel says about a process, as far as it is judged: records out of /proc's texts.

Source: proc(5). Decides nothing. Pure; `crannog.las.process` reads.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from crannog.errors import FormatError

_ESCAPED = re.compile(r"\\([0-7]{3})")
_CAPABILITIES = (b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb")


class FileId(NamedTuple):
    """A file, whatever its name: device and inode as stat(2) gives them."""

    device: int
    inode: int


class Place(NamedTuple):
    """A file or directory on its file system, whatever mount it is seen through.

    Attributes:
        device: MAJOR:MINOR as the mount table says.
        path: from that file system's root.
    """

    device: str
    path: str


class LiveMount(NamedTuple):
    """A line of a mount table.

    Attributes:
        number: its id; `parent` is that of the mount it lies on.
        source: what of which file system is seen there.
        point: where, as the process sees it.
        options: of this mount.
        kind: the file system's type.
    """

    number: int
    parent: int
    source: Place
    point: str
    options: tuple[str, ...]
    kind: str


class ProcessStatus(NamedTuple):
    """Lines of /proc/PID/status.

    Attributes:
        parent: the parent's id.
        tracer: the id of who traces it, or 0.
        user: the effective user id.
        capabilities: the union of the five sets, a bit each.
        filters: how many seccomp filters are on.
        numbers: its ids, one for each PID namespace from the reader's down to its own.
    """

    parent: int
    tracer: int
    user: int
    capabilities: int
    filters: int
    numbers: tuple[int, ...]


class Facts(NamedTuple):
    """A live process.

    Attributes:
        pid: its id in the LAS's PID namespace.
        started: clock ticks since boot.
        owner: the owner of its /proc files: root's where it is not dumpable.
        executable: what it executes.
        groups: the paths of its control groups, one per hierarchy.
        mounts: its mount table, in the table's order.
        pid_namespace: inode; likewise `user_namespace`.
        children: how many child processes it has.
    """

    pid: int
    started: int
    status: ProcessStatus
    owner: int
    executable: FileId
    groups: tuple[str, ...]
    mounts: tuple[LiveMount, ...]
    pid_namespace: int
    user_namespace: int
    children: int


def parse_mounts(data: bytes) -> tuple[LiveMount, ...]:
    """The lines of a mountinfo file; `FormatError`."""
    found: list[LiveMount] = []
    for line in _lines(data):
        before, dash, after = line.partition(" - ")
        fields, rest = before.split(" "), after.split(" ")
        try:
            found.append(
                LiveMount(
                    int(fields[0]),
                    int(fields[1]),
                    Place(fields[2], _plain(fields[3])),
                    _plain(fields[4]),
                    tuple(fields[5].split(",")),
                    rest[0] if dash else "",
                )
            )
        except (IndexError, ValueError) as error:
            raise FormatError("mount table is not as proc(5) describes it") from error
    return tuple(found)


def parse_process_status(data: bytes) -> ProcessStatus:
    """The text of /proc/PID/status; `FormatError`."""
    fields: dict[bytes, bytes] = {}
    for line in data.split(b"\n"):
        name, colon, value = line.partition(b":")
        if colon:
            fields.setdefault(name, value)
    try:
        capabilities = 0
        for name in _CAPABILITIES:
            capabilities |= int(fields[name], 16)
        return ProcessStatus(
            parent=int(fields[b"PPid"]),
            tracer=int(fields[b"TracerPid"]),
            user=int(fields[b"Uid"].split()[1]),
            capabilities=capabilities,
            filters=int(fields[b"Seccomp_filters"]),
            numbers=tuple(int(number) for number in fields[b"NSpid"].split()),
        )
    except (KeyError, IndexError, ValueError) as error:
        raise FormatError("status of a process is not as proc(5) describes it") from error


def parse_started(data: bytes) -> int:
    """The start time in /proc/PID/stat, clock ticks since boot; `FormatError`."""
    # The name in parentheses may hold anything; the fields after its last one are numbers.
    fields = data.rpartition(b")")[2].split()
    if len(fields) < 20 or not fields[19].isdigit():
        raise FormatError("stat of a process is not as proc(5) describes it")
    return int(fields[19])


def parse_misc_devices(data: bytes) -> tuple[tuple[int, str], ...]:
    """The minor numbers and names in /proc/misc, in the file's order; `FormatError`."""
    found: list[tuple[int, str]] = []
    for line in _lines(data):
        number, _, name = line.strip().partition(" ")
        if not (number.isascii() and number.isdigit() and len(number) < 10):
            raise FormatError("the list of miscellaneous devices is not as the kernel writes it")
        found.append((int(number), name))
    return tuple(found)


def parse_groups(data: bytes) -> tuple[str, ...]:
    """The paths in /proc/PID/cgroup, in the file's order; `FormatError`."""
    found: list[str] = []
    for line in _lines(data):
        fields = line.split(":", 2)
        if len(fields) != 3:
            raise FormatError("control groups of a process are not as cgroups(7) describes them")
        found.append(fields[2])
    return tuple(found)


def locate(mounts: tuple[LiveMount, ...], path: str) -> Place | None:
    """What `path` is on its file system, by a mount table; None where nothing is mounted above it.

    The path has to be without links. Of several mounts at one place the last one counts.
    """
    best: LiveMount | None = None
    for mount in mounts:
        if below(path, mount.point) and (best is None or len(mount.point) >= len(best.point)):
            best = mount
    if best is None:
        return None
    rest = path[len(best.point) :].strip("/") if best.point != "/" else path.strip("/")
    whole = f"{best.source.path.rstrip('/')}/{rest}".rstrip("/")
    return Place(best.source.device, whole or "/")


def below(path: str, directory: str) -> bool:
    """Whether `path` is `directory` or lies in it, by name."""
    return directory == "/" or path == directory or path.startswith(directory + "/")


def _lines(data: bytes) -> list[str]:
    # The kernel escapes a newline in a name and nothing else that str.splitlines takes for one.
    text = data.decode("utf-8", "surrogateescape").removesuffix("\n")
    return text.split("\n") if text else []


def _plain(text: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match.group(1), 8)), text)
