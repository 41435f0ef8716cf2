"""Each attack on level node, on a real cluster: refused by the CAS, with its reason.

The rows of docs/formats/las.md, "What is checked". The session asks for level node; the attacker
writes the pod's manifest and image, knows the measurement, the launcher's digest and the protocol.
What the admission policy would refuse beforehand is carried out without it here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster import attackers
from tests.cluster.attackers import ELSEWHERE, attest, script, sidecar
from tests.cluster.node_las import ENTRY, LAUNCHER, PORT, SOCKET, SOCKETS, host_path
from tests.cluster.vouched import GREETING, MOUNTS, PROGRAM, RAN, REFUSED, Ended, Pod, World
from tests.containers import impostor
from tests.containers.protected import create_session
from tests.containers.rig import RUN

TOO_LOW = "Trust level is simulation"
NOWHERE = {"SCONE_CAS_ADDR": "192.0.2.1", "CRANNOG_RETRY_SECONDS": "600"}
RELAY_PORT = 19000

_LAUNCHER_MOUNT, _SOCKET_MOUNT = MOUNTS


def refused(log: str, reason: str) -> None:
    """The CAS refused because of the level, and said why it is not higher; nothing ran."""
    assert GREETING not in log, log
    assert "CONFIGURED" not in log, log
    assert TOO_LOW in log, log
    assert reason in log, log


class Attack(NamedTuple):
    """A pod, and why its evidence is not of level node."""

    pod: Callable[[World], Pod]
    reason: str


def _impostor(world: World, *command: str, **environment: str) -> Pod:
    """A pod that runs the impostor by this command, and has other variables than it claims."""
    return world.pod(
        *command[1:],
        attest(world, SCONE_CAS_ADDR=world.cas.cas_enclave, SCONE_CONFIG_ID=world.config_id),
        command=command[:1],
        environment=world.environment(**environment),
    )


def _secured(**context: Any) -> Callable[[World], Pod]:
    return lambda world: world.pod(container={"securityContext": context})


def _mounted(where: str, **kind: Any) -> Callable[[World], Pod]:
    """A pod that has a volume at a place where none may be."""
    return lambda world: world.pod(
        mounts=[{"name": "more", "mountPath": where}], volumes=[{"name": "more", **kind}]
    )


def _covering(where: str, *given: dict[str, Any]) -> Callable[[World], Pod]:
    """A pod with a ConfigMap whose `run` is the impostor, at a place of the launcher's."""

    def make(world: World) -> Pod:
        name = f"covering-{where.count('/')}-{len(given)}"
        code = script(world, ELSEWHERE)
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"run": code},
        }
        world.cluster.apply(json.dumps(manifest), world.namespace)
        return world.pod(
            given=given,
            mounts=[
                {"name": "cover", "mountPath": where},
                {"name": "launcher", "mountPath": ELSEWHERE, "readOnly": True},
            ],
            volumes=[
                {"name": "cover", "configMap": {"name": name, "defaultMode": 0o755}},
                host_path("launcher", world.installed.launcher),
            ],
        )

    return make


def _copied(world: World) -> Pod:
    """A pod with a copy of the launcher, which its own init container has made."""
    copying = {
        "name": "copying",
        "image": world.image,
        "command": ["sh", "-c", f"cp -a {ELSEWHERE}/. /copy"],
        "volumeMounts": [
            {"name": "genuine", "mountPath": ELSEWHERE, "readOnly": True},
            {"name": "launcher", "mountPath": "/copy"},
        ],
    }
    return world.pod(
        volumes=[
            {"name": "launcher", "emptyDir": {}},
            host_path("genuine", world.installed.launcher),
        ],
        initContainers=[copying],
    )


def _renaming(world: World) -> Pod:
    """A pod whose volume at /run another of its containers renames in."""
    beside = sidecar(world, attackers.RENAMING, {"name": "run", "mountPath": "/shared"})
    pod = world.pod(
        mounts=[{"name": "run", "mountPath": "/run"}],
        volumes=[{"name": "run", "emptyDir": {}}],
        initContainers=[beside],
    )
    # The runtime may meet the name while it is away, and fail.
    pod["spec"]["restartPolicy"] = "OnFailure"
    return pod


def _on_volume(world: World) -> Pod:
    """A pod whose program lies on a volume."""
    copying = {
        "name": "copying",
        "image": world.image,
        "command": ["cp", "/bin/true", "/volume/program"],
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
    }
    return world.pod(
        *("--", "/volume/program"),
        mounts=[{"name": "volume", "mountPath": "/volume"}],
        volumes=[{"name": "volume", "emptyDir": {}}],
        initContainers=[copying],
    )


