"""Attacks on level node where it is installed as users install it: the charts' LAS and plugin.

The plugin's Allocate gives the pod launcher and socket, and the attacker writes everything else of
its manifest: what is mounted over, above and beside them, which socket and LAS are used, what runs
in the container and in its neighbours. `test_attacks` has what only a pod can try that names the
two mounts itself, and the list of the design's rows.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster import attackers
from tests.cluster.attackers import Images, attest, sidecar
from tests.cluster.charts import SGX, Release, las_keys
from tests.cluster.node_las import ENTRY, LAUNCHER, PORT, SOCKET, Installed, NodeLas
from tests.cluster.rig import Cluster
from tests.cluster.vouched import GREETING, PROGRAM, RAN, REFUSED, Cas, Ended, Pod, World
from tests.containers import artifacts
from tests.containers.protected import create_session

TOO_LOW = "Trust level is simulation"
NOWHERE = {"SCONE_CAS_ADDR": "192.0.2.1", "CRANNOG_RETRY_SECONDS": "600"}
RELAY_PORT = 19000
OWN = "/crannog"  # an image's own launcher


class Charts(NamedTuple):
    """A world whose pods ask for SGX, who gives it to them, and attackers' images."""

    world: World
    plugin: Release
    images: Images


@pytest.fixture(scope="module")
def charts(
    cluster: Cluster,
    plain_image: str,
    plugin: Release,
    las: Release,
    attack_images: Images,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Charts]:
    if not cluster.address:
        pytest.skip("CRANNOG_TEST_HOST does not say at which address pods reach this machine")
    namespace = f"attacks-{secrets.token_hex(4)}"
    with Cas(cluster, tmp_path_factory.mktemp("cas")) as cas:
        cas.attest()
        cluster.kubectl("create", "namespace", namespace)
        try:
            world = World(
                *(cluster, namespace, plain_image, cas, _installed(las)),
                given=(),
                limits={SGX: 1},
            )
            world.prepare()
            yield Charts(world, plugin, attack_images)
        finally:
            cluster.kubectl("delete", "pods", "--all", "-n", namespace, timeout=180)
            cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def _installed(las: Release) -> Installed:
    digest = (artifacts.artifacts() / "launcher" / "digest").read_text().strip()
    addresses = {pod["spec"]["nodeName"]: pod for pod in las.pods()}
    nodes = {}
    for key, node in las_keys(las).items():
        pod = addresses[node]
        nodes[node] = NodeLas(node, pod["metadata"]["name"], pod["status"]["podIP"], key)
    return Installed(las.namespace, digest, nodes)


def refused(log: str, *reasons: str) -> None:
    """The CAS refused because of the level, and said why it is not higher; nothing ran."""
    assert GREETING not in log, log
    assert "CONFIGURED" not in log, log
    assert TOO_LOW in log, log
    for reason in reasons:
        assert reason in log, log


def test_a_pod_that_plays_no_tricks_reaches_level_node(charts: Charts) -> None:
    ended = charts.world.run(charts.world.pod())
    assert RAN in ended.log, ended.log
    assert "at level node" in ended.log, ended.log


class Attack(NamedTuple):
    """A pod, and why its evidence is not of level node."""

    pod: Callable[[Charts], Pod]
    reason: str


def _mounted(where: str, **kind: Any) -> Callable[[Charts], Pod]:
    """A pod that has a volume at a place where none may be."""
    return lambda charts: charts.world.pod(
        mounts=[{"name": "more", "mountPath": where}], volumes=[{"name": "more", **kind}]
    )


def _covering(where: str) -> Callable[[Charts], Pod]:
    """A pod with a ConfigMap at a place of the launcher's, whose `run` is the impostor."""

    def make(charts: Charts) -> Pod:
        world, name = charts.world, f"covering-{where.count('/')}"
        manifest = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name},
            "data": {"run": attackers.script(world, OWN)},
        }
        world.cluster.apply(json.dumps(manifest), world.namespace)
        return world.pod(
            image=charts.images.own_launcher,
            mounts=[{"name": "cover", "mountPath": where}],
            volumes=[{"name": "cover", "configMap": {"name": name, "defaultMode": 0o755}}],
        )

    return make


def _own_file(charts: Charts) -> Pod:
    """A pod with a file of its own exactly over the entry."""
    pod = _covering("/unused")(charts)
    (app,) = pod["spec"]["containers"]
    app["volumeMounts"] = [{"name": "cover", "mountPath": ENTRY, "subPath": "run"}]
    return pod


