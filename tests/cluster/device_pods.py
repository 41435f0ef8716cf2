"""Pods that ask for SGX, and the plugin that serves them: started, asked, changed, compared."""

from __future__ import annotations

import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from crannog.kubernetes.labels import CAPABLE, SIMULATION
from crannog.measure.launcher_directory import directory_digest
from tests.cluster.charts import LEAST, SGX, Release, offered
from tests.cluster.rig import Cluster

LAUNCHERS = "/var/lib/crannog/launcher"
# All nodes at once, and probed each second: what is tested is not how patient a rollout is.
_QUICK = {
    "updateStrategy": {"maxUnavailable": "100%"},
    "readinessProbe": {"periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 3},
}


def asking_pod(name: str, image: str, node: str, resource: str = SGX) -> dict[str, Any]:
    """A pod under the restricted profile that asks for a device, and waits."""
    container = {
        "name": "main",
        "image": image,
        "command": ["sleep", "3600"],
        "resources": {"limits": {resource: 1}},
        "securityContext": LEAST,
    }
    spec = {
        # By a selector: the scheduler counts devices, which a node's name would bypass.
        "nodeSelector": {"kubernetes.io/hostname": node},
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65534,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Pods:
    """Pods of a test: started on a node, asked, compared."""

    def __init__(self, cluster: Cluster, namespace: str, image: str) -> None:
        self._cluster = cluster
        self._namespace = namespace
        self._image = image
        self.node = cluster.nodes[-1]

    def begin(self, resource: str = SGX) -> str:
        """Create one; its name."""
        name = f"asks-{secrets.token_hex(3)}"
        pod = asking_pod(name, self._image, self.node, resource)
        self._cluster.apply(json.dumps(pod), self._namespace)
        return name

    def start(self, resource: str = SGX, seconds: float = 60.0) -> str:
        """Create one, and wait until it runs; its name."""
        name = self.begin(resource)
        self._cluster.wait(
            lambda: self.status(name).get("phase") == "Running",
            f"{name} runs",
            seconds=seconds,
            seen=lambda: self._cluster.describe(self._namespace),
        )
        return name

    def status(self, name: str) -> dict[str, Any]:
        """What the API server knows of it."""
        found: dict[str, Any] = self._cluster.get("pod", name, "-n", self._namespace)["status"]
        return found

    def container(self, name: str) -> tuple[str, int]:
        """Which container it is, and how often it was started again."""
        (container,) = self.status(name)["containerStatuses"]
        return str(container["containerID"]), int(container["restartCount"])

    def last_words(self, name: str) -> str:
        """What its container left when it ended last; empty before that."""
        (state,) = self.status(name).get("containerStatuses", [{}])
        for when in ("state", "lastState"):
            if "terminated" in state.get(when, {}):
                return str(state[when]["terminated"].get("message", ""))
        return ""

    def ask(self, name: str, script: str) -> str:
        """What a shell in it prints."""
        command = ("exec", name, "-n", self._namespace, "--", "sh", "-c", script)
        return self._cluster.kubectl(*command).stdout

    def delete(self, *names: str) -> None:
        """End them, and wait for it."""
        self._cluster.kubectl("delete", "pod", *names, "-n", self._namespace, "--now")


@contextmanager
def changed(plugin: Release, **values: Any) -> Iterator[None]:
    """The plugin with other values for a while."""
    before = plugin.given()
    plugin.upgrade({**before, **_QUICK, **values})
    try:
        yield
    finally:
        plugin.upgrade({**before, **_QUICK})
        wait_offered(plugin.cluster)


def wait_offered(cluster: Cluster) -> None:
    """Until every node offers SGX."""
    cluster.wait(lambda: all(offered(cluster).values()), "SGX on every node")


def labels(cluster: Cluster, node: str) -> dict[str, str]:
    labels: dict[str, str] = cluster.get("node", node)["metadata"]["labels"]
    return {name: labels[name] for name in (CAPABLE, SIMULATION) if name in labels}


def plugin_on(plugin: Release, node: str) -> dict[str, Any]:
    (pod,) = (
        pod
        for pod in plugin.pods()
        if pod["spec"].get("nodeName") == node and "deletionTimestamp" not in pod["metadata"]
    )
    return pod


def plugin_processes(cluster: Cluster, node: str) -> list[str]:
    """The plugin's process ids on a node of ours, as the node sees them."""
    found = cluster.on_node(node, "pgrep", "-f", "crannog kubernetes device-plugin", check=False)
    return found.split()


def status_of(plugin: Release, node: str, path: str) -> str:
    """What the plugin on a node answers on its status port, by way of the API server.

    Of an answer that is not 200 the API server gives no text.
    """
    name = plugin_on(plugin, node)["metadata"]["name"]
    where = f"/api/v1/namespaces/{plugin.namespace}/pods/{name}:18767/proxy{path}"
    done = plugin.cluster.kubectl("get", "--raw", where, check=False)
    return f"{done.stdout}{done.stderr}"


def wait_known(plugin: Release, node: str) -> None:
    """Until the kubelet of a node listens to the plugin there.

    What the API server has of the node may be from before.
    """
    plugin.cluster.wait(
        lambda: status_of(plugin, node, "/ready") == "ready\n",
        f"the plugin of {node} to be known to its kubelet",
        seen=lambda: plugin.cluster.describe(plugin.namespace),
    )


def plugin_log(plugin: Release, node: str) -> str:
    """What the plugin of a node has said so far."""
    name = plugin_on(plugin, node)["metadata"]["name"]
    command = ("logs", name, "-c", "plugin", "-n", plugin.namespace)
    return plugin.cluster.kubectl(*command, check=False).stdout


def renew(plugin: Release, node: str) -> str:
    """Delete the plugin's pod on a node; the next one's name."""
    before = plugin_on(plugin, node)["metadata"]["uid"]
    name = plugin_on(plugin, node)["metadata"]["name"]
    plugin.cluster.kubectl("delete", "pod", name, "-n", plugin.namespace, "--wait=false")

    def another() -> str:
        found = [
            pod["metadata"]["name"]
            for pod in plugin.pods()
            if pod["spec"].get("nodeName") == node and pod["metadata"]["uid"] != before
        ]
        return str(found[0]) if found else ""

    return plugin.cluster.wait(another, f"another plugin on {node}")


def copied(pod: dict[str, Any], name: str) -> dict[str, Any]:
    """The same pod by another name, and without a service account's rights."""
    spec = {
        key: value
        for key, value in pod["spec"].items()
        if key not in {"serviceAccount", "serviceAccountName", "priority", "priorityClassName"}
    }
    spec["automountServiceAccountToken"] = False
    for container in (*spec["containers"], *spec["initContainers"]):
        container["volumeMounts"] = [
            mount
            for mount in container["volumeMounts"]
            if "serviceaccount" not in mount["mountPath"]
        ]
    spec["volumes"] = [volume for volume in spec["volumes"] if "projected" not in volume]
    environment = spec["containers"][0]["env"]
    spec["containers"][0]["env"] = [
        each if each["name"] != "LABEL_NODES" else {"name": "LABEL_NODES", "value": "false"}
        for each in environment
    ]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def another_release(launchers: Path, first: str) -> str:
    """A release that differs in a comment."""
    making = launchers / ".installing-by-hand"
    shutil.copytree(launchers / first, making, symlinks=True)
    with (making / "etc" / "openssl.cnf").open("a") as file:
        file.write("# another\n")
    digest = directory_digest(str(making)).hex()
    (making / "digest").write_text(f"{digest}\n")
    making.rename(launchers / digest)
    return digest
