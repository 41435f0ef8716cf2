"""The charts on a real cluster: what `helm install`, `test`, `upgrade` and `uninstall` do."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tools.charts import write_repository

from tests.cluster.charts import (
    InsideCas,
    Release,
    chart_installed,
    las_keys,
    namespace_of_its_own,
    offered,
    post_session,
    run_to_its_end,
)
from tests.cluster.rig import Cluster

_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
_KEPT = """\
name: kept
version: "0.2"
services:
  - name: app
    mrenclaves: [MRENCLAVE]
    command: /usr/bin/echo secret:$$SCONE::S.hex$$
secrets:
  - {name: S, kind: binary, size: 16}
"""
_SHOWN = re.compile(r"^secret:(\S+)$", re.MULTILINE)


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


def test_the_cass_test_attests(inside_cas: InsideCas) -> None:
    said = inside_cas.release.test()
    assert "attested at level simulation or above" in said
    assert f"configured by CAS at {inside_cas.address}:18765 at level simulation" in said


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


@pytest.fixture
def kept(cluster: Cluster, cluster_images: dict[str, str]) -> Iterator[Release]:
    """A CAS with a directory of a node; that, the claim and the volume are removed at the end."""
    local = cluster.local
    if local is None:
        pytest.skip("this makes a directory on a node, which is not of this machine")
    node, path = cluster.nodes[0], f"/var/lib/test-cas-{secrets.token_hex(4)}"
    local.on_node(node, "mkdir", path)
    values: dict[str, Any] = {
        "minimumLevel": "simulation",
        "persistence": {"local": {"path": path, "node": node}},
    }
    with namespace_of_its_own(cluster, "kept", _RESTRICTED) as namespace:
        try:
            with chart_installed(
                cluster, cluster_images, "cas", values, namespace=namespace
            ) as release:
                yield release
        finally:
            cluster.kubectl("delete", "pvc", "--all", "-n", namespace, check=False)
            cluster.kubectl("delete", "pv", f"{namespace}-cas-state", check=False)
            local.on_node(node, "rm", "-r", path)


def test_sessions_and_secrets_outlive_upgrade_and_uninstall(kept: Release) -> None:
    cluster, cas = kept.cluster, InsideCas(kept)
    values = json.loads(
        cluster.helm("get", "values", "cas", "-n", kept.namespace, "-o", "json").stdout
    )
    key_hash = cas.key_hash
    first = _secret_of_a_session(kept, create=True)

    kept.upgrade(values | {"podAnnotations": {"upgraded": "yes"}, "hostNames": ["cas.example"]})
    assert cas.key_hash == key_hash
    assert _secret_of_a_session(kept) == first

    said = kept.uninstall()
    assert "test-" in said or "kept" in said  # helm names the volume that it keeps
    cluster.wait(
        lambda: _left(cluster, kept.namespace, "cas") == {"persistentvolumeclaim/state-cas-0"},
        "the claim alone to be left",
    )
    kept.upgrade(values)
    assert cas.key_hash == key_hash
    assert _secret_of_a_session(kept) == first


def test_the_minimum_level_is_changed_by_an_upgrade_that_says_so(kept: Release) -> None:
    cluster, cas = kept.cluster, InsideCas(kept)
    values = json.loads(
        cluster.helm("get", "values", "cas", "-n", kept.namespace, "-o", "json").stdout
    )
    key_hash = cas.key_hash
    kept.upgrade(values | {"minimumLevel": "node", "changeMinimumLevel": True})
    kept.upgrade(values | {"minimumLevel": "node"})
    assert "CAS minimum trust level is node" in kept.logs(cas.pod)
    assert cas.key_hash == key_hash


def test_another_level_without_saying_so_is_refused_where_one_looks(kept: Release) -> None:
    cluster, cas = kept.cluster, InsideCas(kept)
    values = json.loads(
        cluster.helm("get", "values", "cas", "-n", kept.namespace, "-o", "json").stdout
    )
    cluster.helm(
        *(
            "upgrade",
            "cas",
            str(Path("charts/cas").resolve()),
            "-n",
            kept.namespace,
            "--values",
            "-",
        ),
        input=json.dumps(values | {"minimumLevel": "node"}),
    )

    def said() -> bool:
        pod = cluster.get("pod", cas.pod, "-n", kept.namespace)
        return "but the database was created with" in json.dumps(pod["status"])

    cluster.wait(
        said, "the reason in the pod's status", seen=lambda: cluster.describe(kept.namespace)
    )


def test_without_persistence_everything_is_lost_with_the_pod(
    cluster: Cluster, cluster_images: dict[str, str]
) -> None:
    values: dict[str, Any] = {"minimumLevel": "simulation", "persistence": {"enabled": False}}
    with (
        namespace_of_its_own(cluster, "lost") as namespace,
        chart_installed(cluster, cluster_images, "cas", values, namespace=namespace) as release,
    ):
        assert "WITHOUT PERSISTENCE" in release.upgrade(values)
        cas = InsideCas(release)
        before = cas.key_hash
        cluster.kubectl("delete", "pod", cas.pod, "-n", namespace)
        cluster.wait_ready(namespace, release.workload)
        assert cas.key_hash != before
        release.uninstall()
        cluster.wait(lambda: not _left(cluster, namespace, "cas"), "nothing to be left")


def test_a_key_from_a_secret_opens_the_database_and_another_does_not(kept: Release) -> None:
    cluster, cas = kept.cluster, InsideCas(kept)
    values = kept.given()
    _clear(kept)
    _set_master_key(kept, "5a" * 32)
    values["masterKey"] = {"existingSecret": "master-key"}
    kept.upgrade(values)
    key_hash = cas.key_hash
    listed = cas.command("cas", "las", "list", "--key-provider", "env:CRANNOG_MASTER_KEY")
    assert listed == ""
    kept.upgrade(values | {"podAnnotations": {"again": "yes"}})
    assert cas.key_hash == key_hash

    _set_master_key(kept, "a5" * 32)
    cluster.kubectl("delete", "pod", cas.pod, "-n", kept.namespace)

    def refused() -> bool:
        pod = cluster.kubectl(
            "get", "pod", cas.pod, "-n", kept.namespace, "-o", "json", check=False
        )
        return "variable CRANNOG_MASTER_KEY" in pod.stdout.partition('"status"')[2]

    cluster.wait(refused, "the reason in the status", seen=lambda: cluster.describe(kept.namespace))


def test_a_budget_of_none_keeps_the_cas_from_being_evicted(
    cluster: Cluster, cluster_images: dict[str, str]
) -> None:
    values: dict[str, Any] = {
        "minimumLevel": "simulation",
        "persistence": {"enabled": False},
        "podDisruptionBudget": {"maxUnavailable": 0},
    }
    with (
        namespace_of_its_own(cluster, "budget") as namespace,
        chart_installed(cluster, cluster_images, "cas", values, namespace=namespace),
    ):
        cluster.wait(
            lambda: cluster.get("pdb", "cas", "-n", namespace)["status"].get("expectedPods"),
            "the budget to count its pod",
        )
        eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "cas-0"}}
        done = cluster.kubectl(
            *("create", "--raw", f"/api/v1/namespaces/{namespace}/pods/cas-0/eviction"),
            *("-f", "-"),
            input=json.dumps(eviction),
            check=False,
        )
        assert "violate the pod's disruption budget" in done.stderr


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
        assert _left(cluster, "default", release.name)
        release.uninstall()
        assert not _left(cluster, "default", release.name)


def test_the_repository_serves_the_tutorials_command(
    cluster: Cluster, cluster_images: dict[str, str], tmp_path: Path
) -> None:
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


def _clear(release: Release) -> None:
    """Remove the release and what it keeps, the directory's content too."""
    cluster, local = release.cluster, release.cluster.local
    assert local is not None
    place = release.given()["persistence"]["local"]
    release.uninstall()
    cluster.kubectl("delete", "pvc", "--all", "-n", release.namespace)
    cluster.kubectl("delete", "pv", f"{release.namespace}-cas-state")
    local.on_node(place["node"], "sh", "-c", f"rm -rf {place['path']}/*")