def _impostor(charts: Charts, *command: str, **environment: str) -> Pod:
    """A pod that runs the impostor by this command, and has other variables than it claims."""
    world = charts.world
    code = attest(world, SCONE_CAS_ADDR=world.cas.cas_enclave, SCONE_CONFIG_ID=world.config_id)
    return world.pod(
        *command[1:], code, command=command[:1], environment=world.environment(**environment)
    )


_ABOVE = "above the launcher, that is not a tmpfs"
_EXECUTE = f'exec 3</etc/passwd; exec {ENTRY} -- "$@"'
ATTACKS: dict[str, Attack] = {
    "a ConfigMap in the launcher's place": Attack(
        _covering(LAUNCHER), f"something else is mounted at {LAUNCHER}"
    ),
    # By another name for the same place, which Kubernetes does not notice: /var/run is a link.
    "a ConfigMap over the launcher": Attack(
        _covering(f"/var{LAUNCHER}"), f"two mounts lie on one another at {LAUNCHER}"
    ),
    "a file over the entry": Attack(_own_file, f"something else is mounted at {ENTRY}"),
    "an emptyDir above the launcher": Attack(
        _mounted("/run/crannog", emptyDir={}), f"something is mounted at /run/crannog, {_ABOVE}"
    ),
    "an emptyDir inside the launcher": Attack(
        _mounted(f"{LAUNCHER}/etc", emptyDir={}), f"something else is mounted at {LAUNCHER}/etc"
    ),
    "an emptyDir beside the launcher": Attack(
        _mounted("/run/crannog/more", emptyDir={}), "something else is mounted at /run/crannog/more"
    ),
    "an emptyDir at /run": Attack(
        _mounted("/run", emptyDir={}), f"something is mounted at /run, {_ABOVE}"
    ),
    "an emptyDir in memory at /run": Attack(
        _mounted("/run", emptyDir={"medium": "Memory"}), f"something is mounted at /run, {_ABOVE}"
    ),
    "a shell before the launcher": Attack(
        lambda charts: charts.world.pod("-c", _EXECUTE, "sh", *PROGRAM, command=("sh",)),
        "the container was started as 'sh'",
    ),
    "a Python that speaks the protocol": Attack(
        lambda charts: _impostor(charts, "python3", "-c"), "the container was started as 'python3'"
    ),
    "another configuration id than the manifest's": Attack(
        lambda charts: _impostor(charts, "python3", "-c", SCONE_CONFIG_ID="another/service"),
        "the configuration id asked for is not the one in the container's record",
    ),
    "the image's own launcher": Attack(
        lambda charts: charts.world.pod(image=charts.images.own_launcher, command=(f"{OWN}/run",)),
        f"the container was started as '{OWN}/run'",
    ),
    "a shared PID namespace": Attack(
        lambda charts: charts.world.pod(shareProcessNamespace=True),
        "the container shares the pid namespace of another",
    ),
    "the node's PID namespace": Attack(
        lambda charts: charts.world.pod(hostPID=True), "the process is in the host's PID namespace"
    ),
    "SYS_PTRACE": Attack(
        lambda charts: charts.world.pod(
            container={
                "securityContext": {"capabilities": {"add": ["SYS_PTRACE"]}},
                "resources": {"limits": {SGX: 1}},
            }
        ),
        "the record grants CAP_SYS_PTRACE",
    ),
    "privileged": Attack(
        lambda charts: charts.world.pod(
            container={
                "securityContext": {"privileged": True},
                "resources": {"limits": {SGX: 1}},
            }
        ),
        "the record grants CAP_",
    ),
}


@pytest.fixture(scope="module")
def attacked(charts: Charts) -> dict[str, Pod]:
    """The pods of all attacks that are a pod alone, started together."""
    pods = {name: attack.pod(charts) for name, attack in ATTACKS.items()}
    charts.world.start(*pods.values())
    return pods


@pytest.mark.parametrize("name", ATTACKS)
def test_refused(charts: Charts, attacked: dict[str, Pod], name: str) -> None:
    refused(charts.world.ended(attacked[name]).log, ATTACKS[name].reason)


