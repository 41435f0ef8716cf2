"""Launcher releases on real nodes: side by side, damaged, and where they cannot be."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.charts import LEAST, Release, offered
from tests.cluster.device_pods import (
    LAUNCHERS,
    Pods,
    another_release,
    changed,
    plugin_log,
    renew,
    wait_known,
)
from tests.cluster.rig import Cluster

# As docs/kubernetes.md has it.
MOUNTED = r"grep -hoE '/launcher/(\.changed-)?[0-9a-f]{64}' /proc/[0-9]*/mountinfo | sort -u"
GUIDE = Path(__file__).parents[2] / "docs" / "kubernetes.md"


def test_releases_lie_side_by_side_and_an_upgrade_touches_no_running_pod(
    cluster: Cluster, node: str, plugin: Release, pods: Pods
) -> None:
    assert cluster.local is not None
    standing = pods.start()
    first = pods.ask(standing, "cat /run/crannog/launcher/digest").strip()
    second = {}
    for each in cluster.nodes:
        launchers = cluster.local.state / each / LAUNCHERS.removeprefix("/")
        second[each] = another_release(launchers, first)
    digest = second[node]
    try:
        with changed(plugin, extraArgs=[f"--release={digest}"]):
            later = pods.start()
            assert MOUNTED in GUIDE.read_text()
            mounted = cluster.on_node(node, "sh", "-c", MOUNTED)
            assert {first, digest} <= set(mounted.replace("/launcher/", "").split())
            assert pods.ask(later, "cat /run/crannog/launcher/digest").strip() == digest
            assert pods.ask(standing, "cat /run/crannog/launcher/digest").strip() == first
            assert pods.ask(standing, "/run/crannog/launcher/run -- /bin/echo still") == "still\n"
            pods.delete(later)
    finally:
        for each in cluster.nodes:
            cluster.on_node(each, "rm", "-rf", f"{LAUNCHERS}/{digest}")


def test_a_release_that_was_changed_is_given_to_nobody_and_made_anew(
    cluster: Cluster, node: str, plugin: Release, pods: Pods
) -> None:
    standing = pods.start()
    before = pods.container(standing)
    digest = pods.ask(standing, "cat /run/crannog/launcher/digest").strip()
    cluster.on_node(node, "sh", "-c", f"echo '# mine' >> {LAUNCHERS}/{digest}/etc/openssl.cnf")
    try:
        cluster.wait(lambda: offered(cluster)[node] == 0, "no SGX with a changed launcher")
        log = plugin_log(plugin, node)
        assert "its own file says" in log
        assert "delete the plugin's pod on this node" in log
        later = pods.begin()
        name = renew(plugin, node)
        cluster.wait(lambda: pods.status(later)["phase"] == "Running", "the waiting pod")
        said = cluster.kubectl(
            "logs", name, "-c", "install-launcher", "-n", plugin.namespace
        ).stdout
        assert re.search(rf"was not whole, and is \.changed-{digest}-\d+ now", said), said
        last = "tail -n 1 /run/crannog/launcher/etc/openssl.cnf"
        assert pods.ask(later, last) != "# mine\n"
        # Who has it mounted keeps it, whatever its name is.
        assert pods.ask(standing, last) == "# mine\n"
        assert pods.container(standing) == before
        assert pods.ask(standing, "/run/crannog/launcher/run -- /bin/echo still") == "still\n"
    finally:
        if not offered(cluster)[node]:  # the test has failed: nobody else shall
            renew(plugin, node)
            wait_known(plugin, node)
        cluster.on_node(node, "sh", "-c", f"rm -rf {LAUNCHERS}/.changed-{digest}-*")


@pytest.fixture
def place(cluster: Cluster, node: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A directory of the node on a file system that is mounted as the parameter says."""
    path = "/run/launchers-of-a-test"
    options = f"mode=0755,{request.param}"
    cluster.on_node(node, "mkdir", path)
    cluster.on_node(node, "mount", "-t", "tmpfs", "-o", options, "tmpfs", path)
    try:
        yield path
    finally:
        cluster.on_node(node, "umount", "--lazy", path)
        cluster.on_node(node, "rmdir", path)


def _installing(plugin: Release, node: str, place: str) -> dict[str, Any]:
    """A pod that installs as the chart's init container does, into another directory."""
    container = {
        "name": "main",
        "image": plugin.images["sgx-plugin"],
        "args": ["install-launcher", "--from", "/crannog", "--to", "/launchers"],
        "securityContext": LEAST,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": [{"name": "launchers", "mountPath": "/launchers"}],
    }
    spec = {
        "nodeSelector": {"kubernetes.io/hostname": node},
        "restartPolicy": "OnFailure",
        "automountServiceAccountToken": False,
        "securityContext": {"runAsUser": 0, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "launchers", "hostPath": {"path": place}}],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "installs"}, "spec": spec}


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("noexec", "is on a file system mounted noexec"),
        ("ro", "read-only file system"),
        ("size=1m", "no space left on device; it needs"),
    ],
    indirect=["place"],
)
def test_a_place_that_cannot_hold_a_launcher_is_said_and_tried_until_it_can(
    cluster: Cluster,
    namespace: str,
    node: str,
    plugin: Release,
    pods: Pods,
    place: str,
    said: str,
) -> None:
    cluster.apply(json.dumps(_installing(plugin, node, place)), namespace)
    words = cluster.wait(
        lambda: pods.last_words("installs"), "its end", seen=lambda: cluster.describe(namespace)
    )
    assert said in words
    assert "Traceback" not in words
    if said.startswith("no space"):
        cluster.on_node(node, "mount", "-o", "remount,size=200m", place)
        cluster.wait(
            lambda: pods.status("installs")["phase"] == "Succeeded",
            "an installation where there is room",
            seen=lambda: cluster.describe(namespace),
        )
