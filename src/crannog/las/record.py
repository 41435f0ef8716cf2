"""A container as the runtime recorded it: config.json, the runtime's state, and where it runs.

Frozen data only; `crannog.las.records` reads it, `crannog.las.witness` judges it.
"""

from __future__ import annotations

import posixpath
from typing import NamedTuple

from crannog.errors import FormatError
from crannog.evidence.subject import Container
from crannog.las.documents import Document
from crannog.las.facts import Place
from crannog.las.oci import Oci
from crannog.wire import parse_object

STATE_LIMIT = 4 << 20


class State(NamedTuple):
    """What the OCI runtime noted when it started the container.

    Attributes:
        id: the container's.
        pid: its init's.
        started: its init's start time, clock ticks since boot.
        root: the root file system's absolute path on the node.
        bundle: the directory whose config.json it took.
    """

    id: str
    pid: int
    started: int
    root: str
    bundle: str


class Record(NamedTuple):
    """Everything that is recorded about one container.

    Attributes:
        bundle: the directory that config.json was read from, as the node names it.
        pid: the init's, by the engine's own pid file.
        runtime: what runs it, as `runtimes` in the witness lists them.
        bends: what else was found that is not known to be harmless, a phrase each.
        oci: config.json.
        state: the runtime's note.
        container: what may be claimed of it.
    """

    bundle: str
    pid: int
    runtime: str
    bends: tuple[str, ...]
    oci: Oci
    state: State
    container: Container


class Release(NamedTuple):
    """The node's launcher and this LAS's socket, as a container has to see them.

    Attributes:
        digest: of the launcher directory, 32 bytes.
        loader: device and inode of its lib/ld.so, which is what a launcher process executes.
        launcher: the launcher directory.
        socket: the directory that holds the LAS's socket, or None where it has none.
    """

    digest: bytes
    loader: tuple[int, int]
    launcher: Place
    socket: Place | None


def plain(path: str) -> str:
    """A path of the node for comparing: /var/run is /run wherever these engines are."""
    path = posixpath.normpath(path)
    return path[4:] if path.startswith("/var/run/") else path


def parse_runc_state(data: bytes) -> State:
    """The state.json of runc (libcontainer's State); raises `FormatError` or `TooLarge`."""
    whole = Document(parse_object(data, limit=STATE_LIMIT, what="state.json"), "state.json")
    config = whole.object("config")
    bundle = ""
    for label in config.texts("labels"):
        name, _, value = label.partition("=")
        if name == "bundle":
            bundle = value
    return _state(
        whole.text("id"),
        whole.number("init_process_pid"),
        whole.number("init_process_start"),
        config.text("rootfs"),
        bundle,
    )


def parse_crun_status(data: bytes, container: str) -> State:
    """The status file of crun, in a directory named after the container; `FormatError`."""
    whole = Document(parse_object(data, limit=STATE_LIMIT, what="status"), "status")
    return _state(
        container,
        whole.number("pid"),
        whole.number("process-start-time"),
        whole.text("rootfs"),
        whole.text("bundle"),
    )


def _state(container: str, pid: int | None, started: int | None, root: str, bundle: str) -> State:
    if not container or not pid or pid < 0 or not started or started < 0:
        raise FormatError("the runtime's state names no init process and its start time")
    return State(container, pid, started, root, bundle)
