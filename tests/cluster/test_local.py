"""The local cluster itself: what it keeps from the machine, what is left of it, what breaks it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crannog.errors import Conflict, Misconfigured, NotFound, Unavailable
from tests.cluster.local import cluster as clusters
from tests.cluster.local import hierarchies, network, programs
from tests.cluster.local.cluster import LocalCluster
from tests.cluster.local.init import KUBELETS_SETTINGS, OWN
from tests.cluster.local.settings import CONTROL_PLANE, EVERY_NODE, PAUSE
from tests.cluster.rig import Cluster
from tests.containers.rig import RUN

HOSTNAME = "kubernetes.io/hostname"
OTHER = f"{RUN}-other"


@pytest.fixture
def local(cluster: Cluster) -> LocalCluster:
    """The session's cluster, from inside."""
    if cluster.local is None:
        pytest.skip("the cluster is not of this machine")
    return cluster.local


@pytest.fixture
def other(local: LocalCluster) -> Iterator[str]:
    """The name of a second cluster; it is gone afterwards."""
    clusters.down(OTHER)
    try:
        yield OTHER
    finally:
        clusters.down(OTHER)


def _assert_nothing_left(name: str) -> None:
    assert name not in clusters.clusters()
    assert not (clusters.STATES / name).exists()
    assert name not in Path("/proc/self/mountinfo").read_text()
    ours = str(os.getpid()).encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes()
        except OSError:
            continue
        assert process.name.encode() == ours or name.encode() not in arguments, arguments


def _kernel_settings() -> dict[str, str]:
    """What a kubelet would set for the whole machine."""
    return {name: Path("/proc/sys", name).read_text() for name in KUBELETS_SETTINGS}


def test_the_machines_kernel_settings_stay(other: str) -> None:
    before = _kernel_settings()
    clusters.up(other, count=1)
    assert _kernel_settings() == before
    done = clusters.attach(other).on_node(
        "node1", "sh", "-c", "echo 7 > /proc/sys/kernel/core_pattern", check=False
    )
    assert done.returncode != 0
    assert "Read-only" in done.stderr
    assert _kernel_settings() == before


def test_a_node_cannot_write_to_the_machines_file_systems(local: LocalCluster) -> None:
    writable = local.on_node(
        local.nodes[0], "sh", "-c", "cut -d' ' -f5,6 /proc/1/mountinfo | grep ' rw'"
    ).stdout
    places = {line.split()[0] for line in writable.splitlines()}
    strangers = {
        place
        for place in places
        if not any(place == own or place.startswith(f"{own}/") for own in OWN)
    }
    assert not strangers


def test_a_second_cluster_is_none_of_the_first_ones_business(cluster: Cluster, other: str) -> None:
    second = clusters.up(other, count=1)
    assert second.ready_nodes() == ("node1",)
    assert second.shape.registry != cluster.registry
    names = {item["metadata"]["name"] for item in cluster.get("nodes")["items"]}
    assert names == set(cluster.nodes)
    clusters.down(other)
    _assert_nothing_left(other)
    assert cluster.get("nodes")["items"]


