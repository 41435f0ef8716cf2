"""The recorded genuine containers as the witness takes them, and with one thing changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from crannog.evidence.subject import Container, Pins
from crannog.exchange.las import QuoteRequest
from crannog.las.facts import (
    Facts,
    FileId,
    Place,
    locate,
    parse_groups,
    parse_mounts,
    parse_process_status,
    parse_started,
)
from crannog.las.oci import parse_oci
from crannog.las.record import Record, Release, parse_runc_state
from crannog.las.told import told
from crannog.las.witness import Node, Told, judge

DIRECTORY = Path(__file__).parent / "recorded"
ENGINES = ("docker", "podman", "containerd", "containerd-2")
"""Of which there is a record; the last two are the kubelet's, by two versions."""
DEVICE = "254:0"
DIGEST = b"d" * 32
LOADER = FileId(65024, 770613)

Document = dict[str, Any]


class Case(NamedTuple):
    """Everything that is judged."""

    record: Record
    facts: Facts
    release: Release
    node: Node
    told: Told
    request: QuoteRequest

    def reasons(self) -> tuple[str, ...]:
        """The verdict."""
        return judge(*self)

    def with_record(self, **changes: object) -> Case:
        """Fields of the record replaced."""
        return self._replace(record=self.record._replace(**changes))  # type: ignore[arg-type]

    def with_facts(self, **changes: object) -> Case:
        """Facts replaced."""
        return self._replace(facts=self.facts._replace(**changes))  # type: ignore[arg-type]

    def with_request(self, **changes: object) -> Case:
        """Fields of the request replaced."""
        return self._replace(request=self.request._replace(**changes))  # type: ignore[arg-type]

    def with_mounts(self, change: Callable[[str], str]) -> Case:
        """The live mount table's text changed."""
        text = change(_read(_recorded(self.record.state.id), "proc-mountinfo").decode())
        return self.with_facts(mounts=parse_mounts(text.encode()))


def genuine(engine: str, change: Callable[[Document], object] | None = None) -> Case:
    """The container of that engine; `change` edits its config.json."""
    config = document(engine)
    if change is not None:
        change(config)
    oci = parse_oci(json.dumps(config).encode())
    state = parse_runc_state(_read(engine, "state.json"))
    record = Record(
        bundle=state.bundle,
        pid=state.pid,
        runtime="runc",
        bends=(),
        oci=oci,
        state=state,
        container=Container(engine.partition("-")[0], state.id),
    )
    facts = Facts(
        pid=state.pid,
        started=parse_started(_read(engine, "proc-stat")),
        status=parse_process_status(_read(engine, "proc-status")),
        owner=0,
        executable=LOADER,
        groups=parse_groups(_read(engine, "proc-cgroup")),
        mounts=parse_mounts(_read(engine, "proc-mountinfo")),
        pid_namespace=4026532183,
        user_namespace=4026531837,
        children=0,
    )
    init = parse_mounts(_read(engine, "node-mountinfo"))
    node = Node(
        mounts=frozenset(mount.number for mount in init),
        filters=0,
        pid_namespace=4026531836,
        user_namespace=4026531837,
        enclave_devices=frozenset({(10, 125)}),
        root=locate(init, state.root),
    )
    release = Release(
        digest=DIGEST,
        loader=LOADER,
        launcher=Place(DEVICE, "/opt/crannog-node/launcher"),
        socket=Place(DEVICE, "/opt/crannog-node/las"),
    )
    request = QuoteRequest(b"r" * 64, b"m" * 32, DIGEST, "hello/app", "192.0.2.1:18765", "", Pins())
    return Case(record, facts, release, node, told(oci.environment), request)


def document(engine: str) -> Document:
    """Its config.json."""
    found: Document = json.loads(_read(engine, "config.json"))
    return found


def install(engine: str, root: Path) -> str:
    """The record's files below `root`, where the engine keeps them; the container's id."""
    container = parse_runc_state(_read(engine, "state.json")).id
    if engine != "podman":
        tasks = "io.containerd.runtime.v2.task"
        if engine == "docker":
            bundle = f"run/docker/containerd/daemon/{tasks}/moby/{container}"
            states = "run/docker/runtime-runc/moby"
        else:
            bundle = f"run/containerd/{tasks}/k8s.io/{container}"
            states = "run/containerd/runc/k8s.io"
        places = {
            "config.json": bundle,
            "init.pid": bundle,
            "options.json": bundle,
            "state.json": f"{states}/{container}",
        }
        if engine == "containerd-2":
            places["sandbox"] = bundle
            shared = root / bundle / ".." / _read(engine, "sandbox").decode()
            shared.mkdir(parents=True)
            (shared / "shim-binary-path").write_bytes(_read(engine, "sandbox-shim-binary-path"))
        else:
            places["shim-binary-path"] = bundle
        if engine == "docker":
            places["config.v2.json"] = f"var/lib/docker/containers/{container}"
    else:
        storage = "containers/storage/overlay-containers"
        places = {
            "config.json": f"var/lib/{storage}/{container}/userdata",
            "containers.json": f"var/lib/{storage}",
            "pidfile": f"run/{storage}/{container}/userdata",
            "state.json": f"run/runc/{container}",
        }
    for name, directory in places.items():
        (root / directory).mkdir(parents=True, exist_ok=True)
        (root / directory / name).write_bytes(_read(engine, name))
    return container


def _recorded(container: str) -> str:
    """The engine whose recorded container has this id."""
    for engine in ENGINES:
        if parse_runc_state(_read(engine, "state.json")).id == container:
            return engine
    raise LookupError(container)


def _read(engine: str, name: str) -> bytes:
    return (DIRECTORY / engine / name).read_bytes()