def _with(*mounts: dict[str, Any]) -> Callable[[World], Pod]:
    return lambda world: world.pod(given=mounts)


def _writable(mount: dict[str, Any]) -> dict[str, Any]:
    return {**mount, "readOnly": False}


_LOADER = (
    *(f"{LAUNCHER}/lib/ld.so", "--library-path", f"{LAUNCHER}/lib", f"{LAUNCHER}/bin/python3"),
    *("-I", "-S", "-c"),
)
_NOT_BIND = "is not a read-only private bind mount"
ATTACKS: dict[str, Attack] = {
    "a pristine Python that speaks the protocol": Attack(
        lambda world: _impostor(world, "python3", "-c"), "the container was started as 'python3'"
    ),
    "the launcher's loader as command": Attack(
        lambda world: _impostor(world, *_LOADER),
        f"the container was started as '{LAUNCHER}/lib/ld.so'",
    ),
    "the launcher's Python as command": Attack(
        lambda world: _impostor(world, f"{LAUNCHER}/bin/python3", "-c"),
        f"the container was started as '{LAUNCHER}/bin/python3'",
    ),
    "a ConfigMap in the launcher's place": Attack(
        _covering(LAUNCHER, _SOCKET_MOUNT), f"the mount at {LAUNCHER} is not this node's launcher"
    ),
    # By another name for the same place, which Kubernetes does not notice: /var/run is a link.
    "a ConfigMap over the launcher": Attack(
        _covering(f"/var{LAUNCHER}", *MOUNTS), f"two mounts lie on one another at {LAUNCHER}"
    ),
    "an emptyDir inside the launcher": Attack(
        _mounted(f"{LAUNCHER}/etc", emptyDir={}), f"something else is mounted at {LAUNCHER}/etc"
    ),
    "an emptyDir beside the launcher": Attack(
        _mounted("/run/crannog/more", emptyDir={}),
        "something else is mounted at /run/crannog/more",
    ),
    "an emptyDir above the launcher": Attack(
        _mounted("/run/crannog", emptyDir={}),
        "something is mounted at /run/crannog, above the launcher, that is not a tmpfs",
    ),
    "an emptyDir in memory at /run": Attack(
        _mounted("/run", emptyDir={"medium": "Memory"}),
        "something is mounted at /run, above the launcher, that is not a tmpfs",
    ),
    "a directory of the node at /run": Attack(
        _mounted("/run", hostPath={"path": f"/var/lib/{RUN}/run", "type": "DirectoryOrCreate"}),
        "something is mounted at /run, above the launcher, that is not a tmpfs",
    ),
    "a copy of the launcher": Attack(
        _copied, f"the mount at {LAUNCHER} is not this node's launcher"
    ),
    "a writable launcher": Attack(
        _with(_writable(_LAUNCHER_MOUNT), _SOCKET_MOUNT),
        f"the recorded mount at {LAUNCHER} {_NOT_BIND}",
    ),
    "a writable socket directory": Attack(
        _with(_LAUNCHER_MOUNT, _writable(_SOCKET_MOUNT)),
        f"the recorded mount at {SOCKET} {_NOT_BIND}",
    ),
    "a launcher on which the node may mount later": Attack(
        _with({**_LAUNCHER_MOUNT, "mountPropagation": "HostToContainer"}, _SOCKET_MOUNT),
        f"the recorded mount at {LAUNCHER} {_NOT_BIND}",
    ),
    "a shared PID namespace": Attack(
        lambda world: world.pod(shareProcessNamespace=True),
        "the container shares the pid namespace of another",
    ),
    "the node's PID namespace": Attack(
        lambda world: world.pod(hostPID=True), "the process is in the host's PID namespace"
    ),
    "SYS_PTRACE": Attack(
        _secured(capabilities={"add": ["SYS_PTRACE"]}), "the record grants CAP_SYS_PTRACE"
    ),
    "SYS_ADMIN": Attack(
        _secured(capabilities={"add": ["SYS_ADMIN"]}), "the record grants CAP_SYS_ADMIN"
    ),
    "NET_ADMIN": Attack(
        _secured(capabilities={"add": ["NET_ADMIN"]}), "the record grants CAP_NET_ADMIN"
    ),
    "privileged": Attack(_secured(privileged=True), "the record grants CAP_"),
    "another configuration id than the record's": Attack(
        lambda world: _impostor(world, "python3", "-c", SCONE_CONFIG_ID="another/service"),
        "the configuration id asked for is not the one in the container's record",
    ),
    "another CAS than the record's": Attack(
        lambda world: _impostor(world, "python3", "-c", SCONE_CAS_ADDR="192.0.2.1"),
        "the CAS asked is not the one in the container's record",
    ),
    "other pins than the record's": Attack(
        lambda world: world.pod(
            *("-c", attest(world, CRANNOG_SESSION_HASH="")),
            command=("python3",),
            environment=world.environment(CRANNOG_SESSION_HASH="0a" * 32),
        ),
        "the pins are not those in the container's record",
    ),
    "a program on a volume": Attack(_on_volume, "is not on the container's root mount"),
}