def _set_master_key(release: Release, key: str) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "master-key"},
        "stringData": {"master-key": key},
    }
    release.cluster.apply(json.dumps(secret), release.namespace)


def _left(cluster: Cluster, namespace: str, release: str) -> set[str]:
    """What of a release is there, in its namespace and of the whole cluster but for volumes."""
    kinds = (
        "pods,services,serviceaccounts,configmaps,secrets,statefulsets,daemonsets,networkpolicies,"
        "poddisruptionbudgets,persistentvolumeclaims,clusterroles,clusterrolebindings,"
        "validatingadmissionpolicies,validatingadmissionpolicybindings"
    )
    chosen = f"app.kubernetes.io/instance={release},app.kubernetes.io/name!=cas-test"
    found = cluster.get(kinds, "-n", namespace, "-l", chosen)["items"]
    return {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in found}


def _secret_of_a_session(release: Release, *, create: bool = False) -> str:
    """What an attested program is given of a secret that the CAS generated, of a session `kept`."""
    cas, cluster = InsideCas(release), release.cluster
    image = release.images["python"]
    program = ["/crannog/run", "--", "/usr/bin/echo"]
    if create:
        post_session(cluster, release.namespace, image, cas.address, _KEPT, program)
    environment = {"SCONE_CAS_ADDR": cas.address, "SCONE_CONFIG_ID": "kept/app"}
    said = run_to_its_end(cluster, release.namespace, image, program, environment)
    found = _SHOWN.search(said)
    assert found is not None, said
    return found[1]


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
