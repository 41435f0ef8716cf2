"""What the tests of faults run while a part is broken: programs, new pods, a storm of sessions."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from crannog.errors import Unavailable
from tests.cluster.apps import App
from tests.cluster.charts import SGX, InsideCas, Release, offered
from tests.cluster.local.cluster import LocalCluster
from tests.cluster.local.settings import CONTAINERD
from tests.cluster.rig import Cluster, CommandFailed
from tests.cluster.vouched import Cas

ROOT = Path(__file__).parents[2]
ENTRY = ["/run/crannog/launcher/run", "--", "python3"]
EVERY = 2.0
"""Seconds between two new pods: a load that two processors carry beside everything else."""
SECRET = "from the session alone"
DATA = "a file that was encrypted"
MAIN = """\
import http.server, os, signal, uuid

ME = uuid.uuid4().hex
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        said = (ME, os.environ['SECRET'], open('/app/data').read())
        self.wfile.write('|'.join(said).encode())

http.server.HTTPServer(('0.0.0.0', 8080), Handler).serve_forever()
"""


class ChartCas(Cas):
    """The command line where the user sits, for a CAS that the chart runs in the cluster."""

    def __init__(self, cluster: Cluster, directory: Path, inside: InsideCas) -> None:
        super().__init__(cluster, directory)
        release = inside.release
        service = cluster.get("service", release.full_name, "-n", release.namespace)
        self.cas_client = f"{service['spec']['clusterIP']}:8081"
        self.cas_enclave = inside.address
        self.cas_key_hash = inside.key_hash


class Program(NamedTuple):
    """A pod's program: where it answers, which container it is, and how often that was started."""

    address: str
    container: str
    restarts: int


@dataclass(frozen=True, slots=True)
class World:
    """Programs that run, and what starts more of them.

    Attributes:
        app: their image and namespace.
        config_id: their session.
        cas: the CAS that has it.
        plugin: the device plugin.
        las: the LASes.
    """

    app: App
    config_id: str
    cas: InsideCas
    plugin: Release
    las: Release

    @property
    def cluster(self) -> Cluster:
        """Where it is."""
        return self.app.cluster

    @property
    def local(self) -> LocalCluster:
        """The cluster from inside."""
        assert self.cluster.local is not None
        return self.cluster.local

    def start(self, name: str, *, load: str, node: str = "", replicas: int = 1) -> None:
        """Create a Deployment of the program, attested at level node.

        Args:
            name: its own.
            load: which load it is part of.
            node: where it has to run; anywhere without one.
            replicas: how many pods.
        """
        variables = self.app.variables(self.config_id, CRANNOG_RETRY_SECONDS="")
        probe = {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1, "timeoutSeconds": 5}
        manifest = self.app.deployment(
            name, variables, limits={SGX: 1}, container={"command": ENTRY, "readinessProbe": probe}
        )
        manifest["metadata"]["labels"] = {"load": load}
        manifest["spec"]["replicas"] = replicas
        if node:
            where = {"kubernetes.io/hostname": node}
            manifest["spec"]["template"]["spec"]["nodeSelector"] = where
        self.app.start(manifest)

    def programs(self, *names: str) -> dict[str, Program]:
        """The pods of Deployments, by name."""
        found = {}
        for name in names:
            for pod in self.cluster.pods(self.app.namespace, f"run={name}"):
                (status,) = pod["status"]["containerStatuses"]
                found[pod["metadata"]["name"]] = Program(
                    pod["status"]["podIP"], status["containerID"], status["restartCount"]
                )
        return found

    def answers(self, programs: Mapping[str, Program]) -> dict[str, str]:
        """What each says about itself, asked over the network of the pods; "" for nothing."""
        found = {}
        for name, program in programs.items():
            url = f"http://{program.address}:8080/"
            done = self.cluster.user(["curl", "-s", "--max-time", "10", url], check=False)
            found[name] = done.stdout
            assert not done.stdout or done.stdout.endswith(f"|{SECRET}|{DATA}"), done.stdout
        return found

    def ready(self, load: str) -> dict[str, bool]:
        """Each Deployment of a load, and whether its pods are all ready."""
        items = self.cluster.get("deployments", "-n", self.app.namespace, f"-lload={load}")["items"]
        return {
            item["metadata"]["name"]: item["status"].get("readyReplicas", 0)
            == item["spec"]["replicas"]
            for item in items
        }

    def wait_ready(self, load: str, *, seconds: float) -> None:
        """Until each Deployment of a load is."""

        def all_ready() -> bool:
            found = self.ready(load)
            return bool(found) and all(found.values())

        self.cluster.wait(
            all_ready,
            f"every Deployment of {load} is ready",
            seconds=seconds,
            seen=lambda: f"{self.ready(load)}\n{self.cluster.describe(self.app.namespace)}",
            every=0.5,
        )

    def killed(self, release: Release) -> None:
        """Kill the process of each pod of a release, and wait until others have their places."""

        def containers() -> dict[str, str]:
            return {
                status["containerID"].partition("//")[2]: pod["spec"]["nodeName"]
                for pod in release.pods()
                for status in pod["status"]["containerStatuses"]
                if "running" in status["state"]
            }

        before = containers()
        assert before, f"nothing runs of {release.name}"
        for container, node in before.items():
            self.cluster.on_node(node, "kill", "-9", self._process(node, container))
        self.cluster.wait(
            lambda: len(found := containers()) == len(before) and not found.keys() & before.keys(),
            f"{release.name} runs again",
            seen=lambda: self.cluster.describe(release.namespace),
        )

    def _process(self, node: str, container: str) -> str:
        """The number of a container's first process on its node."""
        ctr = ("ctr", f"--address={CONTAINERD}", "--namespace=k8s.io")
        for line in self.cluster.on_node(node, *ctr, "tasks", "list").splitlines():
            name, number, *_ = line.split()
            if name == container:
                return number
        raise AssertionError(f"containerd on {node} knows no container {container}")


