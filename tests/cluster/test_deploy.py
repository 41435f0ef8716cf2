"""Every manifest of the project on a real API server, and the hardened application as it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.charts import (
    CHARTS,
    InsideCas,
    Release,
    chart_installed,
    namespace_of_its_own,
    post_session,
    run_to_its_end,
)
from tests.cluster.outside import OutsideCas
from tests.cluster.rig import Cluster

PROJECT = Path(__file__).parents[2]
MANIFESTS = sorted((PROJECT / "deploy").glob("*.yaml")) + sorted(
    (PROJECT / "examples").rglob("*.yaml")
)
CHART_VALUES: list[tuple[str, dict[str, Any] | str]] = [
    ("cas", {"minimumLevel": "node"}),
    ("cas", {"minimumLevel": "node", "persistence": {"local": {"path": "/x", "node": "n"}}}),
    ("cas", {"minimumLevel": "node", "persistence": {"enabled": False}}),
    ("cas", {"minimumLevel": "node", "changeMinimumLevel": True}),
    (
        "cas",
        {
            "minimumLevel": "node",
            "lasEnrolment": {"subjects": ["system:serviceaccount:a:las"], "keys": "{}"},
        },
    ),
    ("cas", "cas-inside.values.yaml"),
    ("las", {}),
    ("las", {"cas": {"address": "cas.cas.svc", "keyHash": "3s1pm8W6Be6c"}}),
    ("las", {"cas": {"address": "cas.cas.svc", "enrol": False}}),
    ("sgxdevplugin", {}),
    ("sgxdevplugin", {"simulation": True, "test": {"casAddress": "cas.cas.svc"}}),
    ("sgxdevplugin", {"labelNodes": False}),
]
# What is for helm, for people, or is run by other tests.
NO_MANIFESTS = (
    *("/Chart.yaml", "/values.yaml", "/values.schema.json", "/_helpers.tpl", "/NOTES.txt"),
    *("/README.md", ".py", ".sh"),
)
_SERVER = """\
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(os.environ["GREETING"].encode())
http.server.HTTPServer(("0.0.0.0", 8080), Handler).serve_forever()
"""
_SERVES = f"""\
name: hello-world
version: "0.2"
services:
  - name: application
    image_name: image
    mrenclaves: [MRENCLAVE]
    command: python3 /app/server.py
    environment: {{GREETING: hello from a pod}}
images:
  - name: image
    injection_files:
      - {{path: /app/server.py, content: {json.dumps(_SERVER)}}}
"""
_AT_NODE = "    minimum_level: node\n    claims: [{namespace: hello-hardened}]\n    command:"
_ECHO = """\
name: NAME
version: "0.2"
services:
  - name: application
    mrenclaves: [MRENCLAVE]
    command: /usr/bin/echo hello by a name
"""


@pytest.fixture(scope="module")
def dry(cluster: Cluster) -> Iterator[str]:
    """A namespace in which nothing is made."""
    with namespace_of_its_own(cluster, "dry") as name:
        yield name


@pytest.mark.parametrize(
    "path",
    [path for path in MANIFESTS if not path.name.endswith(".values.yaml")],
    ids=lambda path: str(path.relative_to(PROJECT)),
)
def test_a_manifest_is_valid(cluster: Cluster, dry: str, path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] == "Namespace":
            document["metadata"]["name"] += "-dry-run"
        else:
            document["metadata"].pop("namespace", None)
        done = cluster.kubectl(
            *("apply", "--dry-run=server", "--validate=strict", "-n", dry, "-f", "-"),
            input=json.dumps(document),
        )
        assert "Warning" not in done.stderr


@pytest.fixture(scope="module")
def rendered(cluster: Cluster, dry: str) -> dict[str, str]:
    """The charts, each with each of its CHART_VALUES, as this cluster's helm renders them."""
    found = {}
    for chart, values in CHART_VALUES:
        given: dict[str, Any] = (
            yaml.safe_load((PROJECT / "deploy" / values).read_text())
            if isinstance(values, str)
            else values
        )
        images = {"image": "x.invalid/x", "test": {"image": "x.invalid/y"} | given.get("test", {})}
        found[f"{chart} {values}"] = cluster.helm(
            *("template", chart, str(CHARTS / chart), "-n", dry, "--values", "-", "--validate"),
            input=json.dumps(given | images),
        ).stdout
    return found


@pytest.mark.parametrize(
    "which", [f"{chart} {values}" for chart, values in CHART_VALUES], ids=lambda which: which
)
def test_a_chart_is_valid(cluster: Cluster, dry: str, rendered: dict[str, str], which: str) -> None:
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-n", dry, "-f", "-"),
        input=rendered[which],
    )
    assert "Warning" not in done.stderr


