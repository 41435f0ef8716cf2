"""Every manifest of the project on a real API server, and the hardened application as it runs."""

from __future__ import annotations

import json
import re
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
)
from tests.cluster.rig import Cluster

PROJECT = Path(__file__).parents[2]
MANIFESTS = sorted((PROJECT / "deploy").glob("*.yaml")) + sorted(
    (PROJECT / "examples").rglob("*.yaml")
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
_SESSION = f"""\
name: hello-world
version: "0.2"
services:
  - name: application
    image_name: image
    mrenclaves: [MRENCLAVE]
    minimum_level: node
    claims: [{{namespace: NAMESPACE}}]
    command: python3 /app/server.py
    environment: {{GREETING: hello from a hardened pod}}
images:
  - name: image
    injection_files:
      - {{path: /app/server.py, content: {json.dumps(_SERVER)}}}
"""


@pytest.mark.parametrize(
    "path",
    [path for path in MANIFESTS if not path.name.endswith(".values.yaml")],
    ids=lambda path: str(path.relative_to(PROJECT)),
)
def test_a_manifest_is_valid(cluster: Cluster, namespace: str, path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        if document["kind"] == "Namespace":
            document["metadata"]["name"] += "-dry-run"
        else:
            document["metadata"].pop("namespace", None)
        done = cluster.kubectl(
            *("apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-"),
            input=json.dumps(document),
        )
        assert "Warning" not in done.stderr


@pytest.mark.parametrize(
    ("chart", "values"),
    [
        ("cas", {"minimumLevel": "node"}),
        ("cas", {"minimumLevel": "node", "persistence": {"local": {"path": "/x", "node": "n"}}}),
        ("cas", {"minimumLevel": "node", "persistence": {"enabled": False}}),
        ("cas", "cas-inside.values.yaml"),
        ("las", {}),
        ("las", {"cas": {"address": "cas.cas.svc"}}),
        ("sgxdevplugin", {}),
        ("sgxdevplugin", {"simulation": True, "test": {"casAddress": "cas.cas.svc"}}),
    ],
    ids=str,
)
def test_a_chart_is_valid(
    cluster: Cluster, namespace: str, chart: str, values: dict[str, Any] | str
) -> None:
    given: dict[str, Any] = (
        yaml.safe_load((PROJECT / "deploy" / values).read_text())
        if isinstance(values, str)
        else values
    )
    images = {"image": "x.invalid/x", "test": {"image": "x.invalid/y"} | given.get("test", {})}
    rendered = cluster.helm(
        *("template", chart, str(CHARTS / chart), "-n", namespace, "--values", "-"),
        *("--validate",),
        input=json.dumps(given | images),
    ).stdout
    done = cluster.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-n", namespace, "-f", "-"),
        input=rendered,
    )
    assert "Warning" not in done.stderr


def test_the_hardened_application_runs_at_level_node(
    cluster: Cluster, cluster_images: dict[str, str], las: Release, inside_cas: InsideCas
) -> None:
    inside_cas.enrol(las)
    with namespace_of_its_own(cluster, "hardened") as namespace:
        policy = {"nodeSelector": {"nowhere": "here"}, "service": {"hostPort": False}}
        with chart_installed(cluster, cluster_images, "las", policy, namespace=namespace):
            _hardened(cluster, cluster_images["python"], inside_cas)


def _hardened(cluster: Cluster, image: str, cas: InsideCas) -> None:
    """Apply the manifest for this image and CAS, ask it, and try to exec."""
    namespace = "hello-hardened"
    text = (PROJECT / "deploy" / "hardened.yaml").read_text()
    assert namespace in text
    text = text.replace("registry.example/hello-world:0.1", image)
    text = text.replace("cas.cas.svc", cas.address)
    post_session(
        cluster,
        cas.release.namespace,
        image,
        cas.address,
        _SESSION.replace("NAMESPACE", namespace),
        ["/run/crannog/launcher/run", "--", "python3"],
        node_launcher=True,
    )
    try:
        cluster.apply(text)
        cluster.wait_ready(namespace, "deployment/hello-world")
        said = cluster.kubectl(
            "get", "--raw", f"/api/v1/namespaces/{namespace}/services/hello-world:8080/proxy/"
        ).stdout
        assert said == "hello from a hardened pod"
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
