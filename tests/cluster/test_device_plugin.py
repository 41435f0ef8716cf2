"""The device plugin on real kubelets: what pods get, what it may, and what nodes do to it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crannog.kubernetes.labels import CAPABLE, SIMULATION
from crannog.kubernetes.resources import RESOURCES
from crannog.measure.launcher_directory import directory_digest
from tests.cluster.charts import LEAST, SGX, Release, offered
from tests.cluster.rig import Cluster

NAMES = tuple(resource.name for resource in RESOURCES)
LAUNCHERS = "/var/lib/crannog/launcher"
_TICKS = os.sysconf("SC_CLK_TCK")


def _pod(name: str, image: str, node: str, resource: str = SGX) -> dict[str, Any]:
    """A pod under the restricted profile that asks for a device, and waits."""
    container = {
        "name": "main",
        "image": image,
        "command": ["sleep", "3600"],
        "resources": {"limits": {resource: 1}},
        "securityContext": LEAST,
    }
    spec = {
        # By a selector: the scheduler counts devices, which a node's name would bypass.
        "nodeSelector": {"kubernetes.io/hostname": node},
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Pods:
    """Pods of a test: started on a node, asked, compared."""

    def __init__(self, cluster: Cluster, namespace: str, image: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._image = image
        self.node = cluster.nodes[-1]

    def begin(self, resource: str = SGX) -> str:
        """Create one; its name."""
        name = f"asks-{secrets.token_hex(3)}"
        pod = _pod(name, self._image, self.node, resource)
        self._cluster.apply(json.dumps(pod), self._namespace)
        return name

    def start(self, resource: str = SGX, seconds: float = 60.0) -> str:
        """Create one, and wait until it runs; its name."""
        name = self.begin(resource)
        self._cluster.wait(
            lambda: self.status(name).get("phase") == "Running",
            f"{name} runs",
            seconds=seconds,
            seen=lambda: self._cluster.describe(self._namespace),
        )
        return name

    def status(self, name: str) -> dict[str, Any]:
        """What the API server knows of it."""
        found: dict[str, Any] = self._cluster.get("pod", name, "-n", self._namespace)["status"]
        return found

    def container(self, name: str) -> tuple[str, int]:
        """Which container it is, and how often it was started again."""
        (container,) = self.status(name)["containerStatuses"]
        return str(container["containerID"]), int(container["restartCount"])

    def ask(self, name: str, script: str) -> str:
        """What a shell in it prints."""
        command = ("exec", name, "-n", self._namespace, "--", "sh", "-c", script)
        return self._cluster.kubectl(*command).stdout

    def delete(self, *names: str) -> None:
        """End them, and wait for it."""
        self._cluster.kubectl("delete", "pod", *names, "-n", self._namespace, "--now")


@pytest.fixture
def pods(cluster: Cluster, namespace: str, plain_image: str, plugin: Release) -> Pods:
    return Pods(cluster, namespace, plain_image)


@contextmanager
def changed(plugin: Release, **values: Any) -> Iterator[None]:
    """The plugin with other values for a while."""
    before = plugin.given()
    plugin.upgrade({**before, **values})
    try:
        yield
    finally:
        plugin.upgrade(before)
        plugin.cluster.wait(lambda: all(offered(plugin.cluster).values()), "SGX on every node")


def _labels(cluster: Cluster, node: str) -> dict[str, str]:
    labels: dict[str, str] = cluster.get("node", node)["metadata"]["labels"]
    return {name: labels[name] for name in (CAPABLE, SIMULATION) if name in labels}


def _on(plugin: Release, node: str) -> dict[str, Any]:
    (pod,) = (pod for pod in plugin.pods() if pod["spec"]["nodeName"] == node)
    return pod


def _processes(cluster: Cluster, node: str) -> list[str]:
    """The plugin's process ids on a node of ours, as the node sees them."""
    found = cluster.on_node(node, "pgrep", "-f", "crannog kubernetes device-plugin", check=False)
    return found.split()


