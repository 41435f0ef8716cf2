"""No secret in what the cluster keeps: objects, events, logs, etcd, the nodes' disks, the registry.

The program says over its own connection what it got, so that the real values are searched for:
the greeting, the generated password, the certificate's key, the fspf's key, and a line of the
encrypted source. Each search has to find something that is there as well, or its finding nothing
would say nothing.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster.apps import App, make_app
from tests.cluster.rig import Cluster
from tests.cluster.search import in_memory_of, search
from tests.cluster.vouched import Cas

SOURCE = f"a line of the encrypted source {secrets.token_hex(8)}"
GREETING = f"a greeting of the session alone {secrets.token_hex(8)}"
OPERATOR = f"set-by-the-operator-{secrets.token_hex(8)}"
MARKER = f"a plain line of the image {secrets.token_hex(8)}"
RESOURCE = "sgx.k8s.io/sgx"

MAIN = f"""\
# {SOURCE}
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = {{
            'environment': dict(os.environ),
            'argv': sys.argv,
            'key': open('/app/key.pem').read(),
        }}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())
        print('asked', flush=True)

http.server.HTTPServer(('0.0.0.0', 8080), Handler).serve_forever()
"""


class World(NamedTuple):
    """An attested program on each node, what it got, and since when it may have leaked."""

    app: App
    found: dict[str, Any]
    secrets: list[bytes]
    since: float

    def held(self, data: str) -> set[bytes]:
        """The secrets in a text."""
        return {secret for secret in self.secrets if secret in data.encode()}


@pytest.fixture(scope="module")
def world(
    cluster: Cluster,
    cluster_images: Mapping[str, str],
    las: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    since = time.time()
    namespace = f"leaks-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", namespace)
    try:
        with Cas(cluster, tmp_path_factory.mktemp("cas")) as cas:
            cas.attest()
            app = make_app(
                cluster,
                namespace,
                cas,
                cluster_images["python"],
                {"main.py": MAIN},
                tmp_path_factory.mktemp("app"),
                plain={"marker": MARKER},
            )
            yield _started(app, since)
    finally:
        cluster.kubectl("delete", "deployments", "--all", "-n", namespace, timeout=180)
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def _started(app: App, since: float) -> World:
    config_id = app.session(
        document={
            "images": [
                {
                    "name": "image",
                    "injection_files": [{"path": "/app/key.pem", "content": "$$SCONE::KEY.key$$"}],
                }
            ],
            "secrets": [
                {"name": "PASSWORD", "kind": "ascii", "size": 24},
                {"name": "KEY", "kind": "x509"},
            ],
        },
        image_name="image",
        environment={"GREETING": GREETING, "PASSWORD": "$$SCONE::PASSWORD$$"},
    )
    variables = app.variables(config_id, OPERATOR=OPERATOR, GREETING=OPERATOR)
    names = [f"app-{number}" for number, _ in enumerate(app.cluster.nodes)]
    for name, node in zip(names, app.cluster.nodes, strict=True):
        manifest = app.deployment(name, variables, limits={RESOURCE: 1})
        manifest["spec"]["template"]["spec"]["nodeName"] = node
        app.start(manifest)
    # One that is refused, whose reason is kept as well.
    app.start(app.deployment("refused", app.variables(app.session(mrenclaves=["0" * 64]))))
    for name in names:
        app.ready(name)
    found = json.loads(app.ask(names[0]))
    app.ended("refused")
    key = re.sub(r"-----.*-----|\s", "", found["key"])
    texts = [GREETING, found["environment"]["PASSWORD"], key[64:128], SOURCE, app.protected.key]
    everything = [text.encode() for text in texts] + [bytes.fromhex(app.protected.key)]
    assert all(len(secret) >= 20 for secret in everything)
    return World(app, found, everything, since)


def test_what_the_manifest_says_never_arrives(world: World) -> None:
    assert OPERATOR not in json.dumps(world.found)
    assert set(world.found["environment"]) - {"LC_CTYPE"} == {
        *("GREETING", "PASSWORD", "PATH", "HOME"),
    }


def test_no_object_of_the_cluster_holds_a_secret(world: World) -> None:
    kubectl = world.app.cluster.kubectl
    kinds = kubectl("api-resources", "--verbs=list", "-o", "name").stdout.split()
    text = kubectl("get", ",".join(kinds), "--all-namespaces", "-o", "yaml").stdout
    assert OPERATOR in text
    assert "Could not initialize enclave state" in text  # the one that was refused
    assert not world.held(text)


def test_no_description_and_no_event_holds_a_secret(world: World) -> None:
    kubectl = world.app.cluster.kubectl
    text = kubectl("describe", "pods", "-n", world.app.namespace).stdout
    text += kubectl("get", "events", "--all-namespaces", "-o", "json").stdout
    assert OPERATOR in text
    assert "Started container" in text
    assert not world.held(text)


def test_no_log_holds_a_secret(world: World) -> None:
    text = ""
    for pod in world.app.cluster.pods(world.app.namespace):
        text += world.app.logs(pod["metadata"]["name"])
    assert "asked" in text
    assert "configured by CAS" in text
    assert not world.held(text)


@pytest.fixture
def state(world: World) -> Path:
    """What the cluster writes to, where it is of this machine."""
    local = world.app.cluster.local
    if local is None:
        pytest.skip("the disks of this cluster are not of this machine")
    return local.state


def test_etcd_holds_no_secret(world: World, state: Path) -> None:
    etcd = state / world.app.cluster.nodes[0] / "var" / "lib" / "etcd"
    needles = [OPERATOR.encode(), *world.secrets]
    assert search([etcd], needles, since=0) == {OPERATOR.encode()}


def test_no_disk_of_a_node_holds_a_secret(world: World, state: Path) -> None:
    """Layers, unpacked and as they were pulled; logs; the kubelet's directories."""
    needles = [MARKER.encode(), *world.secrets]
    for node in world.app.cluster.nodes:
        places = [state / node / "var", state / node / "log"]
        assert search(places, needles, since=world.since) == {MARKER.encode()}, node


def test_the_registry_holds_no_secret(world: World, state: Path) -> None:
    needles = [MARKER.encode(), *world.secrets]
    assert search([state / "registry"], needles, since=world.since) == {MARKER.encode()}


@pytest.mark.usefixtures("state")
def test_no_memory_file_system_of_a_node_holds_a_secret(world: World) -> None:
    """The runtime's records, the kubelet's tmpfs volumes, /dev/shm."""
    texts = [secret.decode() for secret in world.secrets if secret.isascii()]
    for node in world.app.cluster.nodes:
        assert in_memory_of(world.app.cluster, node, [OPERATOR])  # of the containers' records
        assert in_memory_of(world.app.cluster, node, texts) == []
