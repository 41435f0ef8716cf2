"""The device plugin and what happens to nodes: kubelets, processes, directories, devices."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crannog.kubernetes.labels import CAPABLE
from tests.cluster.charts import Release, offered
from tests.cluster.device_pods import (
    Pods,
    changed,
    labels,
    plugin_log,
    plugin_on,
    plugin_processes,
    renew,
    status_of,
    wait_known,
)
from tests.cluster.rig import Cluster

PLUGINS = "/var/lib/kubelet/device-plugins"
_TICKS = os.sysconf("SC_CLK_TCK")


def test_the_kernel_says_so_too(cluster: Cluster, node: str) -> None:
    (process,) = plugin_processes(cluster, node)
    status = cluster.on_node(node, "cat", f"/proc/{process}/status")
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{name}:\s+0+$", status, re.MULTILINE), status
    assert re.search(r"^NoNewPrivs:\s+1$", status, re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, re.MULTILINE)


def test_idle_it_costs_next_to_nothing(cluster: Cluster, node: str) -> None:
    (process,) = plugin_processes(cluster, node)

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
    cluster: Cluster, node: str, plugin: Release, pods: Pods
) -> None:
    assert cluster.local is not None
    standing = pods.start()
    before = pods.container(standing)
    cluster.local.kill(node, "kubelet")
    cluster.on_node(node, "rm", f"{PLUGINS}/kubelet.sock")  # as on a node that starts
    cluster.wait(lambda: status_of(plugin, node, "/ready") != "ready\n", "it to miss the kubelet")
    cluster.local.start(node, "kubelet")
    begun = time.monotonic()
    wait_known(plugin, node)
    assert time.monotonic() - begun < 15
    pods.start()
    assert pods.container(standing) == before
    assert pods.ask(standing, "/run/crannog/launcher/run -- /bin/echo still") == "still\n"


def test_a_plugin_killed_is_back_and_allocations_stand(
    cluster: Cluster, node: str, plugin: Release, pods: Pods
) -> None:
    standing = pods.start()
    before = pods.container(standing)
    (process,) = plugin_processes(cluster, node)
    cluster.on_node(node, "kill", "-KILL", process)
    cluster.wait(
        lambda: plugin_processes(cluster, node) not in ([], [process]),
        "another process of the plugin",
    )
    cluster.wait_ready(plugin.namespace, plugin.workload)
    pods.start()
    assert pods.container(standing) == before


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
    simulated = pods.start()
    with changed(plugin, simulation=False):
        cluster.wait(lambda: not any(offered(cluster).values()), "no SGX without a device")
        cluster.wait(lambda: labels(cluster, node) == {}, "no label without a device")
        # Both are on one node now, and everybody is told.
        cluster.wait(
            lambda: "1 devices of simulation are with" in plugin_log(plugin, node),
            "the log",
            seen=lambda: plugin_log(plugin, node),
        )
        assert pods.ask(simulated, "echo $CRANNOG_SGX") == "simulation\n"
        null_device("sgx_enclave")
        null_device("sgx_provision")
        cluster.wait(lambda: offered(cluster)[node] == 110, "SGX on the node")
        cluster.wait(lambda: offered(cluster, "sgx.k8s.io/dcap")[node] == 110, "DCAP on the node")
        cluster.wait(lambda: labels(cluster, node) == {CAPABLE: "true"}, "the label")
        assert offered(cluster, "sgx.k8s.io/ias")[node] == 0
        plain, dcap = pods.start(), pods.start("sgx.k8s.io/dcap")
        said = pods.ask(plain, "echo $CRANNOG_SGX; cd /dev; ls sgx*; echo x > sgx_enclave")
        assert said.split() == ["hardware", "sgx_enclave"]
        assert pods.ask(dcap, "cd /dev; ls sgx*").split() == ["sgx_enclave", "sgx_provision"]
        null_device("isgx")
        cluster.wait(lambda: offered(cluster, "sgx.k8s.io/ias")[node] == 110, "the older driver")
        assert pods.ask(pods.start("sgx.k8s.io/ias"), "cd /dev; ls *sgx*") == "isgx\n"
        before = pods.container(plain)
        cluster.on_node(node, "rm", "/dev/sgx_enclave", "/dev/isgx")
        cluster.wait(lambda: offered(cluster)[node] == 0, "no SGX any more")
        cluster.wait(lambda: labels(cluster, node) == {}, "no label any more")
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


@pytest.fixture
def small_directory(cluster: Cluster, node: str, plugin: Release) -> Iterator[Callable[[str], str]]:
    """The node's plugin directory on a file system without room; mounts it with other options."""
    assert cluster.local is not None
    local = cluster.local
    local.kill(node, "kubelet")
    # Itself and the kubelet's socket.
    cluster.on_node(node, "mount", "-t", "tmpfs", "-o", "mode=0750,nr_inodes=2", "tmpfs", PLUGINS)
    local.start(node, "kubelet")
    try:
        yield lambda options: cluster.on_node(node, "mount", "-o", f"remount,{options}", PLUGINS)
    finally:
        local.kill(node, "kubelet")
        cluster.on_node(node, "umount", "--lazy", PLUGINS)
        local.start(node, "kubelet")
        renew(plugin, node)
        wait_known(plugin, node)


def test_a_plugin_directory_without_room_or_read_only_is_said_and_tried_until_it_is_not(
    cluster: Cluster,
    node: str,
    plugin: Release,
    pods: Pods,
    small_directory: Callable[[str], str],
) -> None:
    renew(plugin, node)

    def logged(what: str) -> None:
        cluster.wait(
            lambda: f"cannot be made: {what}" in plugin_log(plugin, node),
            f"the plugin to say {what}",
            seen=lambda: plugin_log(plugin, node),
        )

    logged("no space left on device")
    small_directory("ro,nr_inodes=1000")
    logged("read-only file system")
    assert status_of(plugin, node, "/ready") != "ready\n"
    small_directory("rw")
    wait_known(plugin, node)
    pods.start()
    log = plugin_log(plugin, node)
    assert "the kubelet's plugin directory has to be mounted writable, with space on it" in log
    assert "Traceback" not in log
    (state,) = plugin_on(plugin, node)["status"]["containerStatuses"]
    assert (state["ready"], state["restartCount"]) == (True, 0)
