"""Where the CAS of the chart keeps its state, and what an upgrade or a removal makes of that."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.cluster.charts import (
    CHARTS,
    InsideCas,
    Release,
    chart_installed,
    left_of,
    namespace_of_its_own,
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
_LEVEL: dict[str, Any] = {"minimumLevel": "simulation"}
_DEFAULT = "storageclass.kubernetes.io/is-default-class"


@contextmanager
def _directory(cluster: Cluster) -> Iterator[tuple[str, str]]:
    """A node and an empty directory on it, removed at the end."""
    local = cluster.local
    if local is None:
        pytest.skip("this makes a directory on a node, which is not of this machine")
    node, path = cluster.nodes[0], f"/var/lib/test-cas-{secrets.token_hex(4)}"
    local.on_node(node, "mkdir", path)
    try:
        yield node, path
    finally:
        local.on_node(node, "rm", "-r", path)


@pytest.fixture
def kept(cluster: Cluster, cluster_images: dict[str, str]) -> Iterator[Release]:
    """A CAS with a directory of a node; that, the claim and the volume are removed at the end."""
    with (
        _directory(cluster) as (node, path),
        namespace_of_its_own(cluster, "kept", _RESTRICTED) as namespace,
    ):
        values = _LEVEL | {"persistence": {"local": {"path": path, "node": node}}}
        try:
            with chart_installed(
                cluster, cluster_images, "cas", values, namespace=namespace
            ) as release:
                yield release
        finally:
            cluster.kubectl("delete", "pvc", "--all", "-n", namespace, check=False)
            cluster.kubectl("delete", "pv", f"{namespace}-cas-state", check=False)


def test_sessions_and_secrets_outlive_upgrade_and_uninstall(kept: Release) -> None:
    cluster, cas = kept.cluster, InsideCas(kept)
    values = kept.given()
    key_hash = cas.key_hash
    first = _secret_of_a_session(kept, create=True)

    kept.upgrade(values | {"podAnnotations": {"upgraded": "yes"}, "hostNames": ["cas.example"]})
    assert cas.key_hash == key_hash
    assert _secret_of_a_session(kept) == first

    said = kept.uninstall()
    assert "test-" in said or "kept" in said  # helm names the volume that it keeps
    cluster.wait(
        lambda: left_of(cluster, kept.namespace, "cas") == {"persistentvolumeclaim/state-cas-0"},
        "the claim alone to be left",
    )
    kept.upgrade(values)
    assert cas.key_hash == key_hash
    assert _secret_of_a_session(kept) == first


def test_another_level_is_refused_where_one_looks_until_an_upgrade_says_that_it_is_meant(
    kept: Release,
) -> None:
    cluster, cas = kept.cluster, InsideCas(kept)
    values, key_hash = kept.given(), cas.key_hash
    cluster.helm(
        *("upgrade", "cas", str(CHARTS / "cas"), "-n", kept.namespace, "--values", "-"),
        input=json.dumps(values | {"minimumLevel": "node"}),
    )
    _wait_for_reason(kept, cas.pod, "but the database was created with")
    # The pod that never got ready is replaced without anybody's help.
    kept.upgrade(values | {"minimumLevel": "node", "changeMinimumLevel": True})
    kept.upgrade(values | {"minimumLevel": "node"})
    assert "CAS minimum trust level is node" in kept.logs(cas.pod)
    assert cas.key_hash == key_hash


@pytest.fixture
def sealed(cluster: Cluster, cluster_images: dict[str, str]) -> Iterator[Release]:
    """A CAS on a volume of the default storage class, sealed by the key of a Secret."""
    with (
        _directory(cluster) as (node, path),
        namespace_of_its_own(cluster, "sealed", _RESTRICTED) as namespace,
    ):
        if any(
            each["metadata"].get("annotations", {}).get(_DEFAULT) == "true"
            for each in cluster.get("storageclasses")["items"]
        ):
            pytest.skip("the cluster has a default storage class of its own")
        cluster.apply(json.dumps(_class_and_volume(namespace, node, path)))
        _set_master_key(cluster, namespace, "5a" * 32)
        values = _LEVEL | {"masterKey": {"existingSecret": "master-key"}}
        try:
            with chart_installed(
                cluster, cluster_images, "cas", values, namespace=namespace
            ) as release:
                yield release
        finally:
            cluster.kubectl("delete", "pvc", "--all", "-n", namespace, check=False)
            cluster.kubectl("delete", f"pv/{namespace}", f"storageclass/{namespace}", check=False)


def test_a_volume_of_the_default_class_has_one_cas_and_opens_by_its_key_alone(
    sealed: Release,
) -> None:
    cluster, cas = sealed.cluster, InsideCas(sealed)
    key_hash = cas.key_hash
    listed = cas.command("cas", "las", "list", "--key-provider", "env:CRANNOG_MASTER_KEY")
    assert listed == ""

    second = Release(cluster, "cas", "second-cas", sealed.namespace, sealed.images)
    claimed = sealed.given() | {"persistence": {"existingClaim": "state-cas-0"}}
    cluster.helm(
        *("install", second.name, str(CHARTS / "cas"), "-n", sealed.namespace, "--values", "-"),
        input=json.dumps(second.values(claimed)),
    )
    _wait_for_reason(second, "second-cas-0", "expected one CAS per database")
    second.uninstall()

    cluster.kubectl("delete", "pod", cas.pod, "-n", sealed.namespace)
    cluster.wait_ready(sealed.namespace, sealed.workload)
    assert cas.key_hash == key_hash

    _set_master_key(cluster, sealed.namespace, "a5" * 32)
    cluster.kubectl("delete", "pod", cas.pod, "-n", sealed.namespace)
    _wait_for_reason(sealed, cas.pod, "variable CRANNOG_MASTER_KEY")


def test_without_persistence_a_budget_keeps_the_pod_and_everything_goes_with_it(
    cluster: Cluster, cluster_images: dict[str, str]
) -> None:
    values = _LEVEL | {
        "persistence": {"enabled": False},
        "podDisruptionBudget": {"maxUnavailable": 0},
    }
    with (
        namespace_of_its_own(cluster, "lost") as namespace,
        chart_installed(cluster, cluster_images, "cas", values, namespace=namespace) as release,
    ):
        assert "WITHOUT PERSISTENCE" in release.upgrade(values)
        cas = InsideCas(release)
        _is_not_evicted(cluster, namespace, cas.pod)
        before = cas.key_hash
        cluster.kubectl("delete", "pod", cas.pod, "-n", namespace)
        cluster.wait_ready(namespace, release.workload)
        assert cas.key_hash != before
        release.uninstall()
        cluster.wait(lambda: not left_of(cluster, namespace, "cas"), "nothing to be left")


def _is_not_evicted(cluster: Cluster, namespace: str, pod: str) -> None:
    cluster.wait(
        lambda: cluster.get("pdb", "cas", "-n", namespace)["status"].get("expectedPods"),
        "the budget to count its pod",
    )
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
    done = cluster.kubectl(
        *("create", "--raw", f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction", "-f", "-"),
        input=json.dumps(eviction),
        check=False,
    )
    assert "violate the pod's disruption budget" in done.stderr


def _wait_for_reason(release: Release, pod: str, reason: str) -> None:
    """Until the pod's status has it, where `kubectl describe pod` shows it."""
    cluster, namespace = release.cluster, release.namespace

    def said() -> bool:
        found = cluster.kubectl("get", "pod", pod, "-n", namespace, "-o", "json", check=False)
        return reason in found.stdout.partition('"status"')[2]

    cluster.wait(said, reason, seen=lambda: cluster.describe(namespace))


def _class_and_volume(name: str, node: str, path: str) -> dict[str, Any]:
    """The cluster's default storage class, and its one volume, a directory of a node."""
    term = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
    return {
        "apiVersion": "v1",
        "kind": "List",
        "items": [
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": name, "annotations": {_DEFAULT: "true"}},
                "provisioner": "kubernetes.io/no-provisioner",
                "volumeBindingMode": "WaitForFirstConsumer",
            },
            {
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {"name": name},
                "spec": {
                    "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteOnce"],
                    "persistentVolumeReclaimPolicy": "Retain",
                    "storageClassName": name,
                    "local": {"path": path},
                    "nodeAffinity": {
                        "required": {"nodeSelectorTerms": [{"matchExpressions": [term]}]}
                    },
                },
            },
        ],
    }


def _set_master_key(cluster: Cluster, namespace: str, key: str) -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "master-key"},
        "stringData": {"master-key": key},
    }
    cluster.apply(json.dumps(secret), namespace)


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