@pytest.fixture(scope="module")
def attacked(world: World) -> dict[str, Pod]:
    """The pods of all attacks that are a pod alone, started together."""
    pods = {name: attack.pod(world) for name, attack in ATTACKS.items()}
    world.start(*pods.values())
    return pods


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(world: World, attacked: dict[str, Pod], name: str) -> None:
    refused(world.ended(attacked[name]).log, ATTACKS[name].reason)


def test_a_volume_at_run_in_which_another_container_renames_is_refused(world: World) -> None:
    pod = _renaming(world)
    world.start(pod)
    log = world.cluster.wait(
        lambda: _logged(world, pod, TOO_LOW), "the launcher is refused", seen=lambda: world.log(pod)
    )
    refused(log, "something is mounted at /run, above the launcher, that is not a tmpfs")


def test_the_image_s_own_launcher_is_refused(
    world: World, cluster_images: dict[str, str], tmp_path: Path
) -> None:
    image = attackers.with_own_launcher(
        world.cluster, world.image, cluster_images["launcher"], tmp_path
    )
    ended = world.run(world.pod(image=image, command=("/crannog/run",)))
    refused(ended.log, "the container was started as '/crannog/run'")
    assert ended.code == REFUSED
    assert "the container was started as '/crannog/run'" in ended.message


def test_the_loader_runs_an_echo_and_nothing_is_vouched_for(world: World) -> None:
    ended = world.run(world.pod("/bin/echo", "hello", command=(f"{LAUNCHER}/lib/ld.so",)))
    assert ended == Ended("hello\n", 0, "")


def test_a_link_above_the_launcher_is_refused(world: World, tmp_path: Path) -> None:
    # The runtime mounts where the image's link leads, and the record does not show it.
    image = attackers.with_link(world.cluster, world.image, tmp_path)
    refused(world.run(world.pod(image=image)).log, f"nothing is mounted at {LAUNCHER}")


def test_an_image_with_a_preload_file_is_refused_and_its_code_never_ran(
    world: World, tmp_path: Path
) -> None:
    image = attackers.preloading(world.cluster, world.image, tmp_path, preload=True)
    ended = world.run(world.pod(image=image))
    assert "Unexpected enclave measurement" in ended.log, ended
    assert GREETING not in ended.log, ended
    assert "PRELOADED" not in ended.log, ended


def test_variables_that_would_load_code_have_no_effect(world: World, tmp_path: Path) -> None:
    image = attackers.preloading(world.cluster, world.image, tmp_path, preload=False)
    ended = world.run(
        world.pod(
            image=image,
            environment=world.environment(
                LD_PRELOAD="/evil/preloaded.so",
                LD_LIBRARY_PATH="/evil",
                PYTHONPATH="/evil",
                PYTHONHOME="/evil",
                OPENSSL_CONF="/evil/openssl.cnf",
            ),
        )
    )
    assert RAN in ended.log, ended
    assert "PRELOADED" not in ended.log, ended


def test_a_forked_holder_of_the_socket_is_refused(world: World) -> None:
    pod = world.pod("-c", impostor.forked(world.mrenclave), command=("python3",))
    log = world.run(pod).log
    assert "QUOTED" not in log, log
    assert "one process connects and asks" in log, log


# -- another node's LAS


def _two(world: World) -> tuple[str, str]:
    if len(world.cluster.nodes) < 2:
        pytest.skip("a cluster of one node")
    return world.cluster.nodes[0], world.cluster.nodes[1]


def test_the_las_of_another_node_by_tcp_is_refused(world: World) -> None:
    here, there = _two(world)
    address = f"{world.installed.nodes[there].address}:{PORT}"
    pod = world.pod(
        given=[_LAUNCHER_MOUNT], node=here, environment=world.environment(SCONE_LAS_ADDR=address)
    )
    refused(world.run(pod).log, "over TCP the LAS cannot see which process asks")


