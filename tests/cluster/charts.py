"""The project's charts on a cluster: installed with helm, asked and removed as a user would."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.rig import Cluster

CHARTS = Path(__file__).parents[2] / "charts"
CRANNOG = "/opt/crannog/bin/crannog"
SGX = "sgx.k8s.io/sgx"
_IMAGES = {"cas": "cas", "las": "las", "sgxdevplugin": "sgx-plugin"}
_SECONDS = 120


@dataclass(frozen=True, slots=True)
class Release:
    """An installed chart.

    Attributes:
        cluster: where.
        chart: its name.
        name: the release's.
        namespace: its own.
        images: the images of this checkout, by their short names.
    """

    cluster: Cluster
    chart: str
    name: str
    namespace: str
    images: Mapping[str, str]

    @property
    def workload(self) -> str:
        """What `kubectl rollout status` calls it."""
        full = self.name if self.chart in self.name else f"{self.name}-{self.chart}"
        return f"{'statefulset' if self.chart == 'cas' else 'daemonset'}/{full}"

    @property
    def full_name(self) -> str:
        """The name of its workload, service and service account."""
        return self.workload.partition("/")[2]

    def upgrade(self, values: Mapping[str, Any]) -> str:
        """Install it, or change it to these values; what helm says."""
        told = self.cluster.helm(
            *("upgrade", "--install", self.name, str(CHARTS / self.chart), "-n", self.namespace),
            *("--values", "-"),
            input=json.dumps(self.values(values)),
        )
        self.cluster.wait_ready(self.namespace, self.workload, seconds=_SECONDS)
        return told.stdout

    def given(self) -> dict[str, Any]:
        """The values that it was installed with."""
        found: dict[str, Any] = json.loads(
            self.cluster.helm("get", "values", self.name, "-n", self.namespace, "-o", "json").stdout
        )
        return found

    def values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The values with the images of this checkout."""
        test = {"image": self.images["python"]} | values.get("test", {})
        image = self.images[_IMAGES[self.chart]]
        return {"image": image, "imagePullPolicy": "Always"} | dict(values) | {"test": test}

    def test(self) -> str:
        """What `helm test` prints, with the logs of its pods; it has to succeed."""
        done = self.try_test()
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def try_test(self, *, seconds: int = 120) -> subprocess.CompletedProcess[str]:
        """`helm test`, with the logs of its pods, whatever becomes of it."""
        return self.cluster.helm(
            *("test", self.name, "-n", self.namespace, "--logs", "--timeout", f"{seconds}s"),
            check=False,
            timeout=seconds + 60,
        )

    def uninstall(self) -> str:
        """Remove it; what helm says."""
        return self.cluster.helm(
            "uninstall", self.name, "-n", self.namespace, "--wait", check=False
        ).stdout

    def pods(self) -> list[dict[str, Any]]:
        """Its pods, without those of `helm test`."""
        chosen = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/name={self.chart}"
        return self.cluster.pods(self.namespace, chosen)

    def logs(self, pod: str) -> str:
        """What a pod of it has printed."""
        return self.cluster.kubectl("logs", pod, "-n", self.namespace).stdout


@dataclass(frozen=True, slots=True)
class InsideCas:
    """A CAS of the chart, in the cluster."""

    release: Release

    @property
    def address(self) -> str:
        """What programs in the cluster set as SCONE_CAS_ADDR."""
        return f"{self.release.full_name}.{self.release.namespace}.svc"

    @property
    def pod(self) -> str:
        """Its one pod."""
        return f"{self.release.full_name}-0"

    @property
    def key_hash(self) -> str:
        """As it prints it at its start."""
        found = re.search(r"CAS key hash is (\S+)", self.release.logs(self.pod))
        assert found is not None
        return found[1]

    def command(self, *arguments: str) -> str:
        """The stdout of `crannog ARGUMENTS` beside the CAS, as the user that runs it."""
        return self.release.cluster.kubectl(
            "exec", "-n", self.release.namespace, self.pod, "--", CRANNOG, *arguments
        ).stdout

    def enrol(self, las: Release) -> None:
        """Enrol each node's LAS by hand."""
        for key in las_keys(las):
            self.command("cas", "las", "add", key)


def las_keys(las: Release) -> dict[str, str]:
    """The public keys of the nodes' LASes, and each one's node; waits for one that starts."""
    return las.cluster.wait(
        lambda: _said_keys(las),
        f"every LAS of {las.name} says its key",
        seen=lambda: las.cluster.describe(las.namespace),
    )


def _said_keys(las: Release) -> dict[str, str]:
    found, pods = {}, las.pods()
    for pod in pods:
        key = re.search(r"has public key (\w{64})", las.logs(pod["metadata"]["name"]))
        if key is not None:
            found[key[1]] = str(pod["spec"]["nodeName"])
    return found if len(found) == len(pods) else {}


