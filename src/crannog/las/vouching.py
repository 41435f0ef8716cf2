"""What the LAS finds about a process that asks on the Unix socket: its container, and the verdict.

The shell around `witness`: reads records and facts, and reads the facts a second time once all is
decided. What cannot be read is a reason like any other.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from crannog.errors import Denied, Error
from crannog.exchange.las import QuoteRequest
from crannog.las.facts import Facts, LiveMount, Place, locate
from crannog.las.powers import enclave_devices
from crannog.las.process import Process, filters_of, misc_devices, mounts_of, own_namespace
from crannog.las.record import Record, Release, plain
from crannog.las.records.find import container_ids, find, readable
from crannog.las.records.places import Places
from crannog.las.release import Launchers
from crannog.las.told import told
from crannog.las.tree import Tree
from crannog.las.witness import Node, Told, judge, without_release

_MOST_REASONS = 5
_LOOK_AGAIN = 1.0  # seconds, while something is missing

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO of linux/proc_ns.h


class Verdict(NamedTuple):
    """What was found.

    Attributes:
        reasons: why the LAS does not vouch; none: it does.
        told: what the container's record tells the launcher; None where there is none.
        record: likewise.
        facts: what the process was when it was judged.
        release: the launcher that it was compared with.
    """

    reasons: tuple[str, ...]
    told: Told | None = None
    record: Record | None = None
    facts: Facts | None = None
    release: Release | None = None


class Run(NamedTuple):
    """A container from its start to its end; another once it has been started again."""

    container: str
    pid: int
    started: int


class Witness:
    """Looks at processes on this node.

    Args:
        launchers: the launchers that its containers may have.
        socket: the directory of the LAS's socket; None where it has none.
        tree: the node's files.
        places: where its engines keep their records.
    """

    def __init__(
        self, launchers: Launchers, socket: Place | None, tree: Tree, places: Places
    ) -> None:
        self.launchers = launchers
        self._socket = socket
        self._tree = tree
        self._places = places
        self._reading = threading.Lock()
        self._missing = ""
        self._looked: float | None = None

    def unready(self) -> str:
        """Why nothing can be vouched for by this LAS at all; "" where it can be.

        Looked at again at most once a second until it can: launchers and records may come after
        the LAS. What goes missing later is a reason of each statement.
        """
        now = time.monotonic()
        if self._looked is None or (self._missing and now - self._looked >= _LOOK_AGAIN):
            self._missing = self._look()
            self._looked = now
        return self._missing

    def _look(self) -> str:
        if self._socket is None:
            return "there is no Unix socket of the LAS that containers could be given"
        try:
            init = mounts_of(1)
        except Denied as error:
            return error.message
        # In a container without the node's PID namespace, process 1 is the container's.
        if own_namespace("pid") != _INITIAL_PID_NAMESPACE and init == mounts_of("self"):
            return "the LAS is not in the PID namespace of the node (--pid=host)"
        if not readable(self._tree, self._places):
            return "no container engine's records can be read"
        return self.launchers.unready()

    def records(self) -> tuple[str, ...]:
        """The record directories that it reads."""
        return readable(self._tree, self._places)

    def judge(self, process: Process, request: QuoteRequest) -> Verdict:
        """The verdict on a process that asks for `request`."""
        try:
            record = self._record(process)
            facts = process.facts()
            node = self._node(record, facts)
            said = told(record.oci.environment)
        except Error as error:
            return Verdict((error.message,))
        try:
            release = self.launchers.find(request.launcher)
        except Denied as error:
            reasons = (error.message, *without_release(record, facts))
            return Verdict(_first(reasons), said, record, facts)
        reasons = judge(record, facts, release, node, said, request)
        return Verdict(_first(reasons), said, record, facts, release)

    def unchanged(self, process: Process, verdict: Verdict) -> bool:
        """Whether the process is still what it was when it was judged."""
        try:
            return process.facts() == verdict.facts
        except Error:
            return False

    def container(self, process: Process) -> Run | None:
        """The container that a process is in; None where unknown."""
        try:
            record = self._record(process)
        except Error:
            return None
        return run_of(record)

    def _record(self, process: Process) -> Record:
        groups = process.groups()
        # One at a time: a long one takes many times its size while it is read, and whoever may
        # start pods writes how long they are. Nothing else waits: these are the node's own files.
        with self._reading:
            return find(self._tree, self._places, groups)

    def _node(self, record: Record, facts: Facts) -> Node:
        init = mounts_of(1)
        return Node(
            filters=filters_of(1),
            mounts=frozenset(mount.number for mount in (*init, *mounts_of("self"))),
            pid_namespace=own_namespace("pid"),
            user_namespace=own_namespace("user"),
            enclave_devices=enclave_devices(misc_devices()),
            root=_recorded_root(record, facts, init),
        )


def _first(reasons: tuple[str, ...]) -> tuple[str, ...]:
    """The first reasons, each once, and how many more there are."""
    reasons = tuple(dict.fromkeys(reasons))
    if len(reasons) <= _MOST_REASONS:
        return reasons
    return (*reasons[:_MOST_REASONS], f"{len(reasons) - _MOST_REASONS} more")


def run_of(record: Record) -> Run:
    """The container of a record."""
    return Run(record.container.id, record.state.pid, record.state.started)


def asker(process: Process) -> tuple[str, bool] | None:
    """Whose connection it is: a container's, and whether its init's; None for no container."""
    try:
        ids = container_ids(process.groups())
        return (ids[0], process.status().numbers[1:] == (1,)) if ids else None
    except Error:
        return None


def _recorded_root(record: Record, facts: Facts, init: tuple[LiveMount, ...]) -> Place | None:
    path = record.oci.root
    if not path.startswith("/"):
        path = f"{record.bundle}/{path}"
    path = plain(path)
    if path != plain(record.state.root):
        return None
    live = next((mount.source for mount in facts.mounts if mount.point == "/"), None)
    place = locate(init, path)
    if place == live:
        return place
    # An engine with a mount namespace of its own: its process started the container's.
    try:
        return locate(mounts_of(facts.status.parent), path)
    except Denied:
        return place
