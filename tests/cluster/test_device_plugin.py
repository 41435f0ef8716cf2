"""The device plugin on real kubelets: what pods get, and what the plugin may and says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from crannog.kubernetes.labels import SIMULATION
from crannog.kubernetes.resources import NAMES
from tests.cluster.charts import SGX, Release, offered
from tests.cluster.device_pods import (
    Pods,
    asking_pod,
    changed,
    copied,
    labels,
    plugin_log,
    plugin_on,
    renew,
    status_of,
    wait_known,
)
from tests.cluster.rig import Cluster


def test_every_resource_is_offered_on_every_node(cluster: Cluster, plugin: Release) -> None:
    expected = {name: dict.fromkeys(cluster.nodes, 110) for name in NAMES}
    cluster.wait(
        lambda: {name: offered(cluster, name) for name in NAMES} == expected, "110 of each"
    )
    cluster.wait(
        lambda: all(labels(cluster, node) == {SIMULATION: "true"} for node in cluster.nodes),
        "the label on each node",
    )
    for node in cluster.nodes:
        log = plugin.logs(plugin_on(plugin, node)["metadata"]["name"])
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
    pod = asking_pod("plain", plain_image, pods.node)
    del pod["spec"]["containers"][0]["resources"]
    cluster.apply(json.dumps(pod), namespace)
    cluster.wait(lambda: pods.status("plain").get("phase") == "Running", "it runs")
    assert pods.ask("plain", "env | grep -c CRANNOG; ls /run/crannog 2>&1 || true").startswith("0")


def test_a_plugin_that_is_replaced_leaves_running_pods_alone(
    cluster: Cluster, plugin: Release, pods: Pods
) -> None:
    standing = pods.start()
    before = pods.container(standing)
    uid = plugin_on(plugin, pods.node)["metadata"]["uid"]
    cluster.kubectl("rollout", "restart", plugin.workload, "-n", plugin.namespace)
    cluster.wait_ready(plugin.namespace, plugin.workload)
    assert plugin_on(plugin, pods.node)["metadata"]["uid"] != uid
    pods.start()
    assert pods.container(standing) == before
    assert pods.ask(standing, "/run/crannog/launcher/run -- /bin/echo still") == "still\n"


def test_a_second_plugin_says_who_has_the_node(
    cluster: Cluster, namespace: str, plugin: Release, pods: Pods
) -> None:
    first = plugin_on(plugin, pods.node)["metadata"]["name"]
    pod = copied(plugin_on(plugin, pods.node), "second")
    cluster.apply(json.dumps(pod), namespace)

    said = cluster.wait(
        lambda: pods.last_words("second"),
        "the second plugin's end",
        seen=lambda: cluster.describe(namespace),
    )
    assert "another device plugin of Crannog serves this node: pod" in said
    assert f"{plugin.namespace}/{first}, in simulation" in said
    assert "Traceback" not in said
    pods.start()  # the first one is none the worse for it


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


def test_metrics_and_readiness(cluster: Cluster, plugin: Release, pods: Pods) -> None:
    pods.start()
    assert status_of(plugin, pods.node, "/ready") == "ready\n"
    assert status_of(plugin, pods.node, "/live") == "live\n"
    metrics = status_of(plugin, pods.node, "/metrics")
    for line in (
        rf'crannog_plugin_allocations_total{{outcome="given",resource="{SGX}"}} [1-9]',
        rf'crannog_plugin_devices{{health="healthy",resource="{SGX}"}} 110\.0',
        r'crannog_plugin_given_devices{mode="simulation"} [1-9]',
        r'crannog_plugin_mode{mode="simulation"} 1\.0',
    ):
        assert re.search(line, metrics), f"{line} in\n{metrics}"


@pytest.fixture(scope="class")
def selected(cluster: Cluster, plugin: Release) -> Iterator[str]:
    """The one node with the plugin, under other values; another node becomes tainted meanwhile.

    At the end the plugin has to come back to that one as well: it tolerates everything.
    """
    if len(cluster.nodes) < 2:
        pytest.skip("needs two nodes")
    node, other = cluster.nodes[-1], cluster.nodes[0]
    values = {"maxSGXPods": 2, "labelNodes": False}
    try:
        with changed(plugin, nodeSelector={"kubernetes.io/hostname": node}, **values):
            cluster.kubectl("taint", "node", other, "test=yes:NoSchedule")
            yield node
    finally:
        cluster.kubectl("taint", "node", other, "test=yes:NoSchedule-", check=False)


class TestOtherValues:
    def test_a_node_that_is_not_selected_offers_nothing(
        self, cluster: Cluster, selected: str
    ) -> None:
        cluster.wait(
            lambda: (offered(cluster)[selected], offered(cluster)[cluster.nodes[0]]) == (2, 0),
            "SGX where the plugin is",
        )

    def test_more_pods_than_devices_wait_and_are_told_why(
        self, cluster: Cluster, namespace: str, selected: str, pods: Pods
    ) -> None:
        cluster.wait(lambda: offered(cluster)[selected] == 2, "2 devices")
        first, _second = pods.start(), pods.start()
        third = pods.begin()
        cluster.wait(
            lambda: f"Insufficient {SGX}" in cluster.describe(namespace), "the scheduler's reason"
        )
        assert pods.status(third)["phase"] == "Pending"
        pods.delete(first)
        cluster.wait(lambda: pods.status(third)["phase"] == "Running", "the third pod's turn")

    def test_without_labels_it_has_no_token_and_leaves_them_as_they_are(
        self, cluster: Cluster, plugin: Release, selected: str
    ) -> None:
        spec = plugin_on(plugin, selected)["spec"]
        assert not [volume for volume in spec["volumes"] if "projected" in volume]
        cluster.kubectl("label", "node", selected, f"{SIMULATION}-")
        assert "is labelled" not in plugin_log(plugin, selected)
        assert labels(cluster, selected) == {}


def test_a_plugin_whose_socket_directory_is_a_file_is_told_where_one_looks(
    cluster: Cluster, namespace: str, plugin: Release, pods: Pods
) -> None:
    pod = copied(plugin_on(plugin, pods.node), "misplaced")
    for volume in pod["spec"]["volumes"]:
        if volume["name"] == "socket":
            volume["hostPath"]["path"] = "/etc/hostname"
    cluster.apply(json.dumps(pod), namespace)
    expected = "hostPath type check failed: /etc/hostname is not a directory"
    cluster.wait(
        lambda: expected in cluster.kubectl("describe", "pod", "misplaced", "-n", namespace).stdout,
        "the reason",
        seen=lambda: cluster.describe(namespace),
    )


@pytest.fixture
def owned(cluster: Cluster, pods: Pods) -> Iterator[str]:
    """A node that belongs to another object, as those of some autoscalers do."""
    owner = cluster.get("namespace", "kube-system")["metadata"]
    reference = {"apiVersion": "v1", "kind": "Namespace", "name": owner["name"]}
    _own(cluster, pods.node, [{**reference, "uid": owner["uid"]}])
    try:
        yield pods.node
    finally:
        _own(cluster, pods.node, None)


def _own(cluster: Cluster, node: str, references: list[dict[str, str]] | None) -> None:
    patch = json.dumps({"metadata": {"ownerReferences": references}})
    cluster.kubectl("patch", "node", node, "--type=merge", "-p", patch)


def test_a_node_with_an_owner_is_labelled(cluster: Cluster, plugin: Release, owned: str) -> None:
    cluster.kubectl("label", "node", owned, f"{SIMULATION}-")
    renew(plugin, owned)
    cluster.wait(
        lambda: labels(cluster, owned) == {SIMULATION: "true"},
        "the label",
        seen=lambda: plugin_log(plugin, owned),
    )
    wait_known(plugin, owned)