def test_the_las_of_another_node_by_a_forwarded_socket_is_refused(world: World) -> None:
    here, there = _two(world)
    far = world.pod(
        *("-c", attackers.relay_to_socket(RELAY_PORT, f"{SOCKET}/socket")),
        command=("python3",),
        environment={},
        node=there,
    )
    world.started(far)
    address = world.cluster.get("pod", far["metadata"]["name"], "-n", world.namespace)["status"][
        "podIP"
    ]
    near = attackers.relay_to_tcp("/shared/socket", address, RELAY_PORT)
    pod = world.pod(
        node=here,
        environment=world.environment(CRANNOG_RETRY_SECONDS="60"),
        volumes=[{"name": "las", "emptyDir": {}}],
        initContainers=[sidecar(world, near, {"name": "las", "mountPath": "/shared"})],
    )
    refused(world.run(pod).log, "the container was started as 'python3'")


def test_the_socket_directory_of_another_las_is_refused(world: World) -> None:
    # The launcher speaks with a real LAS of this node, which is not the one of its mount.
    beside = sidecar(
        world,
        attackers.relay_to_socket(RELAY_PORT, f"{SOCKET}/socket"),
        {"name": "genuine", "mountPath": SOCKET, "readOnly": True},
    )
    pod = world.pod(
        environment=world.environment(CRANNOG_RETRY_SECONDS="60"),
        volumes=[host_path("genuine", SOCKETS), {"name": "las", "emptyDir": {}}],
        initContainers=[
            beside,
            {
                **sidecar(
                    world,
                    attackers.relay_to_tcp("/shared/socket", "127.0.0.1", RELAY_PORT),
                    {"name": "las", "mountPath": "/shared"},
                ),
                "name": "nearer",
            },
        ],
    )
    refused(world.run(pod).log, "the container was started as 'python3'")


def test_a_las_that_is_not_enrolled_is_refused(world: World) -> None:
    with world.only_enrolled():
        refused(world.run(world.pod()).log, "is not enrolled at this CAS")


# -- processes that join the container


@pytest.fixture
def waiting(world: World) -> Pod:
    """A pod whose launcher waits for its CAS, with a place where others can write."""
    pod = world.pod(environment=world.environment(**NOWHERE))
    world.started(pod)
    return pod


def test_an_exec_into_the_container_is_refused(world: World, waiting: Pod) -> None:
    code = attest(world, SCONE_CAS_ADDR=world.cas.cas_enclave)
    refused(world.exec(waiting, "python3", "-c", code), "the process is not the container's init")


def test_an_ephemeral_container_is_refused(world: World, waiting: Pod, tmp_path: Path) -> None:
    name = waiting["metadata"]["name"]
    custom = tmp_path / "custom.json"
    variables = [{"name": k, "value": v} for k, v in world.environment().items()]
    custom.write_text(json.dumps({"volumeMounts": list(MOUNTS), "env": variables}))
    world.cluster.kubectl(
        *("debug", name, "-n", world.namespace, "--target=app", "--container=joined"),
        *(f"--image={world.image}", f"--custom={custom}", "--profile=general"),
        *("--", ENTRY, "--", *PROGRAM),
    )
    log = world.cluster.wait(
        lambda: _logged(world, waiting, TOO_LOW, "joined"),
        "the ephemeral container is refused",
        seen=lambda: world.log(waiting, "joined"),
    )
    refused(log, "the container shares the pid namespace of another")


_OUT = {"name": "out", "mountPath": "/out"}


def _joined(world: World, **container: Any) -> Pod:
    """A pod whose launcher waits for its CAS, with a hook or probe of the attacker's."""
    return world.pod(
        environment=world.environment(**NOWHERE),
        container=container,
        mounts=[_OUT],
        volumes=[{"name": "out", "emptyDir": {}}],
    )


def _attesting(world: World) -> dict[str, Any]:
    """A hook or probe that attests, and writes down what it was answered."""
    code = attest(world, SCONE_CAS_ADDR=world.cas.cas_enclave)
    return {"exec": {"command": ["sh", "-c", 'python3 -c "$0" >> /out/said 2>&1', code]}}


def test_a_hook_is_refused(world: World) -> None:
    pod = _joined(world, lifecycle={"postStart": _attesting(world)})
    world.start(pod)
    refused(_written(world, pod), "the process is not the container's init")


