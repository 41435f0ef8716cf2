"""Each right of the charts' components is needed: without it they do not do what they are for.

The chart's own pod, with one right taken away, and a program that asks it.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from tests.cluster.charts import CHARTS, Release, namespace_of_its_own
from tests.cluster.node_las import LAUNCHER, SOCKET, host_path
from tests.cluster.outside import OutsideCas
from tests.cluster.rig import Cluster
from tests.containers import artifacts as made

Pod = dict[str, Any]
_NOBODY = 65532


class Without(NamedTuple):
    """A right that is taken away, and what is said then: by the program, or by the component."""

    take: Callable[[Pod], None]
    said: str


def _spec(**fields: Any) -> Callable[[Pod], None]:
    return lambda spec: spec.update(fields)


def _no_capability(spec: Pod) -> None:
    for container in spec["containers"]:
        container["securityContext"]["capabilities"] = {"drop": ["ALL"]}


def _no_root(spec: Pod) -> None:
    spec["securityContext"] |= {"runAsUser": _NOBODY, "runAsGroup": _NOBODY}


def _no_volume(*names: str) -> Callable[[Pod], None]:
    def take(spec: Pod) -> None:
        spec["volumes"] = [each for each in spec["volumes"] if each["name"] not in names]
        for container in spec["containers"]:
            mounts = container["volumeMounts"]
            container["volumeMounts"] = [each for each in mounts if each["name"] not in names]

    return take


def _no_init(spec: Pod) -> None:
    del spec["initContainers"]


def _both(*changes: Callable[[Pod], None]) -> Callable[[Pod], None]:
    def take(spec: Pod) -> None:
        for each in changes:
            each(spec)

    return take


_NOTHING = Without(lambda spec: None, "")
LAS = {
    "the-nodes-pids": Without(_spec(hostPID=False), "the LAS is not in the PID namespace"),
    "ptrace": Without(_no_capability, "/exe cannot be read: permission denied"),
    "the-shims-records": Without(_no_volume("records-0"), "no container engine's records"),
    "runcs-records": Without(_no_volume("records-1"), "runc or crun have no state"),
    "the-launchers": Without(
        _no_volume("launchers"), "the directory of launchers /var/lib/crannog/launcher is not there"
    ),
}
_WHOLE = "whole"
# These do not start.
LAS_ENDED = {
    "root": Without(_no_root, "LAS key /var/lib/crannog/las/las.key: permission denied"),
    "the-sockets-directory": Without(
        _no_volume("socket"), "LAS socket's directory /run/crannog/las: read-only file system"
    ),
}
PLUGIN_ENDED = {
    "root-to-install": Without(_no_root, "ermission denied"),
    "root-to-serve": Without(_both(_no_root, _no_init), "ermission denied"),
    "the-kubelets-directory": Without(_both(_no_volume("plugins"), _no_init), "device-plugins"),
}


@pytest.fixture(scope="module")
def asked(
    cluster: Cluster, cluster_images: dict[str, str], plugin: Release, outside_cas: OutsideCas
) -> Iterator[dict[str, str]]:
    """What a program says whose LAS lacks a right, and what a LAS says that does not start."""
    del plugin  # it has installed the launcher on the node
    digest = (made.artifacts() / "launcher" / "digest").read_text().strip()
    node = cluster.nodes[0]
    with namespace_of_its_own(cluster, "rights") as namespace:
        pods = {}
        for chart, image, own, variants in (
            ("las", "las", ("socket", "state"), {_WHOLE: _NOTHING} | LAS | LAS_ENDED),
            ("sgxdevplugin", "sgx-plugin", ("launchers-root-to-install",), PLUGIN_ENDED),
        ):
            whole = _pod_of_the_chart(cluster, chart, {"image": cluster_images[image]})
            for name, without in variants.items():
                spec = copy.deepcopy(whole)
                spec["nodeName"] = node
                for volume in spec["volumes"]:
                    place = f"{volume['name']}-{name}"
                    if volume["name"] in own or place in own:
                        volume["hostPath"]["path"] = f"/run/{namespace}/{place}"
                without.take(spec)
                pods[f"{chart}-{name}"] = spec
        for name in (_WHOLE, *LAS):
            pods[f"asks-{name}"] = {
                "nodeName": node,
                "restartPolicy": "Never",
                "automountServiceAccountToken": False,
                "containers": [
                    {
                        "name": "asks",
                        "image": cluster_images["python"],
                        "command": [f"{LAUNCHER}/run", "--", "python3"],
                        "env": [
                            {"name": "SCONE_CONFIG_ID", "value": "no-such-session/application"},
                            {"name": "SCONE_CAS_ADDR", "value": outside_cas.address},
                            # As the plugin gives it: the LAS is waited for.
                            {"name": "CRANNOG_LAS_SOCKET", "value": f"{SOCKET}/socket"},
                        ],
                        "volumeMounts": [
                            {"name": "launcher", "mountPath": LAUNCHER, "readOnly": True},
                            {"name": "las", "mountPath": SOCKET, "readOnly": True},
                        ],
                    }
                ],
                "volumes": [
                    host_path("launcher", f"/var/lib/crannog/launcher/{digest}"),
                    host_path("las", f"/run/{namespace}/socket-{name}", "DirectoryOrCreate"),
                ],
            }
        yield _run(cluster, namespace, pods)
    if cluster.local is not None:
        cluster.on_node(node, "rm", "-r", f"/run/{namespace}")


def test_with_all_of_its_rights_the_las_is_of_level_node(asked: dict[str, str]) -> None:
    assert "statement of level node" in asked[f"las-{_WHOLE}"]


@pytest.mark.parametrize("name", LAS)
def test_a_las_without_it_is_of_level_simulation_and_says_why(
    asked: dict[str, str], name: str
) -> None:
    found = re.findall(r"vouches at level simulation only: (.*)", asked[f"asks-{name}"])
    assert found, asked[f"asks-{name}"]
    assert all(LAS[name].said in each for each in found), found
    assert "statement of level node" not in asked[f"las-{name}"]


@pytest.mark.parametrize("name", LAS_ENDED)
def test_a_las_without_it_does_not_start(asked: dict[str, str], name: str) -> None:
    assert LAS_ENDED[name].said in asked[f"las-{name}"]


@pytest.mark.parametrize("name", PLUGIN_ENDED)
def test_a_plugin_without_it_does_not_start(asked: dict[str, str], name: str) -> None:
    assert PLUGIN_ENDED[name].said in asked[f"sgxdevplugin-{name}"]


def _pod_of_the_chart(cluster: Cluster, chart: str, values: dict[str, Any]) -> Pod:
    """The spec of the pods that a chart's DaemonSet makes, without its account and port."""
    rendered = cluster.helm(
        *("template", chart, str(CHARTS / chart), "--validate", "--values", "-"),
        input=json.dumps(values),
    ).stdout
    (found,) = (
        each for each in yaml.safe_load_all(rendered) if each and each["kind"] == "DaemonSet"
    )
    spec: Pod = found["spec"]["template"]["spec"]
    # One pod on a node has a port of the node; these are beside each other, and ask nobody.
    # Whether one serves is seen by who asks it: no probe starts an interpreter in each.
    for container in spec["containers"]:
        for port in container["ports"]:
            port.pop("hostPort", None)
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            container.pop(probe, None)
    return spec | {"serviceAccountName": "default", "automountServiceAccountToken": False}


def _run(cluster: Cluster, namespace: str, pods: dict[str, Pod]) -> dict[str, str]:
    """Start pods; what each has said at the end of its first run, or once it is ready."""
    items = [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}
        for name, spec in pods.items()
    ]
    cluster.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": items}), namespace)

    def done() -> bool:
        found = [
            (pod["spec"]["restartPolicy"], status)
            for pod in cluster.pods(namespace)
            for status in (
                *pod["status"].get("containerStatuses", ()),
                *pod["status"].get("initContainerStatuses", ()),
            )
            if status["state"].get("waiting", {}).get("reason") != "PodInitializing"
        ]
        return len(found) == len(pods) and all(
            status["restartCount"]
            or "terminated" in status["state"]
            or (policy == "Always" and status["ready"])
            for policy, status in found
        )

    cluster.wait(done, "each pod ready or ended", seen=lambda: cluster.describe(namespace))
    return {name: _said(cluster, namespace, name) for name in pods}


def _said(cluster: Cluster, namespace: str, pod: str) -> str:
    """A pod's log, and its status, where the reason of one that does not start is."""
    status = json.dumps(cluster.get("pod", pod, "-n", namespace)["status"])
    return cluster.kubectl("logs", pod, "-n", namespace, check=False).stdout + status