def test_a_launcher_s_refusal_is_what_kubectl_describe_shows(
    charts: Charts, attacked: dict[str, Pod]
) -> None:
    world, pod = charts.world, attacked["an emptyDir beside the launcher"]
    ended = world.ended(pod)
    assert ended.code == REFUSED
    described = world.cluster.kubectl(
        "describe", "pod", pod["metadata"]["name"], "-n", world.namespace
    ).stdout
    for text in (ended.message, described):
        assert "something else is mounted at /run/crannog/more" in text
        assert "Expected at least node" in text


def test_a_volume_at_run_in_which_another_container_renames_is_refused(charts: Charts) -> None:
    world = charts.world
    beside = sidecar(world, attackers.RENAMING, {"name": "run", "mountPath": "/shared"})
    pod = world.pod(
        mounts=[{"name": "run", "mountPath": "/run"}],
        volumes=[{"name": "run", "emptyDir": {}}],
        initContainers=[beside],
    )
    # The runtime may meet the name while it is away, and fail.
    pod["spec"]["restartPolicy"] = "OnFailure"
    world.start(pod)
    refused(_once(world, pod, TOO_LOW), f"something is mounted at /run, {_ABOVE}")


# -- claims


def _claimed(world: World, **changes: str) -> Pod:
    """A pod that its session asks to be exactly this one, but for `changes`."""
    pod = world.pod()
    claims = {
        "namespace": world.namespace,
        "pod": str(pod["metadata"]["name"]),
        "container": "app",
        "image": world.image,
    }
    config_id = world.session(claims=[claims | changes])
    (app,) = pod["spec"]["containers"]
    app["env"] = [{"name": k, "value": v} for k, v in world.environment().items()]
    (variable,) = (one for one in app["env"] if one["name"] == "SCONE_CONFIG_ID")
    variable["value"] = config_id
    return pod


CLAIMS = ("namespace", "pod", "container", "image")


@pytest.fixture(scope="module")
def claimed(charts: Charts) -> dict[str, Pod]:
    """A pod that is as its session asks, and one for each claim that does not hold."""
    pods = {"": _claimed(charts.world)}
    pods |= {claim: _claimed(charts.world, **{claim: "another"}) for claim in CLAIMS}
    charts.world.start(*pods.values())
    return pods


def test_the_pod_that_a_session_names_is_let_in(charts: Charts, claimed: dict[str, Pod]) -> None:
    ended = charts.world.ended(claimed[""])
    assert RAN in ended.log, ended.log


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_pod_of_another_name_is_refused(
    charts: Charts, claimed: dict[str, Pod], claim: str
) -> None:
    ended = charts.world.ended(claimed[claim])
    assert GREETING not in ended.log, ended.log
    for text in (ended.log, ended.message):
        assert f"Unexpected container: {claim} '" in text, ended.log
        assert "Expected 'another'" in text, ended.log


def test_another_container_of_the_same_pod_is_refused(charts: Charts) -> None:
    world = charts.world
    pod = _claimed(world)
    (app,) = pod["spec"]["containers"]
    pod["spec"]["containers"] = [{**app, "name": "app"}, {**app, "name": "neighbour"}]
    world.start(pod)
    assert RAN in world.ended(pod).log
    log = _once(world, pod, "Unexpected container", "neighbour")
    assert "container 'neighbour' - Expected 'app'" in log
    assert GREETING not in log


# -- another node's LAS


def _two(world: World) -> tuple[str, str]:
    if len(world.cluster.nodes) < 2:
        pytest.skip("a cluster of one node")
    return world.cluster.nodes[0], world.cluster.nodes[1]


def test_the_las_of_another_node_by_its_address_is_refused(charts: Charts) -> None:
    world = charts.world
    here, there = _two(world)
    pod = world.pod(
        node=here,
        environment=world.environment(
            CRANNOG_LAS_SOCKET="/nowhere/socket",
            SCONE_LAS_ADDR=f"{world.installed.nodes[there].address}:{PORT}",
        ),
    )
    refused(world.run(pod).log, "over TCP the LAS cannot see which process asks")


def test_the_las_of_another_node_by_a_forwarded_socket_is_refused(charts: Charts) -> None:
    world = charts.world
    here, there = _two(world)
    far = world.pod(
        *("-c", attackers.relay_to_socket(RELAY_PORT, f"{SOCKET}/socket")),
        command=("python3",),
        environment={},
        node=there,
    )
    world.started(far)
    found = world.cluster.get("pod", far["metadata"]["name"], "-n", world.namespace)
    near = attackers.relay_to_tcp("/shared/socket", found["status"]["podIP"], RELAY_PORT)
    pod = world.pod(
        node=here,
        environment=world.environment(
            CRANNOG_LAS_SOCKET="/shared/socket", CRANNOG_RETRY_SECONDS="60"
        ),
        mounts=[{"name": "shared", "mountPath": "/shared"}],
        volumes=[{"name": "shared", "emptyDir": {}}],
        initContainers=[sidecar(world, near, {"name": "shared", "mountPath": "/shared"})],
    )
    refused(world.run(pod).log, "the container was started as 'python3'")


