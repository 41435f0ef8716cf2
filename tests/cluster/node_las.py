"""A launcher and a LAS on each node, by a manifest: for tests whose pods bend the rules.

What the charts install, in directories of the run's own, so that neither disturbs the other; the
pods of these tests name the two directories themselves (`hostPath`), as the device plugin would.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.cluster.rig import Cluster
from tests.containers.rig import RUN

LAUNCHERS = f"/var/lib/{RUN}/launcher"
SOCKETS = f"/run/{RUN}/las"
LAUNCHER = "/run/crannog/launcher"
ENTRY = f"{LAUNCHER}/run"
SOCKET = "/run/crannog/las"
PORT = 18766

_STATE = f"/var/lib/{RUN}/key"  # what /run holds is gone when a test kills the node
_RECORDS = (
    "/run/containerd/io.containerd.runtime.v2.task/k8s.io",
    "/run/containerd/runc/k8s.io",
)
_KEY = re.compile(r"has public key ([0-9a-f]{64})")

# As an installation has to be: complete, or not there.
_INSTALL = """
set -e
digest=$(cat /crannog/digest)
cd /launchers
if [ ! -e "$digest" ]; then
  cp -a --no-preserve=ownership /crannog .installing
  mv .installing "$digest"
fi
"""


@dataclass(frozen=True, slots=True)
class NodeLas:
    """The LAS of one node.

    Attributes:
        node: the node's name.
        pod: the LAS's pod.
        address: its IP address.
        key: its public key in hex.
    """

    node: str
    pod: str
    address: str
    key: str


@dataclass(frozen=True, slots=True)
class Installed:
    """What is on every node.

    Attributes:
        namespace: the LAS's.
        digest: of the launcher, hex.
        nodes: the LASes, by the name of their node.
    """

    namespace: str
    digest: str
    nodes: dict[str, NodeLas]

    @property
    def launcher(self) -> str:
        """The launcher's directory on each node."""
        return f"{LAUNCHERS}/{self.digest}"


@contextmanager
def installed(cluster: Cluster, images: dict[str, str], digest: str) -> Iterator[Installed]:
    """Install both on every node, wait until each LAS vouches, and remove all of it at the end."""
    namespace = f"las-{RUN.rpartition('-')[2]}"
    cluster.kubectl("create", "namespace", namespace)
    try:
        cluster.apply(json.dumps(_daemon_set(images)), namespace)
        cluster.wait_ready(namespace, "daemonset/las")
        yield Installed(namespace, digest, _nodes(cluster, namespace))
    finally:
        cluster.kubectl("delete", "daemonset", "las", "-n", namespace, "--grace-period=1")
        _clean(cluster, images, namespace)
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def restart(cluster: Cluster, node: Installed, name: str) -> None:
    """Start the LAS of a node again, and wait until it answers."""
    before = node.nodes[name].pod
    cluster.kubectl("delete", "pod", before, "-n", node.namespace, "--grace-period=1")
    cluster.wait_ready(node.namespace, "daemonset/las")


def las_log(cluster: Cluster, node: Installed, name: str) -> str:
    """What the LAS of a node, the one that runs now, has logged."""
    (pod,) = (
        pod
        for pod in cluster.pods(node.namespace, "app=las")
        if pod["spec"]["nodeName"] == name and "deletionTimestamp" not in pod["metadata"]
    )
    return cluster.kubectl("logs", pod["metadata"]["name"], "-n", node.namespace).stdout


def host_path(name: str, path: str, kind: str = "") -> dict[str, Any]:
    """A volume that is a directory of the node."""
    return {"name": name, "hostPath": {"path": path, **({"type": kind} if kind else {})}}


def _daemon_set(images: dict[str, str]) -> dict[str, Any]:
    records = [host_path(f"records-{n}", d, "DirectoryOrCreate") for n, d in enumerate(_RECORDS)]
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "las"},
        "spec": {
            "selector": {"matchLabels": {"app": "las"}},
            "template": {
                "metadata": {"labels": {"app": "las"}},
                "spec": {
                    "hostPID": True,
                    "automountServiceAccountToken": False,
                    "terminationGracePeriodSeconds": 1,
                    "initContainers": [
                        {
                            "name": "install",
                            "image": images["python"],
                            "command": ["sh", "-c", _INSTALL],
                            "volumeMounts": [{"name": "launchers", "mountPath": "/launchers"}],
                        }
                    ],
                    "containers": [_las(images["las"])],
                    "volumes": [
                        host_path("launchers", LAUNCHERS, "DirectoryOrCreate"),
                        host_path("sockets", SOCKETS, "DirectoryOrCreate"),
                        host_path("state", _STATE, "DirectoryOrCreate"),
                        *records,
                    ],
                },
            },
        },
    }


def _las(image: str) -> dict[str, Any]:
    return {
        "name": "las",
        "image": image,
        "args": [
            *(f"--listen=0.0.0.0:{PORT}", f"--launchers={LAUNCHERS}"),
            *(f"--socket={SOCKET}/socket", "--state-directory=/state"),
        ],
        "securityContext": {
            "runAsUser": 0,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"drop": ["ALL"], "add": ["SYS_PTRACE"]},
        },
        "volumeMounts": [
            {"name": "launchers", "mountPath": LAUNCHERS, "readOnly": True},
            {"name": "sockets", "mountPath": SOCKET},
            {"name": "state", "mountPath": "/state"},
            *(
                {"name": f"records-{number}", "mountPath": directory, "readOnly": True}
                for number, directory in enumerate(_RECORDS)
            ),
        ],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 1},
    }


def _nodes(cluster: Cluster, namespace: str) -> dict[str, NodeLas]:
    found: dict[str, NodeLas] = {}
    for pod in cluster.pods(namespace, "app=las"):
        name = pod["metadata"]["name"]
        log = cluster.wait(
            lambda name=name: _ready_log(cluster, namespace, name),  # type: ignore[misc]
            f"{name} says that it vouches",
            seen=lambda: cluster.describe(namespace),
        )
        key = _KEY.search(log)
        assert key is not None, log
        node = pod["spec"]["nodeName"]
        found[node] = NodeLas(node, name, pod["status"]["podIP"], key[1])
    return found


def _ready_log(cluster: Cluster, namespace: str, pod: str) -> str:
    log = cluster.kubectl("logs", pod, "-n", namespace, check=False).stdout
    assert "simulation only" not in log, log
    return log if "vouches at trust level node" in log else ""


def _clean(cluster: Cluster, images: dict[str, str], namespace: str) -> None:
    """Take the run's directories from each node."""
    for number, node in enumerate(cluster.nodes):
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"clean-{number}"},
            "spec": {
                "nodeName": node,
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {
                        "name": "clean",
                        "image": images["python"],
                        "command": ["sh", "-c", f"rm -rf /lib-of-node/{RUN} /run-of-node/{RUN}"],
                        "volumeMounts": [
                            {"name": "lib", "mountPath": "/lib-of-node"},
                            {"name": "run", "mountPath": "/run-of-node"},
                        ],
                    }
                ],
                "volumes": [host_path("lib", "/var/lib"), host_path("run", "/run")],
            },
        }
        cluster.apply(json.dumps(pod), namespace)
    for number, _ in enumerate(cluster.nodes):
        cluster.kubectl(
            *("wait", f"pod/clean-{number}", "-n", namespace, "--timeout=60s"),
            "--for=jsonpath={.status.phase}=Succeeded",
        )
