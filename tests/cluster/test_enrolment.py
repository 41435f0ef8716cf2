"""LASes of the chart enrol themselves at a CAS of the chart, by tokens that this cluster signs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from tests.cluster.charts import (
    InsideCas,
    Release,
    chart_installed,
    las_keys,
    namespace_of_its_own,
)
from tests.cluster.rig import Cluster

_RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}
_DISCOVERY = "/.well-known/openid-configuration"


class Enrolling(NamedTuple):
    """A CAS that expects the tokens of a LAS's service account, and that LAS on every node."""

    cas: InsideCas
    las: Release

    def listed(self, *options: str) -> dict[str, dict[str, Any]]:
        """What `crannog cas las list` says, by the key."""
        said: list[dict[str, Any]] = json.loads(
            self.cas.command("cas", "las", "list", "--json", *options)
        )
        return {each["key"]: each for each in said}

    def wait(self, found: Callable[[], object], what: str) -> None:
        """Until it is found; else the logs of both ends."""
        cluster, release = self.las.cluster, self.cas.release
        cluster.wait(
            found,
            what,
            seen=lambda: release.logs(self.cas.pod) + cluster.describe(self.las.namespace),
        )

    def all_enrolled(self) -> dict[str, str]:
        """Wait for every node's LAS to be in the list under its node's name; their keys."""
        keys = las_keys(self.las)

        def enrolled() -> bool:
            listed = self.listed()
            live = {key: one["node"] for key, one in listed.items() if not one["expired"]}
            return {key: live[key] for key in keys if key in live} == keys

        self.wait(enrolled, "every node's LAS in the list, under its node's name")
        return keys

    def replace(self, node: str) -> str:
        """Kill the LAS of a node at once; the pod that came in its place."""
        cluster, namespace = self.las.cluster, self.las.namespace
        (before,) = self._pods_of(node)
        cluster.kubectl("delete", "pod", before, "-n", namespace, "--grace-period=0", "--force")

        def others() -> list[str]:
            return [pod for pod in self._pods_of(node) if pod != before]

        self.wait(others, f"another LAS on {node}")
        cluster.wait_ready(namespace, self.las.workload)
        (pod,) = others()
        return pod

    def _pods_of(self, node: str) -> list[str]:
        pods = [each for each in self.las.pods() if each["spec"]["nodeName"] == node]
        return [str(each["metadata"]["name"]) for each in pods]


@pytest.fixture(scope="module", params=["asked", "given"])
def enrolling(
    request: pytest.FixtureRequest, cluster: Cluster, cluster_images: dict[str, str]
) -> Iterator[Enrolling]:
    """The keys of the tokens asked of the API server, or given to the CAS; directories apart."""
    with (
        namespace_of_its_own(cluster, "cas", _RESTRICTED) as home,
        namespace_of_its_own(cluster, "enrols") as namespace,
    ):
        issuer = json.loads(cluster.kubectl("get", "--raw", _DISCOVERY).stdout)["issuer"]
        enrolment: dict[str, Any] = {
            "subjects": [f"system:serviceaccount:{namespace}:las"],
            "issuer": issuer,
        }
        if request.param == "given":
            enrolment["keys"] = cluster.kubectl("get", "--raw", "/openid/v1/jwks").stdout
        level = {"minimumLevel": "node", "persistence": {"enabled": False}}
        values = level | {"lasEnrolment": enrolment}
        with chart_installed(cluster, cluster_images, "cas", values, namespace=home) as release:
            cas = InsideCas(release)
            values = {
                "cas": {"address": cas.address, "keyHash": cas.key_hash},
                "admissionPolicy": {"enabled": False},
                "service": {"hostPort": False},
                "socketDirectory": f"/run/{namespace}",
                "stateDirectory": f"/var/lib/{namespace}",
            }
            with chart_installed(
                cluster, cluster_images, "las", values, namespace=namespace
            ) as las:
                yield Enrolling(cas, las)
        if cluster.local is not None:
            for node in cluster.nodes:
                cluster.on_node(node, "rm", "-r", f"/run/{namespace}", f"/var/lib/{namespace}")


def test_each_nodes_las_is_enrolled_under_its_nodes_name(enrolling: Enrolling) -> None:
    keys = enrolling.all_enrolled()
    assert set(keys.values()) == set(enrolling.las.cluster.nodes)
    listed = enrolling.listed()
    assert set(listed) == set(keys)
    assert {each["source"] for each in listed.values()} == {"token"}
    assert not any(each["expired"] for each in listed.values())
    for pod in enrolling.las.pods():
        name, node = pod["metadata"]["name"], pod["spec"]["nodeName"]
        said = f"LAS is enrolled at CAS {enrolling.cas.address}:18765 as node {node} until"
        assert said in enrolling.las.logs(name)


@pytest.mark.parametrize("enrolling", ["asked"], indirect=True)
def test_a_killed_las_comes_back_enrolled(enrolling: Enrolling) -> None:
    keys = enrolling.all_enrolled()
    pod = enrolling.replace(enrolling.las.cluster.nodes[0])
    enrolling.wait(lambda: "is enrolled at CAS" in enrolling.las.logs(pod), "the new pod enrolled")
    assert enrolling.all_enrolled() == keys
    assert pod in {each["pod"] for each in enrolling.listed().values()}


@pytest.mark.parametrize("enrolling", ["asked"], indirect=True)
def test_a_removed_las_stays_removed_until_it_is_readmitted(enrolling: Enrolling) -> None:
    keys = enrolling.all_enrolled()
    node = enrolling.las.cluster.nodes[-1]
    (key,) = (each for each, place in keys.items() if place == node)
    enrolling.cas.command("cas", "las", "remove", key)
    pod = enrolling.replace(node)
    enrolling.wait(lambda: "is not enrolled at CAS" in enrolling.las.logs(pod), "a refusal")
    assert "removed" in enrolling.las.logs(pod)
    assert key not in enrolling.listed()
    assert key in enrolling.listed("--removed")

    enrolling.cas.command("cas", "las", "readmit", key)
    enrolling.replace(node)
    assert enrolling.all_enrolled() == keys
