"""What values make of the charts: arguments, persistence, enrolment, what stays."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.charts.helm import NAMES, arguments, of, one, pod, render


def test_a_claim_of_the_default_storage_class() -> None:
    (claim,) = one(render("cas"), "StatefulSet")["spec"]["volumeClaimTemplates"]
    assert "storageClassName" not in claim["spec"]
    assert claim["spec"]["accessModes"] == ["ReadWriteOnce"]


@pytest.mark.parametrize(("given", "made"), [("fast", "fast"), ("-", "")])
def test_a_storage_class_by_name_or_none(given: str, made: str) -> None:
    stateful = one(render("cas", persistence={"storageClass": given}), "StatefulSet")
    (claim,) = stateful["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == made


def test_a_directory_of_a_node_is_a_volume_that_stays() -> None:
    made = render("cas", persistence={"local": {"path": "/srv/cas", "node": "node1"}})
    volume = one(made, "PersistentVolume")
    assert volume["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert volume["spec"]["persistentVolumeReclaimPolicy"] == "Retain"
    assert volume["spec"]["claimRef"] == {"namespace": "here", "name": "state-cas-0"}
    (claim,) = one(made, "StatefulSet")["spec"]["volumeClaimTemplates"]
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]


def test_without_persistence_there_is_no_claim() -> None:
    made = render("cas", persistence={"enabled": False})
    assert "volumeClaimTemplates" not in one(made, "StatefulSet")["spec"]
    assert {"name": "state", "emptyDir": {}} in pod(made)["volumes"]


def test_a_claim_of_ones_own() -> None:
    made = render("cas", persistence={"existingClaim": "mine"})
    assert "volumeClaimTemplates" not in one(made, "StatefulSet")["spec"]
    state = {"name": "state", "persistentVolumeClaim": {"claimName": "mine"}}
    assert state in pod(made)["volumes"]


def test_claims_outlive_the_release() -> None:
    policy = one(render("cas"), "StatefulSet")["spec"]["persistentVolumeClaimRetentionPolicy"]
    assert policy == {"whenDeleted": "Retain", "whenScaled": "Retain"}


def test_the_certificate_has_the_services_names() -> None:
    names = [each for each in arguments(render("cas", hostNames=["cas.example"])) if "host" in each]
    assert names == [
        "--host-name=cas",
        "--host-name=cas.here",
        "--host-name=cas.here.svc",
        "--host-name=cas.here.svc.cluster.local",
        "--host-name=cas.example",
    ]


def test_the_level_is_changed_only_when_that_is_said() -> None:
    assert "initContainers" not in pod(render("cas"))
    (first,) = pod(render("cas", changeMinimumLevel=True))["initContainers"]
    assert first["command"][1:4] == ["cas", "set-minimum-level", "node"]


def test_a_master_key_comes_from_a_secret() -> None:
    made = render("cas", masterKey={"existingSecret": "key"}, changeMinimumLevel=True)
    assert "--key-provider=env:CRANNOG_MASTER_KEY" in arguments(made)
    spec = pod(made)
    for container in (spec["containers"][0], spec["initContainers"][0]):
        (variable,) = container["env"]
        assert variable["valueFrom"]["secretKeyRef"] == {"name": "key", "key": "master-key"}


def test_lases_enrol_by_tokens_of_this_cluster() -> None:
    subject = "system:serviceaccount:kube-system:las"
    made = render("cas", lasEnrolment={"subjects": [subject]})
    given = [each for each in arguments(made) if each.startswith("--las-")]
    assert given == [
        "--las-issuer=https://kubernetes.default.svc.cluster.local",
        "--las-issuer-keys=https://kubernetes.default.svc/openid/v1/jwks",
        "--las-issuer-ca=/run/crannog/cluster/ca.crt",
        "--las-issuer-token=/run/crannog/cluster/token",
        "--las-audience=crannog-cas",
        f"--las-subject={subject}",
    ]


def test_lases_of_another_cluster_enrol_by_its_keys() -> None:
    subject = "system:serviceaccount:kube-system:las"
    made = render("cas", lasEnrolment={"subjects": [subject], "keys": '{"keys": []}'})
    assert "--las-issuer-keys=/run/crannog/las-keys/jwks.json" in arguments(made)
    assert one(made, "ConfigMap")["data"] == {"jwks.json": '{"keys": []}'}
    assert not any("projected" in volume for volume in pod(made)["volumes"])


def test_the_las_enrols_at_the_cas_of_that_key() -> None:
    made = render("las", cas={"address": "cas.example:1234", "keyHash": "3s1pm8W6Be6c"})
    given = [each for each in arguments(made) if "enrol" in each or "cas" in each]
    assert given == [
        "--enrol-at=cas.example:1234",
        "--enrol-token=/var/run/secrets/crannog/token",
        "--cas-key=3s1pm8W6Be6c",
    ]
    egress = one(made, "NetworkPolicy")["spec"]["egress"]
    assert [port["port"] for rule in egress for port in rule["ports"]] == [53, 53, 1234]


def test_the_las_takes_the_nodes_port_unless_told_otherwise() -> None:
    (port,) = pod(render("las"))["containers"][0]["ports"]
    assert port["hostPort"] == 18766
    (port,) = pod(render("las", service={"hostPort": False}))["containers"][0]["ports"]
    assert "hostPort" not in port


def test_the_records_are_where_containerd_keeps_them() -> None:
    made = render("las", containerdDirectory="/run/k3s/containerd")
    assert "--records=containerd-state=/run/k3s/containerd" in arguments(made)
    paths = [each["hostPath"]["path"] for each in pod(made)["volumes"]]
    assert "/run/k3s/containerd/io.containerd.runtime.v2.task/k8s.io" in paths
    assert "/run/k3s/containerd/runc/k8s.io" in paths
    assert not any(path.startswith("/run/containerd") for path in paths)


def test_the_admission_policy_is_for_namespaces_with_the_label() -> None:
    made = render("las", admissionPolicy={"label": "example.com/safe"})
    policies = of(made, "ValidatingAdmissionPolicy")
    bindings = of(made, "ValidatingAdmissionPolicyBinding")
    assert len(policies) == len(bindings) == 2
    for binding in bindings:
        chosen = binding["spec"]["matchResources"]["namespaceSelector"]["matchExpressions"]
        assert {each["key"] for each in chosen} == {"example.com/safe"}
        assert {each["operator"] for each in chosen} == {"Exists", "NotIn"}
        assert binding["spec"]["validationActions"] == ["Deny"]
    assert all(policy["spec"]["failurePolicy"] == "Fail" for policy in policies)
    assert not of(render("las", admissionPolicy={"enabled": False}), "ValidatingAdmissionPolicy")


def test_each_rule_of_the_policy_has_a_message_of_its_own() -> None:
    said = [
        rule["message"]
        for policy in of(render("las"), "ValidatingAdmissionPolicy")
        for rule in policy["spec"]["validations"]
    ]
    assert len(set(said)) == len(said) == 16


def test_the_plugin_is_told_what_the_values_say() -> None:
    made = render("sgxdevplugin", simulation=True, maxSGXPods=7, labelNodes=False)
    assert "--simulation" in arguments(made)
    environment = {each["name"]: each.get("value") for each in pod(made)["containers"][0]["env"]}
    assert environment["MAX_SGX_PODS"] == "7"
    assert environment["LABEL_NODES"] == "false"
    assert "--simulation" not in arguments(render("sgxdevplugin"))


@pytest.mark.parametrize("chart", ["las", "sgxdevplugin"])
def test_there_are_never_two_at_once_on_a_node(chart: str) -> None:
    strategy = one(render(chart), "DaemonSet")["spec"]["updateStrategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}


@pytest.mark.parametrize("chart", NAMES)
def test_long_names_stay_within_bounds(chart: str) -> None:
    for each in render(chart, release="r" * 53, namespace="n" * 63):
        # What belongs to the whole cluster may have 253 characters, and has the namespace in it.
        bound = 63 if "namespace" in each["metadata"] else 253
        assert len(each["metadata"]["name"]) <= bound


def test_releases_of_two_namespaces_share_nothing_of_the_whole_cluster() -> None:
    local = {"local": {"path": "/srv", "node": "a"}}
    given: dict[str, dict[str, Any]] = {
        "cas": {"persistence": local},
        "las": {},
        "sgxdevplugin": {},
    }
    for chart, values in given.items():
        one_, other = (
            {
                (each["kind"], each["metadata"]["name"])
                for each in render(chart, namespace=namespace, **values)
                if "namespace" not in each["metadata"]
            }
            for namespace in ("n" * 62 + "a", "n" * 62 + "b")
        )
        assert one_
        assert not one_ & other