def test_every_resource_is_offered_on_every_node(cluster: Cluster, plugin: Release) -> None:
    expected = {name: dict.fromkeys(cluster.nodes, 110) for name in NAMES}
    cluster.wait(
        lambda: {name: offered(cluster, name) for name in NAMES} == expected, "110 of each"
    )
    cluster.wait(
        lambda: all(_labels(cluster, node) == {SIMULATION: "true"} for node in cluster.nodes),
        "the label on each node",
    )
    for node in cluster.nodes:
        log = plugin.logs(_on(plugin, node)["metadata"]["name"])
        assert "device plugin in simulation: containers get no SGX device" in log


@pytest.mark.parametrize("resource", NAMES)
def test_a_pod_without_any_right_gets_launcher_socket_and_mode(pods: Pods, resource: str) -> None:
    name = pods.start(resource)
    said = pods.ask(
        name,
        "env | grep ^CRANNOG_ | sort; ls /run/crannog; ls /dev | grep -c sgx;"
        " touch /run/crannog/las/x /run/crannog/launcher/x 2>&1;"
        " /run/crannog/launcher/run -- /bin/echo started",
    )
    assert said.splitlines()[:5] == [
        "CRANNOG_LAS_SOCKET=/run/crannog/las/socket",
        "CRANNOG_SGX=simulation",
        "las",
        "launcher",
        "0",
    ]
    assert said.count("Read-only file system") == 2
    assert said.splitlines()[-1] == "started"


def test_a_pod_that_asks_for_nothing_gets_nothing(
    cluster: Cluster, namespace: str, pods: Pods, plain_image: str
) -> None:
    pod = _pod("plain", plain_image, pods.node)
    del pod["spec"]["containers"][0]["resources"]
    cluster.apply(json.dumps(pod), namespace)
    cluster.wait(lambda: pods.status("plain").get("phase") == "Running", "it runs")
    assert pods.ask("plain", "env | grep -c CRANNOG; ls /run/crannog 2>&1 || true").startswith("0")


def test_more_pods_than_devices_wait_and_are_told_why(
    cluster: Cluster, namespace: str, plugin: Release, pods: Pods
) -> None:
    with changed(plugin, maxSGXPods=2):
        cluster.wait(lambda: offered(cluster)[pods.node] == 2, "2 devices")
        first, _second = pods.start(), pods.start()
        third = pods.begin()
        cluster.wait(
            lambda: f"Insufficient {SGX}" in cluster.describe(namespace), "the scheduler's reason"
        )
        assert pods.status(third)["phase"] == "Pending"
        pods.delete(first)
        cluster.wait(lambda: pods.status(third)["phase"] == "Running", "the third pod's turn")


def test_an_upgraded_plugin_leaves_running_pods_alone(
    cluster: Cluster, plugin: Release, pods: Pods
) -> None:
    standing = pods.start()
    before = pods.container(standing)
    uid = _on(plugin, pods.node)["metadata"]["uid"]
    with changed(plugin, podAnnotations={"test": secrets.token_hex(4)}):
        assert _on(plugin, pods.node)["metadata"]["uid"] != uid
        pods.start()
        assert pods.container(standing) == before
        assert pods.ask(standing, "/run/crannog/launcher/run -- /bin/echo still") == "still\n"


def test_a_second_plugin_says_who_has_the_node(
    cluster: Cluster, namespace: str, plugin: Release, pods: Pods
) -> None:
    first = _on(plugin, pods.node)["metadata"]["name"]
    pod = _copy(_on(plugin, pods.node), "second")
    cluster.apply(json.dumps(pod), namespace)

    def message() -> str:
        (state,) = pods.status("second").get("containerStatuses", [{}])
        ended = state.get("state", {}).get("terminated") or state.get("lastState", {}).get(
            "terminated", {}
        )
        return str(ended.get("message", ""))

    cluster.wait(message, "the second plugin's end", seen=lambda: cluster.describe(namespace))
    assert "another device plugin of Crannog serves this node: pod" in message()
    assert f"{plugin.namespace}/{first}, in simulation" in message()
    assert "Traceback" not in message()
    pods.start()  # the first one is none the worse for it