def _bring_up(name: str, *, until: str) -> subprocess.Popen[str]:
    """`make cluster` in a process of its own, come as far as this node's first process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.cluster.local", "--name", name, "up"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (clusters.STATES / name / until / "control").exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f"{until} does not come up"
        time.sleep(0.02)  # between two looks
    return process


def test_down_removes_what_a_killed_up_left(other: str) -> None:
    process = _bring_up(other, until="node2")
    # Its second node is about to come up, so there are processes, networks and mounts by now.
    process.kill()
    process.communicate()
    with pytest.raises(Conflict, match="left of a cluster"):
        clusters.up(other)
    clusters.down(other)
    _assert_nothing_left(other)
    clusters.down(other)  # and once more, where there is nothing


def test_an_interrupted_up_leaves_nothing(other: str) -> None:
    process = _bring_up(other, until="node1")
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    process.communicate()
    _assert_nothing_left(other)


def test_up_twice_is_the_same_cluster(local: LocalCluster) -> None:
    again = clusters.up(local.shape.name, count=local.shape.nodes)
    assert again == local


def test_up_with_another_number_of_nodes_is_refused(local: LocalCluster) -> None:
    with pytest.raises(Conflict, match=r"is up with \d nodes"):
        clusters.up(local.shape.name, count=local.shape.nodes + 1)


def test_a_taken_registry_port_is_named_and_nothing_is_left(other: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"localhost:{port}"):
            clusters.up(other, registry_port=port)
    _assert_nothing_left(other)


@pytest.mark.parametrize("name", ["", "..", "a/b", "A", "a" * 42, "a b"])
def test_a_name_that_could_be_a_path_is_refused(name: str) -> None:
    with pytest.raises(Misconfigured, match="name of a cluster"):
        clusters.down(name)


def test_a_node_that_is_not_there_is_named(local: LocalCluster) -> None:
    with pytest.raises(NotFound, match="node 'node9', expected one of node1"):
        local.on_node("node9", "true")


def test_missing_programs_are_named_with_their_packages(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(programs, "_which", lambda _: None)
    monkeypatch.setattr(programs, "CNI", ())
    reason = programs.why_not()
    if os.geteuid() == 0:
        assert "apt-get install" in reason
        assert {"containerd", "etcd-server", "containernetworking-plugins"} <= set(reason.split())


def test_without_root_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in programs.why_not()


def test_nothing_on_a_node_reaches_the_machines_network(local: LocalCluster) -> None:
    reached = threading.Event()
    with socket.create_server(("0.0.0.0", 0)) as server:
        port = server.getsockname()[1]

        def accept() -> None:
            server.accept()[0].close()
            reached.set()

        threading.Thread(target=accept, daemon=True).start()
        listed = subprocess.run(
            ["ip", "-4", "-o", "addr"], capture_output=True, text=True, check=True
        ).stdout
        addresses = {line.split()[3].partition("/")[0] for line in listed.splitlines()}
        for address in addresses:
            done = local.on_node(
                local.nodes[0],
                *("timeout", "2", "bash", "-c", f"echo > /dev/tcp/{address}/{port}"),
                check=False,
            )
            assert done.returncode != 0, address
        assert not reached.is_set()
        socket.create_connection(("127.0.0.1", port)).close()  # as one would have
        assert reached.wait(10)


def test_a_node_has_files_of_its_own_and_changes_no_other(local: LocalCluster) -> None:
    first, second = local.nodes[:2]
    local.on_node(first, "mknod", "/dev/k-test", "c", "1", "3")
    local.on_node(first, "sh", "-c", "mkdir -p /var/lib/k-test /run/k-test /tmp/k-test")
    try:
        for path in ("/dev/k-test", "/var/lib/k-test", "/run/k-test", "/tmp/k-test"):
            assert not Path(path).exists()
            assert local.on_node(second, "test", "-e", path, check=False).returncode == 1
        refused = local.on_node(first, "mkdir", "/k-test", check=False)
        assert "Read-only file system" in refused.stderr
    finally:
        local.on_node(first, "rm", "-rf", "/dev/k-test", "/var/lib/k-test", "/run/k-test")
    assert Path("/proc/sys/kernel/hostname").read_text().strip() != first
    assert local.on_node(first, "hostname").stdout.strip() == first


@pytest.mark.parametrize("component", [*CONTROL_PLANE, *EVERY_NODE])
def test_new_pods_run_once_a_killed_component_is_back(
    cluster: Cluster, local: LocalCluster, namespace: str, component: str
) -> None:
    node = local.nodes[0] if component in CONTROL_PLANE else local.nodes[-1]
    local.kill(node, component)
    with pytest.raises(Unavailable, match="does not run"):
        local.kill(node, component)
    local.start(node, component)
    with pytest.raises(Unavailable, match="runs already"):
        local.start(node, component)
    cluster.wait(local.answers, "the API server answers")
    cluster.wait(
        lambda: (
            not cluster.kubectl(
                *("run", "new", f"--image={PAUSE}", "--image-pull-policy=Never", "-n", namespace),
                *("--overrides", json.dumps({"spec": {"nodeSelector": {HOSTNAME: node}}})),
                check=False,
            ).returncode
        ),
        "a new pod is accepted",
    )
    cluster.wait(
        lambda: [pod["status"]["phase"] for pod in cluster.pods(namespace)] == ["Running"],
        "the new pod runs",
        seen=lambda: cluster.describe(namespace),
    )


def test_a_node_that_was_killed_is_seen_and_comes_back(
    cluster: Cluster, local: LocalCluster
) -> None:
    lost = local.nodes[-1]
    local.on_node(lost, "touch", "/var/lib/kept")
    local.stop_node(lost)
    assert not hierarchies_of(local, lost)
    cluster.wait(lambda: lost not in local.ready_nodes(), f"{lost} is not ready")
    with pytest.raises(Unavailable, match="does not run"):
        local.on_node(lost, "true")
    local.start_node(lost)
    local.wait_ready()
    local.on_node(lost, "rm", "/var/lib/kept")  # its disk is as it was


def hierarchies_of(local: LocalCluster, node: str) -> list[Path]:
    """The cgroups of a node."""
    named = f"{hierarchies.PREFIX}{local.shape.name}/{node}"
    return [root / named for root in hierarchies.roots() if (root / named).exists()]


def test_the_user_reaches_the_registry_by_the_name_that_pods_pull_from(cluster: Cluster) -> None:
    assert cluster.user(["curl", "-s", f"http://{cluster.registry}/v2/"]).stdout.strip() == "{}"


def test_networks_are_named_by_cluster_and_place() -> None:
    assert network.namespace("a", "node1") != network.namespace("a", "outside")
