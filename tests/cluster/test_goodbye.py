"""`kubectl delete namespace` with four attested programs running: how fast, and what is left.

Kubernetes itself begins 5 s after it was asked. Where a pod has more grace than that it looks 5 s
later whether the pods are gone: the whole takes 10 s however fast a program stops (test_tutorial.py
has the tutorial's own manifests). Pods with 5 s or less are looked at again at once.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import pytest

from tests.cluster.apps import App, make_app
from tests.cluster.rig import Cluster
from tests.cluster.search import in_memory_of
from tests.cluster.vouched import Cas

SECRET = f"a secret of the session {secrets.token_hex(8)}"
RESOURCE = "sgx.k8s.io/sgx"
CHECKPOINT = "/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"
PROGRAMS = ("one", "two", "three", "four")
ALLOWED = 10.0  # seconds
GRACE = 5  # seconds
MAIN = """\
import http.server, os
assert os.environ['SECRET']
http.server.HTTPServer(('0.0.0.0', 8080), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


class Gone(NamedTuple):
    """A namespace that was deleted with everything in it running.

    Attributes:
        app: as it was.
        pods: the pods' uids, as they are named everywhere on a node.
        seconds: from when the first pod was told to stop until the namespace was gone.
        total: from the command until it returned.
    """

    app: App
    pods: tuple[str, ...]
    seconds: float
    total: float


@pytest.fixture(scope="module")
def gone(
    cluster: Cluster,
    cluster_images: Mapping[str, str],
    las: object,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gone]:
    namespace = f"goodbye-{secrets.token_hex(4)}"
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
            )
            yield _deleted(app)
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--ignore-not-found", timeout=180)


def _deleted(app: App) -> Gone:
    variables = app.variables(app.session(environment={"SECRET": SECRET}))
    manifests = [app.deployment(name, variables, limits={RESOURCE: 1}) for name in PROGRAMS]
    for manifest in manifests:
        manifest["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] = GRACE
    app.start(*manifests)
    for name in PROGRAMS:
        app.ready(name)
    pods = app.cluster.pods(app.namespace)
    assert len(pods) == len(PROGRAMS)
    with app.cluster.start_user(
        ["kubectl", "get", "pods", "-n", app.namespace, "--watch-only", "-o", "json"],
    ) as watch:
        before = time.monotonic()
        delete = app.cluster.start_user(["kubectl", "delete", "namespace", app.namespace])
        told = _first_told_to_stop(watch)
        output, _ = delete.communicate(timeout=120)
        after = time.monotonic()
        watch.kill()
    assert delete.returncode == 0, output
    uids = tuple(str(pod["metadata"]["uid"]) for pod in pods)
    return Gone(app, uids, after - told, after - before)


def _first_told_to_stop(watch: subprocess.Popen[str]) -> float:
    assert watch.stdout is not None
    for line in watch.stdout:
        if '"deletionTimestamp"' in line:
            return time.monotonic()
    raise AssertionError("no pod was told to stop")


def test_it_is_gone_within_ten_seconds(gone: Gone) -> None:
    print(f"namespace gone {gone.seconds:.1f} s after the first pod was told to stop,")
    print(f"{gone.total:.1f} s after kubectl delete namespace")
    assert gone.total < ALLOWED


def test_no_device_is_allocated(gone: Gone) -> None:
    cluster = gone.app.cluster
    for node in cluster.nodes:
        # Pods of other tests may end between the two questions.
        cluster.wait(
            lambda node=node: _allocated_on(cluster, node) == _asked_for_on(cluster, node),  # type: ignore[misc]
            f"{node} has given no more devices than its pods ask for",
            seconds=20,
            seen=lambda node=node: cluster.kubectl("describe", "node", node).stdout,  # type: ignore[misc]
        )


def _allocated_on(cluster: Cluster, node: str) -> int:
    """How many `kubectl describe node` says are given."""
    described = cluster.kubectl("describe", "node", node).stdout
    allocated = described.partition("Allocated resources:")[2]
    return int(next(line.split() for line in allocated.splitlines() if RESOURCE in line)[1])


def _asked_for_on(cluster: Cluster, node: str) -> int:
    """How many the pods of others ask for, which have not ended."""
    items = cluster.get("pods", "--all-namespaces", f"--field-selector=spec.nodeName={node}")
    return sum(
        int(container.get("resources", {}).get("limits", {}).get(RESOURCE, 0))
        for pod in items["items"]
        if pod["status"]["phase"] not in ("Succeeded", "Failed")
        for container in pod["spec"]["containers"]
    )


def test_no_mount_no_directory_and_no_process_is_left(gone: Gone) -> None:
    cluster = gone.app.cluster
    _needs_nodes(cluster)

    def left() -> list[str]:
        found = []
        for node in cluster.nodes:
            # -s: what goes away meanwhile
            places = ("/proc/1/mounts", "/run/containerd", "/var/lib/kubelet/pods")
            patterns = [word for uid in gone.pods for word in ("-e", uid)]
            text = cluster.on_node(node, "grep", "-rlsF", *patterns, *places, check=False)
            names = cluster.on_node(node, "ls", "/var/lib/kubelet/pods")
            found += [f"{node}: {line}" for line in text.splitlines()]
            found += [f"{node}: {name}" for name in names.split() if name in gone.pods]
        return found

    cluster.wait(lambda: not left(), "the kubelets have put in order", seconds=60, seen=left)


def test_no_secret_of_the_session_is_left_on_a_node(gone: Gone) -> None:
    _needs_nodes(gone.app.cluster)
    for node in gone.app.cluster.nodes:
        assert in_memory_of(gone.app.cluster, node, [SECRET]) == []


def test_the_kubelet_has_given_the_devices_back(
    gone: Gone, namespace: str, cluster_images: Mapping[str, str]
) -> None:
    cluster = gone.app.cluster
    _needs_nodes(cluster)
    for node in cluster.nodes:  # an allocation is written down with the next one
        cluster.apply(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {"name": f"next-{node}", "namespace": namespace},
                    "spec": {
                        "nodeSelector": {"kubernetes.io/hostname": node},
                        "containers": [
                            {
                                "name": "next",
                                "image": cluster_images["python"],
                                "command": ["true"],
                                "resources": {"limits": {RESOURCE: 1}},
                            }
                        ],
                        "restartPolicy": "Never",
                    },
                }
            )
        )

    def written() -> bool:
        text = "".join(cluster.on_node(node, "cat", CHECKPOINT) for node in cluster.nodes)
        return all(pod["metadata"]["uid"] in text for pod in cluster.pods(namespace))

    cluster.wait(written, "the next pods have their devices")
    for node in cluster.nodes:
        text = cluster.on_node(node, "cat", CHECKPOINT)
        assert not [uid for uid in gone.pods if uid in text]


def _needs_nodes(cluster: Cluster) -> None:
    if cluster.local is None:
        pytest.skip("the nodes of this cluster are not of this machine")