@pytest.mark.parametrize("probe", ["startupProbe", "livenessProbe", "readinessProbe"])
def test_an_exec_probe_is_refused(world: World, probe: str) -> None:
    settings = {"periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 100}
    pod = _joined(world, **{probe: {**_attesting(world), **settings}})
    world.start(pod)
    refused(_written(world, pod), "the process is not the container's init")


def test_no_second_evidence_once_the_container_is_configured(world: World) -> None:
    sleeper = ("python3", "-c", "__import__('time').sleep(600)")
    config_id = create_session(
        world.cas,
        {
            "mrenclaves": [world.measured(*sleeper)],
            "command": "python3 -c print('READY',flush=True)or(__import__('time').sleep(600))",
            "minimum_level": "node",
        },
    )
    pod = world.pod("--", *sleeper, environment=world.environment(SCONE_CONFIG_ID=config_id))
    world.start(pod)
    world.cluster.wait(lambda: "READY" in world.log(pod), "the program runs")
    said = world.exec(pod, "python3", "-c", attest(world))
    assert "CONFIGURED" not in said, said
    assert "this container was configured already and gets no further evidence" in said


# -- what the node is told to do otherwise


def _profile(world: World, name: str, rule: dict[str, Any]) -> str:
    """Put a seccomp profile on each node; its name for `localhostProfile`."""
    text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
    for node in world.cluster.nodes:
        directory = "/host/kubelet/seccomp"
        world.on_node(
            node, f"mkdir -p {directory} && echo '{text}' > {directory}/{RUN}-{name}.json"
        )
    return f"{RUN}-{name}.json"


@pytest.fixture
def no_profiles_left(world: World) -> Iterator[None]:
    """Take the test's profiles away again."""
    yield
    for node in world.cluster.nodes:
        world.on_node(node, f"rm -f /host/kubelet/seccomp/{RUN}-*.json")


# The number is one that the launcher does not happen to use, or it would not get that far.
_ONE_NUMBER = [{"index": 0, "value": 1000, "op": "SCMP_CMP_EQ"}]
PROFILES: dict[str, tuple[dict[str, Any], str]] = {
    "a-file-that-is-not-there": (
        {"names": ["openat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2, "args": _ONE_NUMBER},
        "the seccomp profile answers 2 for openat",
    ),
    "success-that-was-none": (
        {"names": ["swapon"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0},
        "answers 0 for swapon",
    ),
    "a-tracer": ({"names": ["swapon"], "action": "SCMP_ACT_TRACE"}, "'SCMP_ACT_TRACE' for swapon"),
    "a-handler": ({"names": ["swapon"], "action": "SCMP_ACT_TRAP"}, "'SCMP_ACT_TRAP' for swapon"),
}


@pytest.mark.usefixtures("no_profiles_left")
@pytest.mark.parametrize("name", PROFILES)
def test_a_seccomp_profile_of_the_node_s_is_refused(world: World, name: str) -> None:
    rule, reason = PROFILES[name]
    profile = _profile(world, name, rule)
    context = {"seccompProfile": {"type": "Localhost", "localhostProfile": profile}}
    refused(world.run(world.pod(container={"securityContext": context})).log, reason)


def test_another_runtime_class_is_refused(world: World) -> None:
    handler = os.environ.get("CRANNOG_TEST_RUNTIME_HANDLER", "other")
    name = f"{RUN}-other"
    manifest = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": name},
        "handler": handler,
    }
    world.cluster.apply(json.dumps(manifest))
    try:
        pod = world.pod(runtimeClassName=name)
        world.start(pod)
        log = world.cluster.wait(
            lambda: _ended_or_unknown(world, pod), "the pod ends", seen=lambda: world.log(pod)
        )
        if log == _UNKNOWN:
            pytest.skip(f"containerd on these nodes has no runtime {handler!r}")
        refused(log, "expected runc or crun")
    finally:
        world.cluster.kubectl("delete", "runtimeclass", name)


_UNKNOWN = "no such runtime"


def _ended_or_unknown(world: World, pod: Pod) -> str:
    name = pod["metadata"]["name"]
    phase = world.cluster.get("pod", name, "-n", world.namespace)["status"].get("phase")
    if phase in ("Succeeded", "Failed"):
        return world.log(pod)
    field = f"involvedObject.name={name}"
    events = world.cluster.get("events", "-n", world.namespace, f"--field-selector={field}")
    if any("no runtime for" in one.get("message", "") for one in events["items"]):
        return _UNKNOWN
    return ""


def _logged(world: World, pod: Pod, text: str, container: str = "app") -> str:
    """The container's log, once `text` is in it."""
    log = world.log(pod, container)
    return log if text in log else ""


def _written(world: World, pod: Pod) -> str:
    """What a hook or probe has written, once it has been answered."""

    def read() -> str:
        said = world.exec(pod, "cat", "/out/said")
        return said if TOO_LOW in said else ""

    return world.cluster.wait(read, "the attacker is answered", seen=lambda: world.log(pod))