def test_every_file_has_been_looked_at(rendered: dict[str, str]) -> None:
    """A new file of `charts`, `deploy` or `examples` is looked at by the tests above, or named."""
    seen = {path.relative_to(PROJECT).as_posix() for path in MANIFESTS}
    seen -= {name for name in seen if name.endswith(".values.yaml")}
    seen |= {f"deploy/{values}" for _, values in CHART_VALUES if isinstance(values, str)}
    for text in rendered.values():
        seen |= {f"charts/{name}" for name in re.findall(r"^# Source: (.+)$", text, re.MULTILINE)}
    there = {
        path.relative_to(PROJECT).as_posix()
        for directory in ("charts", "deploy", "examples")
        for path in (PROJECT / directory).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert seen <= there
    unseen = {name for name in there - seen if not name.endswith(NO_MANIFESTS)}
    assert not unseen


def test_the_hardened_application_runs_at_level_node(
    cluster: Cluster, cluster_images: dict[str, str], las: Release, inside_cas: InsideCas
) -> None:
    inside_cas.enrol(las)
    with namespace_of_its_own(cluster, "hardened") as namespace:
        policy = {"nodeSelector": {"nowhere": "here"}, "service": {"hostPort": False}}
        with chart_installed(cluster, cluster_images, "las", policy, namespace=namespace):
            _hardened(cluster, cluster_images["python"], inside_cas)


def test_a_cas_outside_has_a_name_in_the_cluster(
    cluster: Cluster, cluster_images: dict[str, str], outside_cas: OutsideCas, namespace: str
) -> None:
    image = cluster_images["python"]
    cluster.apply(_deploy("cas-outside.yaml", {"192.0.2.10": outside_cas.address}), namespace)
    echo = ["/crannog/run", "--", "/usr/bin/echo"]
    text = _ECHO.replace("NAME", f"outside-{namespace}")
    post_session(cluster, namespace, image, "cas", text, echo)
    environment = {"SCONE_CAS_ADDR": "cas", "SCONE_CONFIG_ID": f"outside-{namespace}/application"}
    assert "hello by a name" in run_to_its_end(cluster, namespace, image, echo, environment)


def test_programs_find_the_nodes_las_by_the_downward_api(
    cluster: Cluster, cluster_images: dict[str, str], outside_cas: OutsideCas, namespace: str
) -> None:
    """Without the plugin: by the port of the chart's LAS on the pod's own node."""
    image, name = cluster_images["python"], f"host-ip-{namespace}"
    post_session(
        cluster,
        namespace,
        image,
        outside_cas.address,
        _SERVES.replace("name: hello-world", f"name: {name}"),
        ["python3"],
    )
    values = {
        "admissionPolicy": {"enabled": False},
        "socketDirectory": f"/run/{namespace}",
        "stateDirectory": f"/var/lib/{namespace}",
    }
    changes = {
        "registry.example/hello-world:0.1": image,
        "cas.cas.svc": outside_cas.address,
        "hello-world/application": f"{name}/application",
    }
    application, service = yaml.safe_load_all(_deploy("host-ip.yaml", changes))
    (container,) = application["spec"]["template"]["spec"]["containers"]
    del container["resources"]
    with chart_installed(cluster, cluster_images, "las", values, namespace=namespace):
        for document in (application, service):
            cluster.apply(json.dumps(document), namespace)
        cluster.wait_ready(namespace, "deployment/attested-hello-world")
        assert _reply(cluster, namespace, "attested-hello-world") == "hello from a pod"
        found = re.search(rf"config id {name}/application (.*)", outside_cas.log())
        assert found is not None
        assert "level=simulation method=las/tcp" in found[1]
    if cluster.local is not None:
        for each in cluster.nodes:
            cluster.on_node(each, "rm", "-r", f"/run/{namespace}", f"/var/lib/{namespace}")


def _deploy(name: str, changes: dict[str, str]) -> str:
    """A manifest with these texts exchanged, each of which is in it."""
    text = (PROJECT / "deploy" / name).read_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text


def _reply(cluster: Cluster, namespace: str, service: str) -> str:
    """What a service answers at 8080, once it listens: a pod without a probe is ready before."""
    place = f"/api/v1/namespaces/{namespace}/services/{service}:8080/proxy/"
    return cluster.wait(
        lambda: cluster.kubectl("get", "--raw", place, check=False).stdout,
        f"{service} to answer",
        seen=lambda: cluster.describe(namespace),
    )


def _hardened(cluster: Cluster, image: str, cas: InsideCas) -> None:
    """Apply the manifest for this image and CAS, ask it, and try to exec."""
    namespace = "hello-hardened"
    cluster.leave_alone((f"namespace/{namespace}", ""))
    changes = {"registry.example/hello-world:0.1": image, "cas.cas.svc": cas.address}
    text = _deploy("hardened.yaml", changes)
    post_session(
        cluster,
        cas.release.namespace,
        image,
        cas.address,
        _SERVES.replace("    command:", _AT_NODE),
        ["/run/crannog/launcher/run", "--", "python3"],
        node_launcher=True,
    )
    try:
        cluster.apply(text)
        cluster.wait_ready(namespace, "deployment/hello-world")
        assert _reply(cluster, namespace, "hello-world") == "hello from a pod"
        pods = cluster.pods(namespace)
        assert {pod["spec"]["nodeName"] for pod in pods} == set(cluster.nodes)
        for pod in pods:
            name = pod["metadata"]["name"]
            log = cluster.kubectl("logs", name, "-n", namespace).stdout
            assert re.search(r"configured by CAS at .* at level node", log), log
            tried = cluster.kubectl(
                "exec", "-n", namespace, name, "--", "cat", "/proc/1/environ", check=False
            )
            assert "pods/exec starts a process beside the program" in tried.stderr
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--wait=false", check=False)