def _copy(pod: dict[str, Any], name: str) -> dict[str, Any]:
    """The same pod by another name, and without a service account's rights."""
    spec = {
        key: value
        for key, value in pod["spec"].items()
        if key not in {"serviceAccount", "serviceAccountName", "priority", "priorityClassName"}
    }
    spec["automountServiceAccountToken"] = False
    for container in (*spec["containers"], *spec["initContainers"]):
        container["volumeMounts"] = [
            mount
            for mount in container["volumeMounts"]
            if "serviceaccount" not in mount["mountPath"]
        ]
    spec["volumes"] = [volume for volume in spec["volumes"] if "projected" not in volume]
    environment = spec["containers"][0]["env"]
    spec["containers"][0]["env"] = [
        each if each["name"] != "LABEL_NODES" else {"name": "LABEL_NODES", "value": "false"}
        for each in environment
    ]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def test_the_plugin_has_no_privilege(plugin: Release) -> None:
    for pod in plugin.pods():
        spec = pod["spec"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in (*spec["containers"], *spec["initContainers"]):
            security = container["securityContext"]
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert security["readOnlyRootFilesystem"]
            assert not security["allowPrivilegeEscalation"]
            assert not security.get("privileged")


# What needs the nodes themselves.


@pytest.fixture
def node(cluster: Cluster, plugin: Release) -> str:
    """A node on which processes can be ended."""
    if cluster.local is None:
        pytest.skip("needs a cluster made on this machine")
    return cluster.nodes[-1]


def test_the_kernel_says_so_too(cluster: Cluster, node: str) -> None:
    (process,) = _processes(cluster, node)
    status = cluster.on_node(node, "cat", f"/proc/{process}/status")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{name}:\s+0+$", status, re.MULTILINE), status
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)


def test_idle_it_costs_next_to_nothing(cluster: Cluster, node: str) -> None:
    (process,) = _processes(cluster, node)

    def used() -> int:
        fields = cluster.on_node(node, "cat", f"/proc/{process}/stat").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before, begun = used(), time.monotonic()
    cluster.wait(lambda: time.monotonic() - begun > 15, "15 seconds")
    share = (used() - before) / _TICKS / (time.monotonic() - begun)
    resident = re.search(r"VmRSS:\s+(\d+)", cluster.on_node(node, "cat", f"/proc/{process}/status"))
    assert share < 0.02, f"{share:.2%} of a processor"
    assert resident is not None
    assert int(resident[1]) < 100_000


def test_a_kubelet_killed_and_started_knows_the_plugin_within_seconds(
    cluster: Cluster, node: str, pods: Pods
) -> None:
    assert cluster.local is not None
    standing = pods.start()
    before = pods.container(standing)
    cluster.local.kill(node, "kubelet")
    cluster.local.start(node, "kubelet")
    pods.start()
    assert pods.container(standing) == before
    assert pods.ask(standing, "/run/crannog/launcher/run -- /bin/echo still") == "still\n"


def test_a_plugin_killed_is_back_and_allocations_stand(
    cluster: Cluster, node: str, plugin: Release, pods: Pods
) -> None:
    standing = pods.start()
    before = pods.container(standing)
    (process,) = _processes(cluster, node)
    cluster.on_node(node, "kill", "-KILL", process)
    cluster.wait(
        lambda: _processes(cluster, node) not in ([], [process]), "another process of the plugin"
    )
    cluster.wait_ready(plugin.namespace, plugin.workload)
    pods.start()
    assert pods.container(standing) == before


