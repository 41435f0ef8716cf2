"""Which of our devices the kubelet has given to containers, from the file that it keeps.

The file is the kubelet's own and no interface: what is not as expected is not known, and nothing
but a line in the log and a gauge depends on it. docs/formats/device-plugin.md.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from crannog.errors import FormatError
from crannog.kubernetes.resources import RESOURCES, Mode
from crannog.wire import Json, parse_object

CHECKPOINT = "kubelet_internal_checkpoint"
_MAX_BYTES = 16 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NAMES = frozenset(resource.name for resource in RESOURCES)


def read_checkpoint(directory: Path) -> Mapping[Mode, int] | None:
    """How many devices of each mode containers have, by the kubelet in `directory`.

    Containers that have ended may still be counted: the kubelet forgets them at its next
    allocation. None where it cannot be read, or is of a form that is not known.
    """
    try:
        descriptor = os.open(directory / CHECKPOINT, _READ)
    except OSError:
        return None
    try:
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            data = file.read(_MAX_BYTES + 1)
    except OSError:
        return None
    return parse_checkpoint(data)


def parse_checkpoint(data: bytes) -> Mapping[Mode, int] | None:
    """As `read_checkpoint`, from the file's content."""
    try:
        document = parse_object(data, limit=_MAX_BYTES, what="checkpoint")
    except FormatError:
        return None
    content = document.get("Data")
    entries = content.get("PodDeviceEntries") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        nothing = isinstance(content, dict) and entries is None
        return dict.fromkeys(Mode, 0) if nothing else None
    found = dict.fromkeys(Mode, 0)
    for entry in entries:
        if isinstance(entry, dict) and entry.get("ResourceName") in _NAMES:
            for device_id in _ids(entry.get("DeviceIDs")):
                for mode in Mode:
                    found[mode] += device_id.startswith(f"{mode.value}-")
    return found


def _ids(by_numa_node: Json) -> Iterator[str]:
    if isinstance(by_numa_node, dict):
        for ids in by_numa_node.values():
            if isinstance(ids, list):
                yield from (each for each in ids if isinstance(each, str))