class Load:
    """New pods, one every `EVERY` seconds, while `during` lasts."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.name = name
        self.accepted: list[str] = []
        self.failed: list[str] = []

    @contextmanager
    def during(self) -> Iterator[None]:
        """Start with the block, which begins when the first is accepted; stop with it."""
        self._thread.start()
        try:
            self._world.cluster.wait(lambda: self.accepted, "a first new pod", seen=self._failures)
            yield
        finally:
            self._over.set()
            self._thread.join()

    def _failures(self) -> str:
        return "\n".join(self.failed)

    def _run(self) -> None:
        count = 0
        while True:
            name, count = f"{self.name}-{count}", count + 1
            try:
                self._world.start(name, load=self.name)
                self.accepted.append(name)
            except CommandFailed as error:  # the API server does not answer
                self.failed.append(str(error))
            if self._over.wait(EVERY):
                return

    def wait_more(self, count: int) -> None:
        """Until that many more are accepted than now."""
        wanted = len(self.accepted) + count
        self._world.cluster.wait(
            lambda: len(self.accepted) >= wanted, f"{count} more new pods", seen=self._failures
        )

    def remove(self) -> None:
        """Delete what it created; not waiting for the end."""
        self._world.cluster.kubectl(
            *("delete", "deployments", "-n", self._world.app.namespace, f"-lload={self.name}"),
            "--wait=false",
        )


class Storm:
    """`tests.cluster.storm` against the CAS."""

    def __init__(self, world: World, log: Path) -> None:
        self._world = world
        self._log = log

    @contextmanager
    def during(self) -> Iterator[None]:
        """Start with the block; end it with the check, where the block has not failed."""
        command = [sys.executable, "-m", "tests.cluster.storm", self._world.app.cas.cas_client]
        with self._log.open("w") as log:
            process = self._world.cluster.start_user(command, cwd=ROOT, stdout=log)
        try:
            self.wait_more(1)
            yield
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=120)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the storm does not end: {self.said()[-2000:]}") from None
        finally:
            process.kill()
            process.wait()

    def said(self) -> str:
        """All that it printed."""
        return self._log.read_text()

    @property
    def promised(self) -> int:
        """How many sessions were acknowledged."""
        return self.said().count("promised ")

    def wait_more(self, count: int) -> None:
        """Until that many more sessions are acknowledged than now."""
        wanted = self.promised + count
        self._world.cluster.wait(
            lambda: self.promised >= wanted,
            f"{count} more sessions are acknowledged",
            seen=lambda: self.said()[-2000:],
        )

    def assert_nothing_lost(self) -> None:
        """After its end: what was acknowledged is there, and nothing was refused."""
        said = self.said()
        assert said.splitlines()[-1] == f"kept {self.promised}", said[-2000:]
        assert "refused" not in said, said[-2000:]


def make_whole(cluster: Cluster) -> None:
    """Start again what does not run of a local cluster, and wait until pods get SGX everywhere."""
    local = cluster.local
    assert local is not None
    for node in local.nodes:
        try:
            local.on_node(node, "true")
        except Unavailable:
            local.start_node(node)
        for component in local.components(node):
            with suppress(Unavailable):  # it runs already
                local.start(node, component)
    local.wait_ready()
    cluster.wait(lambda: all(offered(cluster).values()), "SGX on every node", seconds=180)
