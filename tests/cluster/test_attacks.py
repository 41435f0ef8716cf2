"""Each attack on level node, on a real cluster: refused by the CAS, with its reason.

The rows of docs/formats/las.md, "What is checked". The session asks for level node; the attacker
writes the pod's manifest and image, knows the measurement, the launcher's digest and the protocol.
What the admission policy would refuse beforehand is carried out without it here. The pods name the
node's two directories themselves; `test_attacks_on_charts` (C below) has those of the device plugin
and the chart's LAS.

What the LAS requires, and against whom, is tested on the cluster by:

- code from the image before or instead of the launcher: `ATTACKS` and C's, a ConfigMap, emptyDir or
  directory over, inside, beside or above the launcher, at `/run` and by a link of the image; a copy
  of the launcher; the image's own; its loader or Python as command; a shell or a Python before it;
  `test_a_volume_at_run_in_which_another_container_renames_is_refused`, here and in C; a launcher
  changed on the node (`test_level_node`), put back once the container runs, and in C one that the
  plugin gives to nobody;
- what the launcher might pick up before the evidence: a preload file, variables that would load
  code; every lookup is traced in `tests/containers/test_lookups.py`;
- another process of the container: `kubectl exec` before and after the program runs, of the
  launcher as well (C), `postStart`, each kind of exec probe, an ephemeral container, a forked
  holder of the socket, no second evidence once configured;
- another LAS: another node's by TCP and by a forwarded socket, a socket in the node's place, one
  that is not enrolled, here and in C; `test_level_node` has each node's own;
- someone who can reach into it: `shareProcessNamespace`, the node's PID namespace, `SYS_PTRACE`,
  `SYS_ADMIN`, `NET_ADMIN`, privileged; in C an exec that looks into the launcher;
- a record that bends the rules: `PROFILES` of seccomp, another runtime class. A pod cannot set
  OCI hooks, nor annotations that runc heeds: `tests/containers/test_node_level_attacks.py` does;
- another configuration or CAS: configuration id, CAS address and pins other than the record's;
- another namespace, pod, container or image than a session names: `test_level_node`, and C;
- hogging: `test_a_pod_that_hogs_the_socket_stops_no_other` in C.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster import attackers
from tests.cluster.attackers import ELSEWHERE, Images, attest, script, sidecar
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


PROBES = ("startupProbe", "livenessProbe", "readinessProbe")
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


def _write_profiles(world: World) -> None:
    """Put each profile on each node."""
    directory = "/host/kubelet/seccomp"
    lines = [f"mkdir -p {directory}"]
    for name, (rule, _) in PROFILES.items():
        text = json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]})
        lines.append(f"echo '{text}' > {directory}/{RUN}-{name}.json")
    world.on_nodes("\n".join(lines))


def _with_profile(world: World, name: str) -> Pod:
    profile = {"type": "Localhost", "localhostProfile": f"{RUN}-{name}.json"}
    return world.pod(container={"securityContext": {"seccompProfile": profile}})


def _forwarding(world: World) -> Pod:
    """A pod whose launcher speaks with a real LAS of this node, which is not that of its mount."""
    far = sidecar(
        world,
        attackers.relay_to_socket(RELAY_PORT, f"{SOCKET}/socket"),
        {"name": "genuine", "mountPath": SOCKET, "readOnly": True},
    )
    near = {
        **sidecar(
            world,
            attackers.relay_to_tcp("/shared/socket", "127.0.0.1", RELAY_PORT),
            {"name": "las", "mountPath": "/shared"},
        ),
        "name": "nearer",
    }
    return world.pod(
        environment=world.environment(CRANNOG_RETRY_SECONDS="60"),
        volumes=[host_path("genuine", SOCKETS), {"name": "las", "emptyDir": {}}],
        initContainers=[far, near],
    )


_LOADING = {
    "LD_PRELOAD": "/evil/preloaded.so",
    "LD_LIBRARY_PATH": "/evil",
    "PYTHONPATH": "/evil",
    "PYTHONHOME": "/evil",
    "OPENSSL_CONF": "/evil/openssl.cnf",
}
_SLEEPER = ("python3", "-c", "__import__('time').sleep(600)")


def _configured(world: World) -> Pod:
    """A pod whose program runs on."""
    config_id = create_session(
        world.cas,
        {
            "mrenclaves": [world.mrenclave],  # of any program of this Python's
            "command": "python3 -c print('READY',flush=True)or(__import__('time').sleep(600))",
            "minimum_level": "node",
        },
    )
    return world.pod("--", *_SLEEPER, environment=world.environment(SCONE_CONFIG_ID=config_id))


def _waiting(world: World, **container: Any) -> Pod:
    """A pod whose launcher waits for its CAS, with a place where a hook or probe can write."""
    return world.pod(
        environment=world.environment(**NOWHERE),
        container=container,
        mounts=[_OUT],
        volumes=[{"name": "out", "emptyDir": {}}],
    )


_OUT = {"name": "out", "mountPath": "/out"}


def _attesting(world: World) -> dict[str, Any]:
    """A hook or probe that attests, and writes down what it was answered."""
    code = attest(world, SCONE_CAS_ADDR=world.cas.cas_enclave)
    return {"exec": {"command": ["sh", "-c", 'python3 -c "$0" >> /out/said 2>&1', code]}}


def _probing(world: World, probe: str) -> Pod:
    settings = {"periodSeconds": 1, "timeoutSeconds": 30, "failureThreshold": 100}
    return _waiting(world, **{probe: {**_attesting(world), **settings}})


def _pods(world: World, images: Images) -> dict[str, Pod]:
    """Those of whom more is asked than a refusal."""
    made = {
        "renaming": _renaming(world),
        "own launcher": world.pod(image=images.own_launcher, command=("/crannog/run",)),
        "loader": world.pod("/bin/echo", "hello", command=(f"{LAUNCHER}/lib/ld.so",)),
        "link": world.pod(image=images.link),
        "forked": world.pod("-c", impostor.forked(world.mrenclave), command=("python3",)),
        "forwarding": _forwarding(world),
        "configured": _configured(world),
        "waiting": _waiting(world),
        "hook": _waiting(world, lifecycle={"postStart": _attesting(world)}),
        **{probe: _probing(world, probe) for probe in PROBES},
        **{name: _with_profile(world, name) for name in PROFILES},
    }
    if images.preload and images.variables:
        made["preload"] = world.pod(image=images.preload)
        made["variables"] = world.pod(
            image=images.variables, environment=world.environment(**_LOADING)
        )
    return made


@pytest.fixture(scope="module")
def attacked(world: World, attack_images: Images) -> Iterator[dict[str, Pod]]:
    """The pods of all attacks that need nothing but a pod, started together, by their names."""
    _write_profiles(world)
    try:
        pods = {name: attack.pod(world) for name, attack in ATTACKS.items()}
        pods |= _pods(world, attack_images)
        world.start(*pods.values())
        yield pods
    finally:
        world.on_nodes(f"rm -f /host/kubelet/seccomp/{RUN}-*.json")


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(world: World, attacked: dict[str, Pod], name: str) -> None:
    refused(world.ended(attacked[name]).log, ATTACKS[name].reason)


def test_a_volume_at_run_in_which_another_container_renames_is_refused(
    world: World, attacked: dict[str, Pod]
) -> None:
    log = _once(world, attacked["renaming"], TOO_LOW)
    refused(log, "something is mounted at /run, above the launcher, that is not a tmpfs")


def test_the_image_s_own_launcher_is_refused(world: World, attacked: dict[str, Pod]) -> None:
    ended = world.ended(attacked["own launcher"])
    refused(ended.log, "the container was started as '/crannog/run'")
    assert ended.code == REFUSED
    assert "the container was started as '/crannog/run'" in ended.message


def test_the_loader_runs_an_echo_and_nothing_is_vouched_for(
    world: World, attacked: dict[str, Pod]
) -> None:
    assert world.ended(attacked["loader"]) == Ended("hello\n", 0, "")


def test_a_link_above_the_launcher_is_refused(world: World, attacked: dict[str, Pod]) -> None:
    # The runtime mounts where the image's link leads, and the record does not show it.
    refused(world.ended(attacked["link"]).log, f"nothing is mounted at {LAUNCHER}")


def _needs_compiler(attacked: dict[str, Pod], name: str) -> Pod:
    if name not in attacked:
        pytest.skip("no C compiler")
    return attacked[name]


def test_an_image_with_a_preload_file_is_refused_and_its_code_never_ran(
    world: World, attacked: dict[str, Pod]
) -> None:
    ended = world.ended(_needs_compiler(attacked, "preload"))
    assert "Unexpected enclave measurement" in ended.log, ended.log
    assert GREETING not in ended.log, ended.log
    assert "PRELOADED" not in ended.log, ended.log


def test_variables_that_would_load_code_have_no_effect(
    world: World, attacked: dict[str, Pod]
) -> None:
    ended = world.ended(_needs_compiler(attacked, "variables"))
    assert RAN in ended.log, ended.log
    assert "PRELOADED" not in ended.log, ended.log


def test_a_forked_holder_of_the_socket_is_refused(world: World, attacked: dict[str, Pod]) -> None:
    log = world.ended(attacked["forked"]).log
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


def test_the_socket_directory_of_another_las_is_refused(
    world: World, attacked: dict[str, Pod]
) -> None:
    refused(world.ended(attacked["forwarding"]).log, "the container was started as 'python3'")


def test_a_las_that_is_not_enrolled_is_refused(world: World) -> None:
    with world.only_enrolled():
        refused(world.run(world.pod()).log, "is not enrolled at this CAS")


# -- processes that join the container


@pytest.fixture
def waiting(world: World, attacked: dict[str, Pod]) -> Pod:
    """A pod whose launcher waits for its CAS."""
    world.wait_started(attacked["waiting"])
    return attacked["waiting"]


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
    log = _once(world, waiting, TOO_LOW, "joined")
    refused(log, "the container shares the pid namespace of another")


def test_a_hook_is_refused(world: World, attacked: dict[str, Pod]) -> None:
    refused(_written(world, attacked["hook"]), "the process is not the container's init")


@pytest.mark.parametrize("probe", PROBES)
def test_an_exec_probe_is_refused(world: World, attacked: dict[str, Pod], probe: str) -> None:
    refused(_written(world, attacked[probe]), "the process is not the container's init")


def test_no_second_evidence_once_the_container_is_configured(
    world: World, attacked: dict[str, Pod]
) -> None:
    pod = attacked["configured"]
    _once(world, pod, "READY")
    said = world.exec(pod, "python3", "-c", attest(world))
    assert "CONFIGURED" not in said, said
    assert "this container was configured already and gets no further evidence" in said


# -- what the node is told to do otherwise


def test_a_launcher_that_is_put_back_once_the_container_runs_is_refused(
    world: World, attack_images: Images
) -> None:
    # The launcher's place is an impostor's until the container runs, and whole when the LAS looks.
    code = script(world, "/crannog", SCONE_CAS_ADDR=world.cas.cas_enclave)
    first, _, rest = code.partition("\n")
    again = (
        f"{first}\nimport time\nwhile True:\n    exec({rest!r})\n"
        "    sys.stdout.flush()\n    time.sleep(0.5)\n"
    )
    node = world.cluster.nodes[-1]
    place = f"/host/{RUN}/launcher/{world.installed.digest}"
    world.on_node(
        node,
        f"mv {place} {place}.away && cp -a {place}.away {place}\n"
        f"cat > {place}/run <<'END'\n{again}\nEND",
    )
    pod = world.pod(node=node, image=attack_images.own_launcher)
    try:
        world.started(pod)
    finally:
        world.on_node(node, f"mv {place} {place}.fake && mv {place}.away {place}")
    reason = f"the mount at {LAUNCHER} is not this node's launcher"
    log = _once(world, pod, f"{TOO_LOW} (the LAS: {reason}")
    refused(log, "the process does not execute the node's launcher")
    world.cluster.kubectl("delete", "pod", pod["metadata"]["name"], "-n", world.namespace)
    world.on_node(node, f"rm -rf {place}.fake")
    assert RAN in world.run(world.pod(node=node)).log


@pytest.mark.parametrize("name", PROFILES)
def test_a_seccomp_profile_of_the_node_s_is_refused(
    world: World, attacked: dict[str, Pod], name: str
) -> None:
    refused(world.ended(attacked[name]).log, PROFILES[name][1])


def test_another_runtime_class_is_refused(world: World) -> None:
    with attackers.other_runtime(world.cluster) as runtime:
        pod = world.pod(runtimeClassName=runtime)
        world.start(pod)
        refused(attackers.log_of_other_runtime(world, pod), "expected runc or crun")


def _once(world: World, pod: Pod, text: str, container: str = "app") -> str:
    """A container's log, once `text` is in it."""

    def read() -> str:
        log = world.log(pod, container)
        return log if text in log else ""

    return world.cluster.wait(read, f"{text!r} in the log", seen=lambda: world.log(pod, container))


def _written(world: World, pod: Pod) -> str:
    """What a hook or probe has written, once it has been answered."""

    def read() -> str:
        said = world.exec(pod, "cat", "/out/said")
        return said if TOO_LOW in said else ""

    return world.cluster.wait(read, "the attacker is answered", seen=lambda: world.log(pod))