def test_a_socket_in_the_place_of_the_node_s_is_refused(charts: Charts) -> None:
    # The node's own LAS, asked by a neighbour that the plugin gave it to.
    world = charts.world
    far = {
        **sidecar(world, attackers.relay_to_socket(RELAY_PORT, f"{SOCKET}/socket")),
        "resources": {"limits": {SGX: 1}},
    }
    near = {
        **sidecar(
            world,
            attackers.relay_to_tcp("/shared/socket", "127.0.0.1", RELAY_PORT),
            {"name": "las", "mountPath": "/shared"},
        ),
        "name": "nearer",
    }
    pod = world.pod(
        environment=world.environment(CRANNOG_RETRY_SECONDS="60"),
        mounts=[{"name": "las", "mountPath": SOCKET}],
        volumes=[{"name": "las", "emptyDir": {}}],
        initContainers=[far, near],
    )
    refused(world.run(pod).log, "the container was started as 'python3'")


# -- processes that join the container


@pytest.fixture(scope="module")
def waiting(charts: Charts) -> Pod:
    """A pod whose launcher waits for its CAS."""
    world = charts.world
    pod = world.pod(environment=world.environment(**NOWHERE))
    world.started(pod)
    return pod


def test_an_exec_before_the_program_runs_is_refused(charts: Charts, waiting: Pod) -> None:
    code = attest(charts.world, SCONE_CAS_ADDR=charts.world.cas.cas_enclave)
    said = charts.world.exec(waiting, "python3", "-c", code)
    refused(said, "the process is not the container's init")


def test_an_exec_of_the_launcher_itself_is_refused(charts: Charts, waiting: Pod) -> None:
    world = charts.world
    variables = [f"{name}={value}" for name, value in world.environment().items()]
    said = world.exec(waiting, "env", *variables, ENTRY, "--", *PROGRAM)
    refused(said, "the process is not the container's init")


@pytest.mark.parametrize("what", ["environ", "maps", "mem", "fd/0", "root/etc/passwd", "cwd/."])
def test_an_exec_cannot_look_into_the_launcher(charts: Charts, waiting: Pod, what: str) -> None:
    said = charts.world.exec(waiting, "head", "-c", "1", f"/proc/1/{what}")
    assert "Permission denied" in said, said


def test_an_ephemeral_container_is_refused(charts: Charts, waiting: Pod, tmp_path: Path) -> None:
    # Kubernetes gives it no device; what it has of launcher and LAS it reaches by the other's root.
    world, name = charts.world, waiting["metadata"]["name"]
    variables = [{"name": k, "value": v} for k, v in world.environment().items()]
    custom = tmp_path / "custom.json"
    custom.write_text(json.dumps({"env": variables}))
    code = attest(world, OWN).replace(f"'{SOCKET}/socket'", f"'/proc/1/root{SOCKET}/socket'")
    world.cluster.kubectl(
        *("debug", name, "-n", world.namespace, "--target=app", "--container=joined"),
        *(f"--image={charts.images.own_launcher}", f"--custom={custom}", "--profile=general"),
        *("--", "python3", "-c", code),
    )
    log = world.cluster.wait(
        lambda: world.log(waiting, "joined"),
        "the ephemeral container says something",
        seen=lambda: world.cluster.describe(world.namespace),
    )
    assert GREETING not in log, log
    assert "CONFIGURED" not in log, log


def test_an_exec_into_an_attested_pod_is_refused(charts: Charts) -> None:
    world = charts.world
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
    _once(world, pod, "READY")
    said = world.exec(pod, "python3", "-c", attest(world))
    assert "CONFIGURED" not in said, said
    assert "this container was configured already and gets no further evidence" in said


# -- others on the node


HOG = """
import socket, threading, time
def hold():
    held = []
    while True:
        try:
            one = socket.socket(socket.AF_UNIX)
            one.connect('/run/crannog/las/socket')
            one.send(b'\\0\\0')
            held.append(one)
        except OSError:
            time.sleep(0.01)
        del held[:-400]
for _ in range(8):
    threading.Thread(target=hold).start()
print('HOGGING', flush=True)
"""


