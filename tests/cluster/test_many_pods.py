"""Fifty programs started at once over the nodes, with the charts' plugin and LAS."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pytest

from tests.cluster.apps import App, make_app
from tests.cluster.charts import SGX, Release, las_keys, run_to_its_end
from tests.cluster.rig import Cluster
from tests.cluster.vouched import Cas

PODS = 50
NAME = "many"
ENTRY = ["/run/crannog/launcher/run", "--", "python3"]
SECRET = f"each of them has it {secrets.token_hex(8)}"
MAIN = f"""\
import os, signal, socket
assert os.environ['SECRET'] == {SECRET!r}
listener = socket.create_server(('0.0.0.0', 8080))
signal.sigwait({{signal.SIGTERM}})
"""
SECONDS = 170.0


class Started(NamedTuple):
    """All of them, ready.

    Attributes:
        app: the application.
        pods: as the API server has them.
        seconds: from the command until the last was ready.
    """

    app: App
    pods: list[dict[str, Any]]
    seconds: float


@pytest.fixture(scope="module")
def started(
    cluster: Cluster,
    cluster_images: Mapping[str, str],
    las: Release,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Started]:
    namespace = f"many-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", namespace)
    try:
        with Cas(cluster, tmp_path_factory.mktemp("cas")) as cas:
            cas.attest()
            for key, node in las_keys(las).items():
                cas.enrol(key, note=node)
            app = make_app(
                cluster,
                namespace,
                cas,
                cluster_images["python"],
                {"main.py": MAIN},
                tmp_path_factory.mktemp("app"),
            )
            yield _started(app)
    finally:
        cluster.kubectl("delete", "deployments", "--all", "-n", namespace, timeout=180)
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def _started(app: App) -> Started:
    measured = run_to_its_end(
        app.cluster, app.namespace, app.image, ENTRY, {"SCONE_HASH": "1"}, node_launcher=True
    )
    config_id = app.session(
        mrenclaves=[measured.strip()], minimum_level="node", environment={"SECRET": SECRET}
    )
    # For as long as a launcher tries by itself, not for the two seconds of other tests.
    variables = app.variables(config_id, CRANNOG_RETRY_SECONDS="")
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    manifest = app.deployment(
        NAME, variables, limits={SGX: 1}, container={"command": ENTRY, "readinessProbe": probe}
    )
    manifest["spec"]["replicas"] = PODS
    before = time.monotonic()
    app.start(manifest)
    app.cluster.wait_ready(app.namespace, f"deployment/{NAME}", seconds=SECONDS)
    seconds = time.monotonic() - before
    pods = app.cluster.pods(app.namespace, f"run={NAME}")
    return Started(app, pods, seconds)


def test_all_become_ready_and_none_is_started_twice(started: Started) -> None:
    print(f"{PODS} attested pods ready after {started.seconds:.0f} s")
    assert len(started.pods) == PODS
    restarts = [
        status["restartCount"]
        for pod in started.pods
        for status in pod["status"]["containerStatuses"]
    ]
    assert restarts == [0] * PODS


def test_every_node_has_its_share(started: Started) -> None:
    shares = Counter(pod["spec"]["nodeName"] for pod in started.pods)
    assert set(shares) == set(started.app.cluster.nodes)
    assert min(shares.values()) >= PODS // len(shares) // 2, shares


def test_each_is_configured_at_level_node(started: Started) -> None:
    app = started.app
    said = app.cluster.kubectl(
        *("logs", f"--selector=run={NAME}", "-n", app.namespace),
        *("--tail=-1", "--prefix", f"--max-log-requests={PODS}"),
    ).stdout
    configured = {line.split("/")[1] for line in said.splitlines() if " at level node" in line}
    assert configured == {pod["metadata"]["name"] for pod in started.pods}, said
