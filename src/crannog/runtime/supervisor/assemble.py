"""Putting a supervisor together: limits from the machine, handlers from their modules."""

from __future__ import annotations

import importlib
import os
import sys
import time
from collections.abc import Callable

from crannog.linux.cgroup import read_if_there, unified_groups
from crannog.linux.procfs import Status, parse_status
from crannog.linux.syscalls import Machine
from crannog.runtime.supervisor import parts, table
from crannog.runtime.supervisor.contents import Contents, memory_bound
from crannog.runtime.supervisor.directories import Directories
from crannog.runtime.supervisor.loop import Supervisor
from crannog.runtime.supervisor.namespace import Namespace, Owner
from crannog.runtime.supervisor.world import World
from crannog.shield.model import Protection

_WORKERS = 4
_MOST_DESCRIPTORS = 1 << 20


def assemble(
    machine: Machine, world: World, *, descriptors: int, stop: Callable[[], None]
) -> Supervisor:
    """A supervisor for `world` that has everything but its listener.

    Args:
        machine: whose system calls it will see.
        world: what the program sees over the disk.
        descriptors: how many files this process may have open.
        stop: kills the program.

    Raises:
        crannog.errors.Error: the world cannot be built here.
    """
    _load_what_serving_needs(world)
    status = own_status()
    owner = Owner(status.credentials.uid, status.credentials.gid, time.time_ns())
    namespace = Namespace(world, owner, os.path.realpath)
    room = max(64, min(descriptors, _MOST_DESCRIPTORS))
    contents = Contents(
        namespace,
        memory_limit=memory_bound(_cgroup_limit(), read_if_there("/proc/meminfo")),
        descriptor_limit=room // 2,
        threads=min(4, len(os.sched_getaffinity(0))),
        say=lambda line: print(f"crannog: {line}", file=sys.stderr, flush=True),
    )
    supervisor = Supervisor(
        machine=machine,
        world=world,
        namespace=namespace,
        contents=contents,
        directories=Directories(room // 4),
        workers=_WORKERS,
        own_credentials=status.credentials,
        stop=stop,
    )
    table.register_all(supervisor)
    parts.register(supervisor)
    return supervisor


def _load_what_serving_needs(world: World) -> None:
    """Import now what is imported where it is used: nothing may be, once the program runs.

    The launcher's own files may have become another's to read, or to change, by then.
    """
    opened = [fspf for fspf in (world.fspf, world.base) if fspf is not None]
    regions = [region for fspf in opened for region in fspf.regions]
    if any(region.protection is Protection.AUTHENTICATED for region in regions):
        importlib.import_module("hashlib")  # a start without such a region does not pay for it


def own_status() -> Status:
    """Who we are, as the kernel says it."""
    return parse_status(read_if_there("/proc/thread-self/status"))


def _cgroup_limit() -> bytes:
    """The text of the memory bound that holds for us, the innermost that is one; or nothing."""
    for group in unified_groups():
        text = read_if_there(f"{group}/memory.max").strip()
        if text.isdigit():
            return text
    return read_if_there("/sys/fs/cgroup/memory/memory.limit_in_bytes").strip()