def test_a_pod_that_hogs_the_socket_stops_no_other(charts: Charts) -> None:
    world, node = charts.world, charts.world.cluster.nodes[0]
    hogs = [world.pod("-c", HOG, command=("python3",), node=node) for _ in range(2)]
    world.start(*hogs)
    for hog in hogs:
        _once(world, hog, "HOGGING")
    ended = world.run(
        world.pod(node=node, environment=world.environment(CRANNOG_RETRY_SECONDS="30"))
    )
    assert RAN in ended.log, ended.log
    names = [hog["metadata"]["name"] for hog in hogs]
    world.cluster.kubectl("delete", "pod", *names, "-n", world.namespace, "--wait=false")


def test_a_release_that_a_host_path_pod_changed_is_given_to_nobody(charts: Charts) -> None:
    world, node = charts.world, charts.world.cluster.nodes[-1]
    place = f"/host/crannog/launcher/{world.installed.digest}"
    world.on_node(node, f"mv {place} {place}.away && cp -a {place}.away {place}")
    world.on_node(node, f"echo changed >> {place}/etc/utc")
    pod = world.pod(node=node)
    try:
        world.start(pod)
        message = world.cluster.wait(
            lambda: _kept_out(world, pod),
            "the pod is kept out",
            seen=lambda: world.cluster.describe(world.namespace),
        )
        world.cluster.wait(
            lambda: (
                f"its own file says {world.installed.digest}" in _plugin_log(charts.plugin, node)
            ),
            "the plugin says why",
        )
    finally:
        world.on_node(node, f"rm -rf {place} && mv {place}.away {place}")
    # By the kubelet, or by the scheduler once the plugin has said that its devices are unhealthy.
    assert "Allocate failed" in message or f"Insufficient {SGX}" in message, message
    # The plugin notices by itself that the release is whole again. What the API server has of the
    # node may be from before, and then the kubelet rejects a pod once more.
    ended = world.cluster.wait(
        lambda: _run_if_taken(world, node),
        f"{node} takes pods again",
        seen=lambda: _plugin_log(charts.plugin, node),
        every=1,
    )
    assert ended is not None
    assert RAN in ended.log


def _plugin_log(plugin: Release, node: str) -> str:
    """What the plugin of a node has said."""
    (pod,) = (one for one in plugin.pods() if one["spec"]["nodeName"] == node)
    return plugin.logs(pod["metadata"]["name"])


def _run_if_taken(world: World, node: str) -> Ended | None:
    """A pod of the world on this node, ended; None where it was not let in."""
    pod = world.pod(node=node)
    world.start(pod)
    name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
    phase = world.cluster.wait(
        lambda: (
            _kept_out(world, pod)
            or world.cluster.get("pod", name, "-n", namespace)["status"].get("containerStatuses")
        ),
        f"{name} is taken or kept out",
        seen=lambda: world.cluster.describe(namespace),
    )
    if isinstance(phase, str):
        world.cluster.kubectl("delete", "pod", name, "-n", namespace, "--wait=false")
        return None
    return world.ended(pod)


def _kept_out(world: World, pod: Pod) -> str:
    """Why a pod was not started on its node, "" as long as nothing is said."""
    status = world.cluster.get("pod", pod["metadata"]["name"], "-n", world.namespace)["status"]
    if status.get("reason") == "UnexpectedAdmissionError":
        return str(status["message"])
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return str(condition.get("message", ""))
    return ""


def test_another_runtime_class_is_refused(charts: Charts) -> None:
    world = charts.world
    with attackers.other_runtime(world.cluster) as runtime:
        pod = world.pod(runtimeClassName=runtime)
        world.start(pod)
        refused(attackers.log_of_other_runtime(world, pod), "expected runc or crun")


def test_a_las_that_is_not_enrolled_is_refused(charts: Charts) -> None:
    with charts.world.only_enrolled():
        ended = charts.world.run(charts.world.pod())
    refused(ended.log, "is not enrolled at this CAS")


def _once(world: World, pod: Pod, text: str, container: str = "app") -> str:
    """A container's log, once `text` is in it."""

    def read() -> str:
        log = world.log(pod, container)
        return log if text in log else ""

    return world.cluster.wait(read, f"{text!r} in the log", seen=lambda: world.log(pod, container))
