"""A cluster's cgroups: how its processes are known, all of them, also after their parent died.

Every node has a cgroup in every hierarchy, which is the root of what it sees. What runs for the
cluster outside of the nodes is in the one called `outside`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from crannog.errors import Unavailable
from tests.cluster.local.init import cgroup_mounts

PREFIX = "crannog-cluster."
# Enters the cgroups before it becomes the command.
_ENTER = 'for each in $CRANNOG_CGROUPS; do echo 0 > "$each/cgroup.procs"; done; exec "$@"'
SECONDS = 20.0


def roots() -> tuple[Path, ...]:
    """Where each hierarchy of this machine is mounted.

    Raises:
        Unavailable: none is.
    """
    found = tuple(Path(place) for place, _, _ in cgroup_mounts())
    if not found:
        raise Unavailable("no cgroups are mounted at /sys/fs/cgroup")
    return found


def paths(name: str, place: str) -> tuple[Path, ...]:
    """Where the cgroups of a node or of `outside` are, in every hierarchy."""
    return tuple(root / f"{PREFIX}{name}" / place for root in roots())


def make(name: str, place: str) -> tuple[Path, ...]:
    """The cgroups of a node, or of `outside`, in every hierarchy."""
    made = paths(name, place)
    for path in made:
        for each in (path.parent, path):
            each.mkdir(exist_ok=True)
            _inherit(each)
    return made


def _inherit(path: Path) -> None:
    """Let a new cgroup use what its parent has."""
    for setting in ("cpuset.cpus", "cpuset.mems"):
        file = path / setting
        if file.exists() and not (path / "cgroup.controllers").exists():
            file.write_text((path.parent / setting).read_text())
    available = path.parent / "cgroup.controllers"
    if available.exists():
        for controller in available.read_text().split():
            with contextlib.suppress(OSError):  # one that is in use elsewhere
                (path.parent / "cgroup.subtree_control").write_text(f"+{controller}")


def entering(cgroups: tuple[Path, ...]) -> tuple[str, ...]:
    """What a command is put after to run in these cgroups."""
    listed = " ".join(str(each) for each in cgroups)
    return ("env", f"CRANNOG_CGROUPS={listed}", "sh", "-c", _ENTER, "sh")


def clusters() -> set[str]:
    """The names of clusters that have cgroups on this machine."""
    return {path.name.removeprefix(PREFIX) for root in roots() for path in root.glob(f"{PREFIX}*")}


def end(name: str, place: str = "") -> None:
    """Kill every process of a cluster, or of one place in it, and remove the cgroups.

    Raises:
        Unavailable: some process does not end.
    """
    tops = [top for top in paths(name, place) if top.is_dir()]
    deadline = time.monotonic() + SECONDS
    while left := {pid for top in tops for pid in _processes(top)}:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise Unavailable(f"processes of cluster {name} do not end: {sorted(left)}")
        time.sleep(0.02)  # the kernel takes them apart
    for top in tops:
        _remove(top, deadline)


def _processes(top: Path) -> set[int]:
    found: set[int] = set()
    for file in top.rglob("cgroup.procs"):
        with contextlib.suppress(OSError):
            found.update(int(line) for line in file.read_text().split())
    return found - {0, os.getpid()}


def _remove(top: Path, deadline: float) -> None:
    """Remove a cgroup and those in it; one is busy for a moment after its last process."""
    for directory, _, _ in os.walk(top, topdown=False):
        while True:
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise Unavailable(f"cgroup {directory} cannot be removed") from error
                time.sleep(0.02)
            else:
                break
