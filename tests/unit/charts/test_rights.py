"""What each component may do: the least, and nothing that is not said in docs/kubernetes.md."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.charts.helm import NAMES, Manifest, arguments, of, one, pod, render

_CAS = {"address": "cas.example", "keyHash": "3s1pm8W6Be6c"}
TESTED: dict[str, dict[str, Any]] = {
    "cas": {"test": {"image": "registry.invalid/python"}, "changeMinimumLevel": True},
    "las": {"test": {"image": "registry.invalid/python"}, "cas": _CAS},
    "sgxdevplugin": {"test": {"image": "registry.invalid/python", "casAddress": "cas.example"}},
}


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = spec["containers"] + spec.get("initContainers", [])
    return found


def _is_restricted(spec: dict[str, Any]) -> None:
    """Pod Security Standards, profile restricted."""
    whole = spec.get("securityContext", {})
    assert not any(spec.get(name) for name in ("hostPID", "hostIPC", "hostNetwork"))
    for volume in spec.get("volumes", []):
        assert set(volume) - {"name"} <= {
            *("configMap", "csi", "downwardAPI", "emptyDir", "ephemeral"),
            *("persistentVolumeClaim", "projected", "secret"),
        }
    for container in _containers(spec):
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert own["readOnlyRootFilesystem"] is True
        assert not own.get("privileged")
        assert own.get("runAsNonRoot", whole.get("runAsNonRoot")) is True
        assert own.get("runAsUser", whole.get("runAsUser", 0)) != 0
        profile = own.get("seccompProfile", whole.get("seccompProfile"))
        assert profile == {"type": "RuntimeDefault"}
        assert not any(port.get("hostPort") for port in container.get("ports", []))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"persistence": {"enabled": False}},
        {"persistence": {"local": {"path": "/srv/cas", "node": "node1"}}},
        {"changeMinimumLevel": True, "masterKey": {"existingSecret": "key"}},
        {"lasEnrolment": {"subjects": ["system:serviceaccount:kube-system:las"]}},
    ],
    ids=["claim", "without", "local", "level", "enrolment"],
)
def test_the_cas_is_within_the_restricted_profile(values: dict[str, Any]) -> None:
    _is_restricted(pod(render("cas", **values)))


@pytest.mark.parametrize("chart", NAMES)
def test_the_tests_pods_are_within_the_restricted_profile(chart: str) -> None:
    found = of(render(chart, **TESTED[chart]), "Pod")
    assert found
    for each in found:
        _is_restricted(each["spec"])


def test_the_cas_has_no_token_where_no_las_enrols_itself() -> None:
    spec = pod(render("cas"))
    assert spec["automountServiceAccountToken"] is False
    assert not any("projected" in volume for volume in spec.get("volumes", []))


def test_the_cas_has_no_right_in_the_cluster() -> None:
    made = render("cas", lasEnrolment={"subjects": ["system:serviceaccount:kube-system:las"]})
    kinds = {each["kind"] for each in made}
    assert kinds == {
        *("NetworkPolicy", "PodDisruptionBudget", "Service", "ServiceAccount", "StatefulSet"),
    }


def test_the_las_has_what_it_needs_and_no_more() -> None:
    made = render("las", cas=_CAS)
    spec = pod(made)
    assert spec["hostPID"] is True
    assert not any(spec.get(name) for name in ("hostIPC", "hostNetwork"))
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = spec["containers"]
    assert container["securityContext"] == {
        "privileged": False,
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE"]},
    }
    assert _host_paths(spec) == {
        "/run/crannog/las": "rw",
        "/var/lib/crannog/las": "rw",
        "/var/lib/crannog/launcher": "ro",
        "/run/containerd/io.containerd.runtime.v2.task/k8s.io": "ro",
        "/run/containerd/runc/k8s.io": "ro",
    }
    kinds = {each["kind"] for each in made}
    assert not kinds & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}


def test_the_lass_token_is_for_the_cas_alone() -> None:
    spec = pod(render("las", cas=_CAS | {"audience": "mine"}))
    assert spec["automountServiceAccountToken"] is False
    (token,) = [volume for volume in spec["volumes"] if "projected" in volume]
    (source,) = token["projected"]["sources"]
    assert source["serviceAccountToken"]["audience"] == "mine"


def test_a_las_that_enrols_nowhere_has_no_token() -> None:
    for cas in ({}, {"address": "cas.example", "enrol": False}):
        made = render("las", cas=cas)
        assert not any("projected" in volume for volume in pod(made)["volumes"])
        assert not any(each.startswith("--enrol") for each in arguments(made))


def test_the_plugin_has_what_it_needs_and_no_more() -> None:
    spec = pod(render("sgxdevplugin"))
    assert not any(spec.get(name) for name in ("hostPID", "hostIPC", "hostNetwork"))
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in _containers(spec):
        assert container["securityContext"] == {
            "privileged": False,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    assert _host_paths(spec) == {
        "/var/lib/kubelet/device-plugins": "rw",
        "/var/lib/crannog/launcher": "ro",
        "/dev": "ro",
        "/run/crannog/las": "ro",
    }
    (installer,) = spec["initContainers"]
    assert [each["name"] for each in installer["volumeMounts"]] == ["launchers"]


def test_the_plugin_may_patch_nodes_only_where_it_labels_them() -> None:
    (role,) = of(render("sgxdevplugin"), "ClusterRole")
    assert role["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["patch"]}]
    without = render("sgxdevplugin", labelNodes=False)
    assert not of(without, "ClusterRole")
    assert not of(without, "ClusterRoleBinding")
    assert pod(without)["automountServiceAccountToken"] is False


def test_what_the_plugin_may_patch_is_narrowed_by_a_policy() -> None:
    made = render("sgxdevplugin", namespace="kube-system")
    policy = one(made, "ValidatingAdmissionPolicy")["spec"]
    (who,) = policy["matchConditions"]
    assert "system:serviceaccount:kube-system:sgxdevplugin'" in who["expression"]
    assert policy["failurePolicy"] == "Fail"


@pytest.mark.parametrize("chart", NAMES)
def test_every_container_has_bounds(chart: str) -> None:
    made = render(chart, **TESTED[chart])
    for spec in (pod(made), *(each["spec"] for each in of(made, "Pod"))):
        for container in _containers(spec):
            assert container["resources"]["requests"]["cpu"]
            assert container["resources"]["limits"]["memory"]


@pytest.mark.parametrize("chart", NAMES)
def test_the_network_is_closed_but_for_what_is_said(chart: str) -> None:
    policy = one(render(chart, **TESTED[chart]), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    ports = [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    assert (
        ports
        == {
            "cas": ["client", "enclave"],
            "las": ["attestation"],
            "sgxdevplugin": ["status"],
        }[chart]
    )


@pytest.mark.parametrize("chart", ["cas", "las"])
def test_who_asks_nobody_may_connect_to_nobody(chart: str) -> None:
    assert one(render(chart), "NetworkPolicy")["spec"]["egress"] == []


def test_releases_do_not_choose_one_anothers_pods() -> None:
    def selector(made: list[Manifest]) -> object:
        return (of(made, "StatefulSet") + of(made, "DaemonSet"))[0]["spec"]["selector"]

    for chart in NAMES:
        assert selector(render(chart, release="a")) != selector(render(chart, release="b"))
    assert selector(render("cas", release="x")) != selector(render("las", release="x"))


def _host_paths(spec: dict[str, Any]) -> dict[str, str]:
    """Each path of the node, and whether the main container may write to it."""
    paths = {
        volume["name"]: volume["hostPath"]["path"]
        for volume in spec["volumes"]
        if "hostPath" in volume
    }
    return {
        paths[mount["name"]]: "ro" if mount.get("readOnly") else "rw"
        for mount in spec["containers"][0]["volumeMounts"]
        if mount["name"] in paths
    }
