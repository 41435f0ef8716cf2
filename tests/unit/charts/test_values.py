"""What a chart says to a wrong value: the key, what it is and what it expects."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.unit.charts.helm import CHARTS, NAMES, NEEDED, helm, refusal, render, try_render


@pytest.mark.parametrize("chart", NAMES)
def test_it_lints(chart: str) -> None:
    done = helm("lint", "--strict", str(CHARTS / chart))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("chart", NAMES)
def test_an_empty_image_is_refused_with_what_to_do(chart: str) -> None:
    said = refusal(chart, image="")
    assert "image: is empty, expected" in said
    assert "make images, docker push" in said


def test_a_cas_without_a_level_is_refused() -> None:
    said = try_render("cas", {"image": "registry.invalid/cas"}).stderr
    assert "minimumLevel: is empty, expected simulation, node or hardware" in said


@pytest.mark.parametrize(
    ("chart", "values", "key", "expected"),
    [
        ("cas", {"minimumLevel": "weak"}, "/minimumLevel", "'simulation', 'node', 'hardware'"),
        ("cas", {"replicaCount": 2}, "/replicaCount", "0, 1"),
        ("cas", {"service": {"type": "ExternalName"}}, "/service/type", "'ClusterIP'"),
        ("cas", {"service": {"clientPort": 0}}, "/service/clientPort", "minimum: got 0, want 1"),
        ("cas", {"service": {"clientPort": "http"}}, "/service/clientPort", "want integer"),
        ("cas", {"persistence": {"size": "large"}}, "/persistence/size", "does not match pattern"),
        ("cas", {"persistence": {"enabled": "yes"}}, "/persistence/enabled", "want boolean"),
        ("cas", {"persistence": {"local": {"path": "state"}}}, "/persistence/local/path", "^(/"),
        ("cas", {"lasEnrolment": {"subjects": ["las"]}}, "/subjects/0", "system:serviceaccount:"),
        ("cas", {"lasEnrolment": {"keysURL": "http://x"}}, "/keysURL", "^https://"),
        ("cas", {"podDisruptionBudget": {"maxUnavailable": 2}}, "/maxUnavailable", "want 1"),
        ("cas", {"resources": "small"}, "/resources", "want object"),
        ("cas", {"test": {"casKeyHash": "0OIl"}}, "/test/casKeyHash", "does not match pattern"),
        ("las", {"service": {"hostPort": 18766}}, "/service/hostPort", "want boolean"),
        ("las", {"cas": {"address": "https://cas/"}}, "/cas/address", "does not match pattern"),
        ("las", {"containerdDirectory": "/"}, "/containerdDirectory", "does not match pattern"),
        ("las", {"socketDirectory": "run"}, "/socketDirectory", "does not match pattern"),
        ("las", {"admissionPolicy": {"actions": ["Refuse"]}}, "/actions/0", "'Deny'"),
        ("las", {"admissionPolicy": {"label": "protected"}}, "/label", "does not match pattern"),
        ("las", {"test": {"level": "any"}}, "/test/level", "'node'"),
        ("sgxdevplugin", {"maxSGXPods": 0}, "/maxSGXPods", "minimum: got 0, want 1"),
        ("sgxdevplugin", {"maxSGXPods": "many"}, "/maxSGXPods", "want integer"),
        ("sgxdevplugin", {"simulation": "true"}, "/simulation", "got string, want boolean"),
        ("sgxdevplugin", {"labelNodes": None, "labelNode": True}, "'labelNode'", "not allowed"),
        ("sgxdevplugin", {"nodeSelector": {"a": 1}}, "/nodeSelector/a", "want string"),
        ("sgxdevplugin", {"imagePullPolicy": "Sometimes"}, "/imagePullPolicy", "'Always'"),
    ],
)
def test_a_wrong_value_names_its_key_and_what_is_expected(
    chart: str, values: dict[str, Any], key: str, expected: str
) -> None:
    said = refusal(chart, **values)
    assert key in said
    assert expected in said


@pytest.mark.parametrize("chart", NAMES)
def test_a_misspelt_key_is_refused(chart: str) -> None:
    assert "additional properties 'tolerance' not allowed" in refusal(chart, tolerance=[])


def test_a_las_that_would_give_its_token_to_whoever_answers_is_refused() -> None:
    said = refusal("las", cas={"address": "cas.example"})
    assert "cas.keyHash: is empty, expected the hash of the CAS's key" in said


def test_a_local_directory_without_its_node_is_refused() -> None:
    said = refusal("cas", persistence={"local": {"path": "/srv/cas"}})
    assert "persistence.local.node: is empty, expected the name of the node" in said


def test_a_local_directory_and_a_claim_are_refused() -> None:
    said = refusal(
        "cas", persistence={"local": {"path": "/srv", "node": "a"}, "existingClaim": "mine"}
    )
    assert "local.path and existingClaim are both set, expected one of them" in said


@pytest.mark.parametrize("chart", NAMES)
def test_every_value_has_its_place_in_the_schema(chart: str) -> None:
    values = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
    schema = json.loads((CHARTS / chart / "values.schema.json").read_text())

    def compare(found: dict[str, Any], described: dict[str, Any], place: str) -> None:
        properties = described.get("properties")
        if properties is None:
            return
        assert set(found) <= set(properties), place
        assert described["additionalProperties"] is False, place
        for key, value in found.items():
            if isinstance(value, dict):
                compare(value, properties[key], f"{place}.{key}")

    compare(values, schema, chart)


@pytest.mark.parametrize(
    ("chart", "names"),
    [
        ("sgxdevplugin", "maxSGXPods labelNodes image imagePullPolicy nodeSelector tolerations"),
        (
            "las",
            "image imagePullPolicy imagePullSecrets service resources nodeSelector tolerations",
        ),
        ("las", "extraVolumes extraVolumeMounts"),
        ("cas", "replicaCount image service resources nodeSelector tolerations affinity"),
        ("cas", "extraVolumes extraVolumeMounts persistence networkPolicy livenessProbe"),
    ],
)
def test_the_originals_value_names_are_there(chart: str, names: str) -> None:
    values = yaml.safe_load((CHARTS / chart / "values.yaml").read_text())
    assert set(names.split()) <= set(values)


@pytest.mark.parametrize("chart", NAMES)
def test_everything_that_can_be_set_renders(chart: str) -> None:
    every: dict[str, Any] = {
        "imagePullSecrets": [{"name": "pull"}],
        "podAnnotations": {"a/b": "c"},
        "podLabels": {"team": "x"},
        "nodeSelector": {"disk": "ssd"},
        "tolerations": [{"operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "env": [{"name": "A", "value": "b"}],
        "extraArgs": ["--help"],
        "extraVolumes": [{"name": "x", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "x", "mountPath": "/x"}],
        "priorityClassName": "high",
        "fullnameOverride": "other",
        "resources": {},
        "networkPolicy": {"egress": [{"ports": [{"port": 1}]}]},
        "serviceAccount": {"annotations": {"a": "b"}},
    }
    spec = next(
        each["spec"]["template"]["spec"]
        for each in render(chart, **every)
        if each["kind"] in ("StatefulSet", "DaemonSet")
    )
    assert spec["priorityClassName"] == "high"
    assert spec["nodeSelector"] == {"disk": "ssd"}
    assert {"name": "x", "mountPath": "/x"} in spec["containers"][0]["volumeMounts"]
    assert "--help" in spec["containers"][0]["args"]
    assert NEEDED[chart]["image"] == spec["containers"][0]["image"]