@contextmanager
def namespace_of_its_own(
    cluster: Cluster, purpose: str, labels: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A namespace, removed at the end without waiting."""
    name = f"test-{purpose}-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", name)
    for key, value in (labels or {}).items():
        cluster.kubectl("label", "namespace", name, f"{key}={value}")
    try:
        yield name
    finally:
        cluster.kubectl("delete", "namespace", name, "--wait=false", check=False)


@contextmanager
def chart_installed(
    cluster: Cluster,
    images: Mapping[str, str],
    chart: str,
    values: Mapping[str, Any],
    *,
    namespace: str,
) -> Iterator[Release]:
    """A chart, ready; uninstalled at the end, with what `helm test` leaves."""
    release = Release(cluster, chart, chart, namespace, images)
    try:
        release.upgrade(values)
        yield release
    finally:
        release.uninstall()
        tested = f"app.kubernetes.io/instance={chart},app.kubernetes.io/name={chart}-test"
        cluster.kubectl("delete", "pod", "-n", namespace, "-l", tested, check=False)


def left_of(cluster: Cluster, namespace: str, release: str) -> set[str]:
    """What of a release is there, in its namespace and of the whole cluster but for volumes."""
    kinds = (
        "pods,services,serviceaccounts,configmaps,secrets,statefulsets,daemonsets,networkpolicies,"
        "poddisruptionbudgets,persistentvolumeclaims,clusterroles,clusterrolebindings,"
        "validatingadmissionpolicies,validatingadmissionpolicybindings"
    )
    chosen = f"app.kubernetes.io/instance={release},app.kubernetes.io/name!=cas-test"
    found = cluster.get(kinds, "-n", namespace, "-l", chosen)["items"]
    return {f"{each['kind'].lower()}/{each['metadata']['name']}" for each in found}


def offered(cluster: Cluster, resource: str = SGX) -> dict[str, int]:
    """How many of a resource each node offers."""
    return {
        node["metadata"]["name"]: int(node["status"]["allocatable"].get(resource, 0))
        for node in cluster.get("nodes")["items"]
    }


LEAST = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
}
# A new Service is in a node's rules after a moment; the pod's own deadline ends a vain wait.
_POST = """
printf '%s' "$SESSION" | sed "s/MRENCLAVE/$(env SCONE_HASH=1 "$@")/" > /scratch/session.yaml
until crannog cas attest "$CAS" --only_for_testing-trust-any; do sleep 0.2; done
crannog session create /scratch/session.yaml
"""


def run_to_its_end(
    cluster: Cluster,
    namespace: str,
    image: str,
    command: list[str],
    environment: Mapping[str, str],
    *,
    node_launcher: bool = False,
) -> str:
    """A pod within the restricted profile, run to its good end; what it printed.

    With `node_launcher` it asks for SGX. Values of the environment reach it as they are.
    """
    name = f"once-{secrets.token_hex(4)}"
    # A manifest's `$$` is a container's `$`.
    variables = [
        {"name": key, "value": value.replace("$", "$$")} for key, value in environment.items()
    ]
    container: dict[str, Any] = {
        "name": "once",
        "image": image,
        "command": command,
        "env": [{"name": "HOME", "value": "/scratch"}, *variables],
        "securityContext": LEAST,
        "volumeMounts": [{"name": "work", "mountPath": "/scratch"}],
    }
    if node_launcher:
        container["resources"] = {"limits": {SGX: 1}}
    spec = {
        "restartPolicy": "Never",
        "activeDeadlineSeconds": 60,
        "automountServiceAccountToken": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": [{"name": "work", "emptyDir": {}}],
    }
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
    cluster.apply(json.dumps(manifest), namespace)
    phase = cluster.wait(
        lambda: (
            {"Succeeded", "Failed"} & {cluster.get("pod", name, "-n", namespace)["status"]["phase"]}
        ),
        f"the end of {name}",
        seen=lambda: cluster.describe(namespace),
    )
    said = cluster.kubectl("logs", name, "-n", namespace).stdout
    assert phase == {"Succeeded"}, said
    return said


def post_session(
    cluster: Cluster,
    namespace: str,
    image: str,
    cas: str,
    text: str,
    program: list[str],
    *,
    node_launcher: bool = False,
) -> None:
    """Post a session from a pod, its `MRENCLAVE` replaced by what `program`'s launcher measures.

    Args:
        cluster: where.
        namespace: the pod's.
        image: with the command line, a shell and the program.
        cas: its address, without the port.
        text: of the session.
        program: the launcher, `--`, the program.
        node_launcher: the launcher is the node's.
    """
    run_to_its_end(
        cluster,
        namespace,
        image,
        ["sh", "-ec", _POST, "sh", *program],
        {"SESSION": text, "CAS": f"{cas}:8081"},
        node_launcher=node_launcher,
    )