def test_releases_lie_side_by_side_and_an_upgrade_touches_no_running_pod(
    cluster: Cluster, node: str, plugin: Release, pods: Pods
) -> None:
    assert cluster.local is not None
    standing = pods.start()
    first = pods.ask(standing, "cat /run/crannog/launcher/digest").strip()
    second = {}
    for each in cluster.nodes:
        launchers = cluster.local.state / each / LAUNCHERS.removeprefix("/")
        second[each] = _another_release(launchers, first)
    digest = second[node]
    try:
        with changed(plugin, extraArgs=[f"--release={digest}"]):
            later = pods.start()
            assert pods.ask(later, "cat /run/crannog/launcher/digest").strip() == digest
            assert pods.ask(standing, "cat /run/crannog/launcher/digest").strip() == first
            assert pods.ask(standing, "/run/crannog/launcher/run -- /bin/echo still") == "still\n"
            pods.delete(later)
    finally:
        for each in cluster.nodes:
            cluster.on_node(each, "rm", "-rf", f"{LAUNCHERS}/{digest}")


def _another_release(launchers: Path, first: str) -> str:
    """A release that differs in a comment."""
    making = launchers / ".installing-by-hand"
    shutil.copytree(launchers / first, making, symlinks=True)
    with (making / "etc" / "openssl.cnf").open("a") as file:
        file.write("# another\n")
    digest = directory_digest(str(making)).hex()
    (making / "digest").write_text(f"{digest}\n")
    making.rename(launchers / digest)
    return digest


@pytest.fixture
def null_device(cluster: Cluster, node: str) -> Iterator[Callable[[str], None]]:
    """Makes device nodes that are /dev/null's, under SGX's names, and removes them."""
    made: list[str] = []

    def make(name: str) -> None:
        cluster.on_node(node, "mknod", "-m", "0666", f"/dev/{name}", "c", "1", "3")
        made.append(name)

    if any(Path("/dev", name).exists() for name in ("sgx_enclave", "sgx_provision", "isgx")):
        pytest.skip("this machine has SGX")
    yield make
    for name in made:
        cluster.on_node(node, "rm", "-f", f"/dev/{name}")


def test_hardware_that_appears_and_vanishes(
    cluster: Cluster,
    node: str,
    plugin: Release,
    pods: Pods,
    null_device: Callable[[str], None],
) -> None:
    with changed(plugin, simulation=False):
        cluster.wait(lambda: not any(offered(cluster).values()), "no SGX without a device")
        cluster.wait(lambda: _labels(cluster, node) == {}, "no label without a device")
        null_device("sgx_enclave")
        null_device("sgx_provision")
        cluster.wait(lambda: offered(cluster)[node] == 110, "SGX on the node")
        cluster.wait(lambda: offered(cluster, "sgx.k8s.io/dcap")[node] == 110, "DCAP on the node")
        cluster.wait(lambda: _labels(cluster, node) == {CAPABLE: "true"}, "the label")
        assert offered(cluster, "sgx.k8s.io/ias")[node] == 0
        plain, dcap = pods.start(), pods.start("sgx.k8s.io/dcap")
        said = pods.ask(plain, "echo $CRANNOG_SGX; cd /dev; ls sgx*; echo x > sgx_enclave")
        assert said.split() == ["hardware", "sgx_enclave"]
        assert pods.ask(dcap, "cd /dev; ls sgx*").split() == ["sgx_enclave", "sgx_provision"]
        before = pods.container(plain)
        cluster.on_node(node, "rm", "/dev/sgx_enclave")
        cluster.wait(lambda: offered(cluster)[node] == 0, "no SGX any more")
        cluster.wait(lambda: _labels(cluster, node) == {}, "no label any more")
        assert pods.container(plain) == before


def test_uninstalled_it_leaves_running_pods_their_mounts(
    cluster: Cluster, node: str, plugin: Release, pods: Pods
) -> None:
    standing = pods.start()
    before = pods.container(standing)
    values = plugin.given()
    plugin.uninstall()
    try:
        cluster.wait(lambda: not any(offered(cluster).values()), "no SGX any more")
        assert pods.container(standing) == before
        assert pods.ask(standing, "/run/crannog/launcher/run -- /bin/echo still") == "still\n"
        sockets = cluster.on_node(node, "ls", "/var/lib/kubelet/device-plugins").split()
        assert not [name for name in sockets if name.startswith("crannog-")]
    finally:
        plugin.upgrade(values)
        cluster.wait(lambda: all(offered(cluster).values()), "SGX on every node")
