"""Level node on a kubelet's containerd: which pods reach it, on which node, with which claims."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from crannog.measure.launcher_directory import directory_digest
from tests.cluster.node_las import host_path, las_log, restart
from tests.cluster.vouched import GREETING, RAN, REFUSED, Ended, Pod, World
from tests.containers import artifacts
from tests.containers.rig import RUN

HARDENED: dict[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def test_a_pod_is_vouched_for_by_the_las_of_its_own_node(world: World) -> None:
    assert len(world.installed.nodes) == len(world.cluster.nodes)
    assert len({one.key for one in world.installed.nodes.values()}) == len(world.cluster.nodes)
    first = world.cluster.nodes[0]
    with world.only_enrolled(first):
        pods = {node: world.pod(node=node) for node in world.cluster.nodes}
        world.start(*pods.values())
        for node, pod in pods.items():
            ended = world.ended(pod)
            assert (RAN in ended.log) == (node == first), ended.log
            if node == first:
                assert "at level node" in ended.log, ended.log
            else:
                assert f"{world.installed.nodes[node].key}, is not enrolled" in ended.log


def _volume(name: str, where: str, **kind: object) -> dict[str, Any]:
    return {
        "volumes": [{"name": name, **kind}],
        "mounts": [{"name": name, "mountPath": where}],
    }


_TOKEN = {"sources": [{"serviceAccountToken": {"path": "token", "audience": "other"}}]}
_FIELD = {"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}
_SYSCTL = {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
_ALIAS = {"ip": "192.0.2.1", "hostnames": ["elsewhere"]}
KINDS: dict[str, Callable[[World], Pod]] = {
    "as Kubernetes makes them": lambda world: world.pod(),
    "runtime default seccomp": lambda world: world.pod(
        container={"securityContext": {"seccompProfile": {"type": "RuntimeDefault"}}}
    ),
    "unconfined": lambda world: world.pod(
        container={"securityContext": {"seccompProfile": {"type": "Unconfined"}}}
    ),
    "hardened": lambda world: world.pod(container={"securityContext": HARDENED}),
    "another user": lambda world: world.pod(
        securityContext={"runAsUser": 1000, "fsGroup": 2000, "supplementalGroups": [3000]}
    ),
    "without a service account's token": lambda world: world.pod(
        automountServiceAccountToken=False
    ),
    "a terminal": lambda world: world.pod(container={"tty": True, "stdin": True}),
    "limits": lambda world: world.pod(
        container={"resources": {"limits": {"cpu": "1", "memory": "256Mi"}}}
    ),
    "an emptyDir": lambda world: world.pod(**_volume("scratch", "/tmp", emptyDir={})),
    "memory": lambda world: world.pod(
        **_volume("scratch", "/var/cache", emptyDir={"medium": "Memory"})
    ),
    "a token below /var/run": lambda world: world.pod(
        **_volume("token", "/var/run/secrets/other", projected=_TOKEN)
    ),
    "fields of its own": lambda world: world.pod(
        **_volume("info", "/etc/podinfo", downwardAPI={"items": [_FIELD]})
    ),
    "host network": lambda world: world.pod(hostNetwork=True),
    "a safe sysctl": lambda world: world.pod(securityContext={"sysctls": [_SYSCTL]}),
    "host aliases": lambda world: world.pod(hostAliases=[_ALIAS]),
    "an init container": lambda world: world.pod(
        initContainers=[{"name": "first", "image": world.image, "command": ["true"]}]
    ),
    "a sidecar": lambda world: world.pod(
        initContainers=[
            {
                "name": "beside",
                "image": world.image,
                "command": ["sleep", "600"],
                "restartPolicy": "Always",
            }
        ]
    ),
}


def _first(world: World) -> Pod:
    """A pod whose init container attests."""
    pod = world.pod()
    (app,) = pod["spec"]["containers"]
    pod["spec"]["initContainers"] = [{**app, "name": "first"}]
    pod["spec"]["containers"] = [{"name": "app", "image": world.image, "command": ["true"]}]
    return pod


@pytest.fixture(scope="module")
def kinds(world: World) -> dict[str, Pod]:
    """Each of them, and two that are seen in another way, started."""
    pods = {name: make(world) for name, make in KINDS.items()}
    pods["an attesting init container"] = _first(world)
    pods["started again"] = world.pod()
    pods["started again"]["spec"]["restartPolicy"] = "Always"
    world.start(*pods.values())
    return pods


@pytest.mark.parametrize("kind", KINDS)
def test_a_pod_reaches_level_node(world: World, kinds: dict[str, Pod], kind: str) -> None:
    ended = world.ended(kinds[kind])
    assert RAN in ended.log, ended.log
    assert "at level node" in ended.log, ended.log


def test_an_init_container_reaches_level_node(world: World, kinds: dict[str, Pod]) -> None:
    pod = kinds["an attesting init container"]
    world.ended(pod)
    assert "at level node" in world.log(pod, "first")


def test_a_container_that_is_started_again_is_vouched_for_again(
    world: World, kinds: dict[str, Pod]
) -> None:
    pod = kinds["started again"]
    name = pod["metadata"]["name"]

    def restarted() -> bool:
        status = world.cluster.get("pod", name, "-n", world.namespace)["status"]
        (one,) = status.get("containerStatuses", [{}])
        again = bool(one.get("restartCount", 0) >= 1 and "running" not in one["state"])
        return again and "terminated" in one.get("lastState", {}) | one["state"]

    world.cluster.wait(restarted, f"{name} is started again")
    assert RAN in world.log(pod), world.log(pod)


def test_after_the_las_has_been_started_again(world: World) -> None:
    node = world.cluster.nodes[0]
    restart(world.cluster, world.installed, node)
    assert world.installed.nodes[node].key in las_log(world.cluster, world.installed, node)
    ended = world.run(world.pod(node=node))
    assert RAN in ended.log, ended.log


CLAIMS: dict[str, Callable[[World], dict[str, str]]] = {
    "namespace": lambda world: {"namespace": world.namespace},
    "pod": lambda world: {"pod": "the-pod"},
    "container": lambda world: {"container": "app"},
    "image": lambda world: {"image": world.image},
    "engine": lambda world: {"engine": "containerd"},
}


UNMET = {"pod": "another", "container": "another", "image": "another", "engine": "docker"}


@pytest.fixture(scope="module")
def claimed(world: World) -> Iterator[dict[tuple[str, bool], Pod]]:
    """A pod for each claim, and whether it holds; one for a namespace that is not its own."""
    elsewhere = f"{world.namespace}-other"
    world.cluster.kubectl("create", "namespace", elsewhere)
    pods = {}
    for claim, make in CLAIMS.items():
        pods[claim, True] = _asked(world, make(world))
    pods["pod", True]["metadata"]["name"] = "the-pod"
    for claim, wanted in UNMET.items():
        pods[claim, False] = _asked(world, {claim: wanted})
    pods["namespace", False] = _asked(world, CLAIMS["namespace"](world), namespace=elsewhere)
    try:
        world.start(*pods.values())
        yield pods
    finally:
        world.cluster.kubectl("delete", "namespace", elsewhere, "--wait=false")


def _asked(world: World, claims: dict[str, str], namespace: str = "") -> Pod:
    config_id = world.session(claims=[claims])
    variables = world.environment(SCONE_CONFIG_ID=config_id)
    return world.pod(environment=variables, namespace=namespace)


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_claim_that_holds(world: World, claimed: dict[tuple[str, bool], Pod], claim: str) -> None:
    ended = world.ended(claimed[claim, True])
    assert RAN in ended.log, ended.log


@pytest.mark.parametrize("claim", UNMET)
def test_a_claim_that_does_not_hold(
    world: World, claimed: dict[tuple[str, bool], Pod], claim: str
) -> None:
    refused(world.ended(claimed[claim, False]), f"Unexpected container: {claim} '")


def test_a_pod_in_another_namespace_is_refused(
    world: World, claimed: dict[tuple[str, bool], Pod]
) -> None:
    found = f"namespace '{world.namespace}-other' - Expected '{world.namespace}'"
    refused(world.ended(claimed["namespace", False]), f"Unexpected container: {found}")


def test_an_image_by_digest_is_claimed_with_it(world: World) -> None:
    # An image that the node has by no other name: containerd 1.6 would record that one.
    engine, name = world.cluster.engine, f"{world.cluster.registry}/{RUN}/by-digest"
    engine.build_text(f"{name}:1", f"FROM {world.image}\nRUN touch /by-digest\n")
    world.cluster.push_tagged(f"{name}:1")
    (image,) = (one for one in engine.inspect(f"{name}:1")["RepoDigests"] if name in one)
    config_id = world.session(claims=[{"image_id": image.partition("@")[2]}])
    ended = world.run(
        world.pod(environment=world.environment(SCONE_CONFIG_ID=config_id), image=image)
    )
    assert RAN in ended.log, ended.log


class Second:
    """A second release of the launcher, installed on a node while its LAS runs."""

    def __init__(self, world: World, directory: Path) -> None:
        self.world = world
        self.node = world.cluster.nodes[-1]
        context = directory / "context"
        copy = shutil.copytree(
            artifacts.artifacts() / "launcher", context / "launcher", symlinks=True
        )
        (copy / "etc" / "release").write_text("the next one\n")
        (copy / "etc" / "release").chmod(0o644)
        self.digest = directory_digest(str(copy)).hex()
        (copy / "digest").write_text(f"{self.digest}\n")
        self.path = f"/var/lib/{RUN}/launcher/{self.digest}"
        (context / "Dockerfile").write_text(f"FROM {world.image}\nCOPY launcher /second\n")
        self.image = f"{world.cluster.registry}/{RUN}/second:1"
        world.cluster.engine.build(context, self.image)
        world.cluster.push_tagged(self.image)

    def install(self) -> None:
        """On the node, as an installation does: whole or not at all."""
        launchers = f"/host/{RUN}/launcher"
        script = (
            f"cp -a --no-preserve=ownership /second {launchers}/.second && "
            f"mv {launchers}/.second {launchers}/{self.digest}"
        )
        self.world.on_node(self.node, script, image=self.image)

    def run(self) -> Ended:
        """A pod that has this release."""
        return self.world.run(
            self.world.pod(node=self.node, volumes=[host_path("launcher", self.path)])
        )


@pytest.fixture(scope="module")
def second(world: World, tmp_path_factory: pytest.TempPathFactory) -> Second:
    """It, installed."""
    made = Second(world, tmp_path_factory.mktemp("second"))
    made.install()
    return made


def test_a_new_release_is_noticed_and_the_old_one_stays(world: World, second: Second) -> None:
    ended = second.run()
    assert RAN in ended.log, ended.log
    log = las_log(world.cluster, world.installed, second.node)
    assert f"launcher {second.digest} is whole" in log
    assert RAN in world.run(world.pod(node=second.node)).log


def test_a_release_that_was_altered_on_the_node_is_refused(world: World, second: Second) -> None:
    world.on_node(second.node, f"echo changed >> /host/{RUN}/launcher/{second.digest}/etc/release")
    refused(second.run(), f"its own file says {second.digest}")
    assert RAN in world.run(world.pod(node=second.node)).log


def refused(ended: Ended, reason: str) -> None:
    """The CAS refused, said why, also where `kubectl describe pod` shows it; nothing ran."""
    shown = json.dumps(ended._asdict(), indent=1)
    assert GREETING not in ended.log, shown
    assert ended.code == REFUSED, shown
    assert reason in ended.log, shown
    assert reason in ended.message, shown
