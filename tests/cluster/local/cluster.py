"""A cluster of this machine: up, down, and what a test breaks in it.

Its name finds everything of it: a state directory, cgroups, network namespaces. So it is removed
whole also where whoever made it was killed in the middle.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from crannog.errors import Conflict, Error, Misconfigured, NotFound, Unavailable
from tests.cluster.local import hierarchies, network, nodes, programs
from tests.cluster.local.pki import write_pki
from tests.cluster.local.settings import (
    CONTAINERD,
    CONTROL_PLANE,
    EVERY_NODE,
    MOST_NODES,
    OUTSIDE,
    PROGRAMS,
    WHOSE,
    Shape,
    components,
    registry_file,
)

STATES = Path("/var/lib/crannog-cluster")
SECONDS = 180.0
REGISTRY_PORT = 5000
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
_NEEDS_API = ("kube-controller-manager", "kube-scheduler", "dns", "kubelet", "kube-proxy")


@dataclass(frozen=True, slots=True)
class LocalCluster:
    """A cluster that was brought up.

    Attributes:
        shape: what it was asked to be.
        programs: the directory of `kubectl`, `helm` and the rest.
    """

    shape: Shape
    programs: Path

    @property
    def state(self) -> Path:
        """Everything it wrote: `NODE/log/COMPONENT.log`, `NODE/var`, `registry`, `pki`."""
        return STATES / self.shape.name

    @property
    def nodes(self) -> tuple[str, ...]:
        """The names of its nodes."""
        return self.shape.node_names

    @property
    def address(self) -> str:
        """Where the user sits, as nodes and pods see it."""
        return OUTSIDE

    @property
    def within(self) -> tuple[str, ...]:
        """What a command is put after to run where the user sits; it ends with the cluster."""
        cgroups = hierarchies.paths(self.shape.name, "outside")[:1]
        return (
            *hierarchies.entering(cgroups),
            *network.entering(self.shape.name, "outside"),
        )

    @property
    def environment(self) -> Mapping[str, str]:
        """The user's KUBECONFIG and PATH; `kubectl` and `helm` write nothing in any home."""
        path = os.environ.get("PATH", "/usr/bin:/bin")
        own = self.state / "user"
        return {
            "KUBECONFIG": str(self.state / "pki" / "admin.conf"),
            "KUBECACHEDIR": str(own / "kube"),
            "HELM_CACHE_HOME": str(own / "helm" / "cache"),
            "HELM_CONFIG_HOME": str(own / "helm" / "config"),
            "HELM_DATA_HOME": str(own / "helm" / "data"),
            "PATH": f"{self.programs}:{path}",
        }

    def components(self, node: str) -> tuple[str, ...]:
        """The components of a node, in the order in which they are started."""
        self._check(node)
        return tuple(components(node))

    def on_node(
        self, node: str, *command: str, check: bool = True, seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root on a node.

        Raises:
            Unavailable: the node does not run, or `check` and another status than 0.
        """
        return nodes.run(self.state, self.shape, node, command, check=check, seconds=seconds)

    def kill(self, node: str, component: str) -> None:
        """Kill a component with SIGKILL; it stays down until it is started.

        Raises:
            Unavailable: it does not run, or is no component of the node.
        """
        nodes.order(self.state, node, f"kill {component}")

    def start(self, node: str, component: str) -> None:
        """Start a component that was killed.

        Raises:
            Unavailable: it runs, or is no component of the node.
        """
        nodes.order(self.state, node, f"start {component}")

    def stop_node(self, node: str) -> None:
        """End a node at once: every process is killed, the network is gone.

        No power failure: what was written and not synced is still there.
        """
        self._check(node)
        nodes.unmake(self.state, self.shape, node)

    def start_node(self, node: str) -> None:
        """Start a node that was stopped: its disk is as it was, /run is empty."""
        self._check(node)
        nodes.make(self.state, self.shape, node, self.programs)
        self.start_components(node)

    def start_components(self, node: str) -> None:
        """Start all components of a new node; those that need the API server when it answers."""
        names = self.components(node)
        for name in names:
            if name not in _NEEDS_API:
                self.start(node, name)
        self._wait(lambda: self._import_pause(node), f"containerd of {node} does not answer", node)
        self._wait(self.answers, "the API server does not answer", self.nodes[0])
        for name in names:
            if name in _NEEDS_API:
                self.start(node, name)

    def answers(self) -> bool:
        """Whether the API server says that it is ready."""
        return self._kubectl("get", "--raw", "/readyz").returncode == 0

    def ready_nodes(self) -> tuple[str, ...]:
        """The nodes that are ready, as the API server knows."""
        done = self._kubectl("get", "nodes", "-o", "json")
        if done.returncode != 0:
            return ()
        return tuple(
            item["metadata"]["name"]
            for item in json.loads(done.stdout)["items"]
            if {"Ready": "True"}.items()
            <= {each["type"]: each["status"] for each in item["status"]["conditions"]}.items()
        )

    def wait_ready(self) -> None:
        """Until every node is ready.

        Raises:
            Unavailable: that takes too long; with the last lines of a kubelet that is not.
        """
        late = self.nodes[-1]
        self._wait(
            lambda: set(self.ready_nodes()) == set(self.nodes), "not every node is ready", late
        )

    def _import_pause(self, node: str) -> bool:
        done = self.on_node(
            node,
            *("ctr", f"--address={CONTAINERD}", "--namespace=k8s.io"),
            *("images", "import", f"{PROGRAMS}/pause.tar"),
            check=False,
        )
        return done.returncode == 0

    def _kubectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.within, "kubectl", "--request-timeout=5s", *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env={**os.environ, **self.environment},
            check=False,
        )

    def _check(self, node: str) -> None:
        if node not in self.nodes:
            raise NotFound(f"node {node!r}, expected one of {', '.join(self.nodes)}")

    def _wait(self, found: Callable[[], bool], what: str, node: str) -> None:
        deadline = time.monotonic() + SECONDS
        while not found():
            down = nodes.ended(self.state, node)
            if down or time.monotonic() > deadline:
                name = (*down, "kubelet")[0]
                log = self.state / node / "log" / f"{name}.log"
                lines = log.read_text(errors="replace").splitlines() if log.exists() else []
                text = "\n".join(lines[-15:])
                raise Unavailable(f"cluster {self.shape.name}: {what}; {name} on {node}:\n{text}")
            time.sleep(0.1)  # between two questions


def up(name: str, *, count: int = 2, registry_port: int = 0) -> LocalCluster:
    """Bring a cluster up; all its nodes are ready when this returns.

    One that is up already with this many nodes is returned as it is.

    Args:
        name: tells it from others.
        count: how many nodes.
        registry_port: the port of localhost for its registry, 0 for 5000 or a free one.

    Raises:
        Misconfigured: no such name or number can be.
        Conflict: another cluster of that name is up, or what is left of one.
        Unavailable: it cannot be had here, or does not come up; nothing is left of it.
    """
    if not _NAME.fullmatch(name):
        raise Misconfigured(f"name of a cluster {name!r}, expected {_NAME.pattern}")
    if not 1 <= count <= MOST_NODES:
        raise Misconfigured(f"{count} nodes, expected 1 to {MOST_NODES}")
    reason = programs.why_not()
    if reason:
        raise Unavailable(reason)
    built = programs.build()
    if name in clusters():
        return _already(name, count, registry_port)
    STATES.mkdir(mode=0o700, exist_ok=True)
    state = STATES / name
    try:
        state.mkdir(mode=0o700)
    except FileExistsError as error:
        raise Conflict(f"cluster {name} is being brought up by somebody else") from error
    try:
        port = registry_port or _free_port(REGISTRY_PORT)
        cluster = LocalCluster(Shape(name, count, port), built)
        _bring_up(cluster)
    except BaseException:
        down(name)
        raise
    return cluster


def _already(name: str, count: int, registry_port: int) -> LocalCluster:
    hint = f"make cluster-down CLUSTER={name}"
    try:
        found = attach(name)
    except Error as error:
        raise Conflict(
            f"something is left of a cluster {name}, which does not answer", hint=hint
        ) from error
    asked = registry_port or found.shape.registry_port
    if (found.shape.nodes, found.shape.registry_port) != (count, asked):
        raise Conflict(
            f"cluster {name} is up with {found.shape.nodes} nodes and registry"
            f" {found.shape.registry}, asked for {count} nodes, port {asked}",
            hint=hint,
        )
    return found


def attach(name: str) -> LocalCluster:
    """A cluster that is up.

    Raises:
        NotFound: there is none of that name.
        Unavailable: a part of it does not answer.
    """
    try:
        shape = Shape.from_json((STATES / name / "cluster.json").read_text())
    except (OSError, ValueError) as error:
        raise NotFound(f"no cluster {name} is up", hint="make cluster") from error
    cluster = LocalCluster(shape, programs.build())
    for node in shape.node_names:
        nodes.order(cluster.state, node, "status")
    if not cluster.answers():
        raise Unavailable(f"the API server of cluster {name} does not answer")
    return cluster


def _bring_up(cluster: LocalCluster) -> None:
    shape, state = cluster.shape, cluster.state
    plugins = programs.cni_plugins()
    assert plugins is not None
    write_pki(state / "pki", shape, now=datetime.datetime.now(datetime.UTC))
    network.make_outside(shape)
    _start_registries(cluster)
    for node in shape.node_names:
        nodes.write(state, shape, node, plugins)
        nodes.make(state, shape, node, cluster.programs)
    for node in shape.node_names:
        cluster.start_components(node)
    cluster.wait_ready()
    (state / "cluster.json").write_text(shape.to_json())


def _start_registries(cluster: LocalCluster) -> None:
    """One for nodes and user, one for the engine of this machine, over the same storage."""
    cgroups = hierarchies.make(cluster.shape.name, "outside")[:1]
    (cluster.state / "registry").mkdir()
    machine = hierarchies.entering(cgroups)
    for place, within, address in (
        ("outside", cluster.within, "0.0.0.0"),
        ("machine", machine, "127.0.0.1"),
    ):
        settings = cluster.state / f"registry-{place}.yml"
        settings.write_text(registry_file(cluster.state / "registry", address, cluster.shape))
        log = cluster.state / f"registry-{place}.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [*within, "docker-registry", "serve", str(settings)],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        if place == "machine":
            _wait_for_registry(process, cluster.shape, log)
        process.returncode = 0  # it outlives us


def _wait_for_registry(process: subprocess.Popen[bytes], shape: Shape, log: Path) -> None:
    deadline = time.monotonic() + 30
    while process.poll() is None:
        if time.monotonic() > deadline:
            break
        with contextlib.suppress(OSError):
            url = f"http://127.0.0.1:{shape.registry_port}/v2/"
            with urllib.request.urlopen(url, timeout=2) as answer:
                if answer.headers[WHOSE] == shape.name:  # and not somebody else's
                    return
        time.sleep(0.05)  # it says nowhere when it is ready
    text = log.read_text(errors="replace")[-500:].strip()
    raise Unavailable(f"the registry does not come up at {shape.registry}: {text}")


def down(name: str) -> None:
    """Remove every trace of a cluster, whatever state it is in; nothing where there is none.

    Raises:
        Misconfigured: no cluster can have that name.
        Unavailable: some process or cgroup of it does not go away.
    """
    if not _NAME.fullmatch(name):
        raise Misconfigured(f"name of a cluster {name!r}, expected {_NAME.pattern}")
    hierarchies.end(name)
    network.remove(name)
    # Files of a process that is being taken apart may still appear.
    deadline = time.monotonic() + 10
    while (STATES / name).exists():
        try:
            shutil.rmtree(STATES / name)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
    with contextlib.suppress(OSError):
        STATES.rmdir()


def clusters() -> set[str]:
    """The names of all clusters of which there is something on this machine."""
    states = {path.name for path in STATES.iterdir()} if STATES.is_dir() else set()
    return states | hierarchies.clusters() | network.clusters()


def remove_dead(is_dead: Callable[[str], bool]) -> None:
    """Remove the clusters whose name says that nobody uses them."""
    for name in clusters():
        if is_dead(name):
            down(name)


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise Unavailable("no free port for the registry")


__all__ = ["CONTROL_PLANE", "EVERY_NODE", "LocalCluster", "attach", "clusters", "down", "up"]
