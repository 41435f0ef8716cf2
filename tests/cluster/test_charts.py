"""The charts on a real cluster: what `helm install`, `test`, `upgrade` and `uninstall` do."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tools.charts import write_repository

from tests.cluster.charts import (
    CHARTS,
    InsideCas,
    Release,
    chart_installed,
    las_keys,
    left_of,
    namespace_of_its_own,
    offered,
)
from tests.cluster.rig import Cluster

_SUBJECT = "system:serviceaccount:kube-system:las"
_CAS = {"address": "cas.example", "keyHash": "3s1pm8W6Be6c"}
_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.mark.parametrize(
    ("chart", "values", "told"),
    [
        ("cas", {}, ["logs cas-0 | grep 'CAS key hash is'", "cas attest localhost -c KEYHASH"]),
        ("cas", {}, ["crannog cas las add KEY", "delete persistentvolumeclaim state-cas-0"]),
        ("cas", {"minimumLevel": "simulation"}, ["level is SIMULATION"]),
        ("cas", {"persistence": {"enabled": False}}, ["WITHOUT PERSISTENCE"]),
        ("cas", {"changeMinimumLevel": True}, ["set it back to false"]),
        ("cas", {"lasEnrolment": {"subjects": [_SUBJECT]}}, [f"LASes of {_SUBJECT} enrol"]),
        ("cas", {"test": {"image": "x"}}, ["helm -n here test cas --logs"]),
        ("las", {}, ["grep 'has public key'", "label namespace NAMESPACE crannog/protected=true"]),
        ("las", {}, ["uninstall las` takes the protection", "/var/lib/crannog/las, the LAS's key"]),
        ("las", {"cas": _CAS}, ["enrol themselves at cas.example", "serviceaccount:here:las"]),
        ("sgxdevplugin", {}, ["limits: {sgx.k8s.io/sgx: 1}", "helm install las", "no SGX device"]),
        ("sgxdevplugin", {"simulation": True}, ["IN SIMULATION", "label nodes --all sgx.intel"]),
    ],
)
def test_the_notes_say_what_to_do_next(
    cluster: Cluster, chart: str, values: dict[str, Any], told: list[str]
) -> None:
    needed = {"image": "x.invalid/x"} | ({"minimumLevel": "node"} if chart == "cas" else {})
    said = cluster.helm(
        *("install", chart, str(CHARTS / chart), "-n", "here", "--dry-run=server"),
        *("--values", "-"),
        input=json.dumps(needed | values),
    ).stdout
    notes = said.partition("\nNOTES:\n")[2]
    assert [each for each in told if each not in notes] == []


def test_the_plugins_test_measures_with_the_nodes_launcher(plugin: Release) -> None:
    assert re.search(r"^[0-9a-f]{64}$", plugin.test(), re.MULTILINE)


def test_the_plugin_labels_its_node_and_no_policy_is_in_its_way(
    cluster: Cluster, plugin: Release
) -> None:
    def labelled() -> bool:
        nodes = cluster.get("nodes")["items"]
        return all(
            node["metadata"]["labels"].get("sgx.k8s.io/simulation") == "true" for node in nodes
        )

    cluster.wait(labelled, "every node's label")


def test_the_plugins_account_can_change_nothing_else(
    cluster: Cluster, plugin: Release, tmp_path: Path
) -> None:
    (pod, *_) = plugin.pods()
    name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
    other = next(each for each in cluster.nodes if each != node)
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={name}")
    label = {"metadata": {"labels": {"sgx.k8s.io/simulation": "true"}}}
    only = "the labels sgx.intel.com/capable and sgx.k8s.io/simulation and nothing else"
    for which, options, change, reason in (
        (node, bound, label, ""),
        (node, bound, {"metadata": {"labels": {"other": "x"}}}, only),
        (node, bound, {"metadata": {"labels": {"kubernetes.io/hostname": None}}}, only),
        (node, bound, {"metadata": {"annotations": {"other": "x"}}}, only),
        (node, bound, {"metadata": {"finalizers": ["a/b"]}}, only),
        (node, bound, {"spec": {"unschedulable": True}}, only),
        (other, bound, label, "the node that its pod is on and no other"),
        (node, (), label, "the node that its pod is on and no other"),
    ):
        token = cluster.kubectl(
            "create", "token", plugin.full_name, "-n", plugin.namespace, *options
        ).stdout
        answer = _patch_node(cluster, token, which, change, tmp_path)
        assert answer["kind"] == ("Status" if reason else "Node"), answer
        assert reason in answer.get("message", "")


def _patch_node(
    cluster: Cluster, token: str, node: str, change: dict[str, Any], directory: Path
) -> dict[str, Any]:
    """The API server's answer to whoever has the token; nothing is changed."""
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "-o", "json").stdout)
    server = config["clusters"][0]["cluster"]["server"]
    header = directory / "header"
    header.write_text(f"Authorization: Bearer {token.strip()}\n")
    done = cluster.user(
        [
            *("curl", "-sk", "-X", "PATCH", "-H", f"@{header}", "-d", json.dumps(change)),
            *("-H", "Content-Type: application/merge-patch+json"),
            f"{server}/api/v1/nodes/{node}?dryRun=All",
        ]
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_lass_test_says_level_node(las: Release) -> None:
    said = las.test()
    assert re.search(r"^level: +node$", said, re.MULTILINE)
    assert any(key in said for key in las_keys(las))


def test_the_lass_test_fails_below_the_level_that_is_asked_for(las: Release) -> None:
    values = las.given()
    try:
        las.upgrade(values | {"test": values["test"] | {"level": "hardware"}})
        done = las.try_test()
        assert done.returncode != 0
        assert re.search(r"^level: +node$", done.stdout, re.MULTILINE)
    finally:
        las.upgrade(values)


def test_the_plugins_test_fails_where_no_node_has_the_resource(plugin: Release) -> None:
    values = plugin.given()
    try:
        plugin.upgrade(values | {"test": values["test"] | {"resource": "nowhere.example/sgx"}})
        assert plugin.try_test(seconds=5).returncode != 0
        pod = plugin.cluster.get("pod", f"{plugin.full_name}-test", "-n", plugin.namespace)
        assert "Insufficient nowhere.example/sgx" in json.dumps(pod["status"])
    finally:
        plugin.upgrade(values)


def test_the_cass_test_attests(inside_cas: InsideCas) -> None:
    said = inside_cas.release.test()
    assert "attested at level simulation or above" in said
    assert f"configured by CAS at {inside_cas.address}:18765 at level simulation" in said


def test_the_cass_test_waits_for_a_cas_that_starts(
    cluster: Cluster, cluster_images: dict[str, str]
) -> None:
    values: dict[str, Any] = {"minimumLevel": "simulation", "persistence": {"enabled": False}}
    with (
        namespace_of_its_own(cluster, "cas", _RESTRICTED) as namespace,
        chart_installed(cluster, cluster_images, "cas", values, namespace=namespace) as release,
        ThreadPoolExecutor(1) as beside,
    ):
        scale = ("scale", "statefulset", "cas", "-n", namespace)
        cluster.kubectl(*scale, "--replicas=0")
        cluster.kubectl("wait", "pod/cas-0", "-n", namespace, "--for=delete", "--timeout=60s")
        tested = beside.submit(release.try_test)
        trying = ("logs", "cas-test", "-n", namespace, "-c", "session")
        cluster.wait(
            lambda: "connection refused" in cluster.kubectl(*trying, check=False).stdout,
            "the test has tried once",
            seen=lambda: cluster.describe(namespace),
        )
        cluster.kubectl(*scale, "--replicas=1")
        done = tested.result()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "attested at level simulation or above" in done.stdout


def test_a_cas_of_level_node_attests_what_an_enrolled_las_vouches_for(
    cluster: Cluster, cluster_images: dict[str, str], las: Release
) -> None:
    values: dict[str, Any] = {"minimumLevel": "node", "persistence": {"enabled": False}}
    with (
        namespace_of_its_own(cluster, "cas", _RESTRICTED) as namespace,
        chart_installed(cluster, cluster_images, "cas", values, namespace=namespace) as release,
    ):
        cas = InsideCas(release)
        refused = cluster.helm("test", "cas", "-n", namespace, "--timeout", "60s", check=False)
        assert refused.returncode != 0
        cas.enrol(las)
        assert "configured by CAS at cas." in (said := release.test())
        assert "at level node" in said
        assert "attested at level node or above" in said


def test_uninstalling_plugin_and_las_leaves_only_what_they_say(
    cluster: Cluster, cluster_images: dict[str, str], las: Release, plugin: Release
) -> None:
    """The releases of the session stay; these are others, on no node."""
    del las, plugin
    nowhere = {"nodeSelector": {"nowhere": "here"}}
    for chart in ("las", "sgxdevplugin"):
        release = Release(
            cluster, chart, f"{chart}-{secrets.token_hex(3)}", "default", cluster_images
        )
        release.upgrade(nowhere)
        assert left_of(cluster, "default", release.name)
        release.uninstall()
        assert not left_of(cluster, "default", release.name)


def test_the_repository_serves_the_tutorials_command(
    cluster: Cluster, cluster_images: dict[str, str], tmp_path: Path
) -> None:
    cluster.leave_alone(("daemonset/sgxdevplugin", "default"))
    prefix = cluster_images["python"].rpartition("/")[0]
    write_repository(
        tmp_path / "charts",
        registry=prefix,
        defaults={"sgxdevplugin": {"simulation": "true", "nodeSelector": "{nowhere: here}"}},
        epoch=0,
    )
    home = {"HELM_CACHE_HOME": f"{tmp_path}/c", "HELM_CONFIG_HOME": f"{tmp_path}/f"}
    port = 20000 + secrets.randbelow(10000)
    with _web_server(cluster, tmp_path / "charts", port):

        def helm(*arguments: str) -> str:
            return cluster.user(["helm", *arguments], environment=home).stdout

        helm("repo", "add", "sconeapps", f"http://127.0.0.1:{port}")
        found = json.loads(helm("search", "repo", "sconeapps", "-o", "json"))
        assert {each["name"] for each in found} == {
            "sconeapps/cas",
            "sconeapps/las",
            "sconeapps/sgxdevplugin",
        }
        try:
            helm("install", "sgxdevplugin", "sconeapps/sgxdevplugin")
            daemon = cluster.get("daemonset", "sgxdevplugin")
            (container,) = daemon["spec"]["template"]["spec"]["containers"]
            assert container["image"] == f"{prefix}/sgx-plugin:latest"
        finally:
            helm("uninstall", "sgxdevplugin")


def test_every_node_is_served(plugin: Release) -> None:
    assert set(offered(plugin.cluster).values()) == {110}


class _web_server:  # noqa: N801  # used as a function is
    """A directory over HTTP where the user sits, once it answers."""

    def __init__(self, cluster: Cluster, directory: Path, port: int) -> None:
        self._cluster, self._directory, self._port = cluster, directory, port
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> None:
        command = [sys.executable, "-m", "http.server", str(self._port), "--bind", "127.0.0.1"]
        self._process = self._cluster.start_user(
            command, cwd=self._directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ask = ["curl", "-sf", f"http://127.0.0.1:{self._port}/index.yaml"]
        self._cluster.wait(
            lambda: self._cluster.user(ask, check=False).returncode == 0, "the web server"
        )

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
