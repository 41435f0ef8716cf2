"""What a refused pod shows where a user of Kubernetes looks, and what happens once it is repaired.

Each case is a Deployment that is right but for one thing. Its program says so when it runs.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.cluster.apps import App, make_app
from tests.cluster.charts import CHARTS, Release, namespace_of_its_own
from tests.cluster.rig import Cluster
from tests.cluster.vouched import Cas

REFUSED, TRY_AGAIN, NOT_FOUND = 78, 75, 127
RAN = "PROGRAM RAN"
MAIN = f"""\
import signal, socket
print('{RAN}', flush=True)
listener = socket.create_server(('0.0.0.0', 8080))
signal.sigwait({{signal.SIGTERM}})
"""
LAS_DIRECTORY = "/run/crannog/las"


class Away(Cas):
    """A CAS and a LAS that come back on the ports that they had."""

    def come_back(self) -> None:
        """Start them again."""
        for name, address in (
            ("client", self.cas_client),
            ("enclave", self.cas_enclave),
            ("las", self.las),
        ):
            self._arguments += [f"--{name}-port", address.rpartition(":")[2]]
        self.__enter__()


@dataclass
class World:
    """What the cases are made of.

    Attributes:
        app: the application, whose CAS is there.
        away: another CAS and LAS, which are stopped.
        prepared: for each case what its repair needs.
    """

    app: App
    away: Away
    away_las: str
    elsewhere: App
    prepared: dict[str, str] = field(default_factory=dict)


Prepare = Callable[[World], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    Attributes:
        code: the exit code.
        reasons: patterns of lines of the termination message.
        make: from the world to the manifest of a Deployment of the case's name.
        repair: what removes the cause, None where only another manifest would.
    """

    code: int
    reasons: tuple[str, ...]
    make: Callable[[World, str], dict[str, Any]]
    repair: Callable[[World, str], None] | None = None


def _session(change: Callable[[World], Mapping[str, Any]]) -> Callable[[World, str], Any]:
    """A Deployment whose session is wrong."""

    def make(world: World, name: str) -> dict[str, Any]:
        config_id = world.app.session(**change(world))
        world.prepared[name] = config_id
        return world.app.deployment(name, world.app.variables(config_id))

    return make


def _variables(**changes: str) -> Callable[[World, str], Any]:
    """A Deployment whose variables are wrong."""

    def make(world: World, name: str) -> dict[str, Any]:
        return world.app.deployment(name, world.app.variables(world.app.session(), **changes))

    return make


def _missing_session(world: World, name: str) -> dict[str, Any]:
    world.prepared[name] = f"late-{secrets.token_hex(4)}/app"
    return world.app.deployment(name, world.app.variables(world.prepared[name]))


def _cas_down(world: World, name: str) -> dict[str, Any]:
    variables = world.elsewhere.variables(world.prepared["away"])
    return world.app.deployment(name, variables)


def _las_down(world: World, name: str) -> dict[str, Any]:
    variables = world.app.variables(world.app.session(), SCONE_LAS_ADDR=world.away_las)
    return world.app.deployment(name, variables)


def _come_back(world: World, _name: str) -> None:
    if world.away_las:
        world.away.come_back()
        world.away_las = ""


def _update(world: World, name: str) -> None:
    world.app.update(world.prepared[name])


def _create(world: World, name: str) -> None:
    world.app.update(world.prepared[name], command="create")


def _late_service(world: World, name: str) -> None:
    """A Service of the name, in front of the CAS outside."""
    host, _, port = world.app.cas.cas_enclave.rpartition(":")
    ports = [{"port": 18765, "targetPort": int(port)}]
    labels = {"kubernetes.io/service-name": name}
    world.app.start(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": world.app.namespace},
            "spec": {"ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": name, "namespace": world.app.namespace, "labels": labels},
            "addressType": "IPv4",
            "ports": [{"port": int(port)}],
            "endpoints": [{"addresses": [host]}],
        },
    )


def _no_socket(world: World, name: str) -> dict[str, Any]:
    variables = world.app.variables(
        world.app.session(), CRANNOG_LAS_SOCKET=f"{LAS_DIRECTORY}/socket"
    )
    mounts = [{"name": "las", "mountPath": LAS_DIRECTORY, "readOnly": True}]
    return world.app.deployment(
        name,
        variables,
        container={"volumeMounts": mounts},
        volumes=[{"name": "las", "emptyDir": {}}],
    )


def _socket_directory_is_a_file(world: World, name: str) -> dict[str, Any]:
    mount = {"name": "las", "mountPath": LAS_DIRECTORY, "subPath": "las", "readOnly": True}
    manifest = _no_socket(world, name)
    spec = manifest["spec"]["template"]["spec"]
    spec["containers"][0]["volumeMounts"] = [mount]
    spec["volumes"] = [
        {
            "name": "las",
            "downwardAPI": {"items": [{"path": "las", "fieldRef": {"fieldPath": "metadata.name"}}]},
        }
    ]
    return manifest


def _covered_launcher(world: World, name: str) -> dict[str, Any]:
    """A Deployment with a volume over the image's own launcher: its entry fails before Python."""
    mounts = [{"name": "cover", "mountPath": "/crannog"}]
    return world.app.deployment(
        name,
        world.app.variables(world.app.session()),
        container={"volumeMounts": mounts},
        volumes=[{"name": "cover", "emptyDir": {}}],
    )


CASES: dict[str, Case] = {
    "wrong-measurement": Case(
        REFUSED,
        (r"MRENCLAVE, [0-9a-f]{64}\) - Expected 0{64}", r"Hint: compare with what SCONE_HASH=1"),
        _session(lambda _: {"mrenclaves": ["0" * 64]}),
        _update,
    ),
    "wrong-tag": Case(
        REFUSED,
        (r"Protected files are not authentic", r"tag"),
        _session(lambda _: {"fspf_tag": "0" * 32}),
        _update,
    ),
    "missing-session": Case(REFUSED, (r"late-[0-9a-f]{8}",), _missing_session, _create),
    "cas-down": Case(TRY_AGAIN, (r"cannot connect to CAS at \S+: ",), _cas_down, _come_back),
    "las-down": Case(TRY_AGAIN, (r"cannot connect to LAS at \S+: ",), _las_down, _come_back),
    "cas-without-an-address": Case(
        TRY_AGAIN,
        (r"resolution of CAS address cas-without-an-address:18765 failed", "is the name right"),
        _variables(SCONE_CAS_ADDR="cas-without-an-address"),
        _late_service,
    ),
    "missing-config-id": Case(
        REFUSED,
        ("SCONE_CAS_ADDR is set and SCONE_CONFIG_ID is not", "set SCONE_CONFIG_ID="),
        _variables(SCONE_CONFIG_ID=""),
    ),
    "config-id-without-a-service": Case(
        REFUSED,
        ("SCONE_CONFIG_ID is 'session', expected SESSION/SERVICE",),
        _variables(SCONE_CONFIG_ID="session"),
    ),
    "cas-address-that-is-none": Case(
        REFUSED,
        ("SCONE_CAS_ADDR: port is 'port', expected 0 to 65535",),
        _variables(SCONE_CAS_ADDR="cas:port"),
    ),
    "las-address-that-is-none": Case(
        REFUSED,
        ("SCONE_LAS_ADDR is 'a b', expected HOST or HOST:PORT",),
        _variables(SCONE_LAS_ADDR="a b"),
    ),
    "hardware-that-is-missing": Case(
        REFUSED, ("SCONE_MODE=hw needs hardware evidence",), _variables(SCONE_MODE="hw")
    ),
    "no-socket": Case(
        TRY_AGAIN,
        ("there is no LAS socket at /run/crannog/las/socket", "is the LAS running on this node"),
        _no_socket,
    ),
    "socket-directory-is-a-file": Case(
        REFUSED,
        ("/run/crannog/las is a file, expected the directory",),
        _socket_directory_is_a_file,
    ),
    "covered-launcher": Case(
        NOT_FOUND, ("cannot be executed: /crannog/run: error 2",), _covered_launcher
    ),
}


@pytest.fixture(scope="module")
def world(
    cluster: Cluster,
    cluster_images: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """All cases, started at once in one namespace."""
    namespace = f"refusals-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", namespace)
    directory = tmp_path_factory.mktemp("refusals")
    try:
        with (
            Cas(cluster, tmp_path_factory.mktemp("cas")) as cas,
            Away(cluster, tmp_path_factory.mktemp("away")) as away,
        ):
            cas.attest()
            away.attest()
            app = make_app(
                cluster, namespace, cas, cluster_images["python"], {"main.py": MAIN}, directory
            )
            elsewhere = App(cluster, namespace, away, app.image, app.protected, app.mrenclave)
            las = f"{cluster.address}:{away.las.rpartition(':')[2]}"
            found = World(app, away, las, elsewhere)
            found.prepared["away"] = elsewhere.session()
            away.stop()
            app.start(*(case.make(found, name) for name, case in CASES.items()))
            yield found
    finally:
        cluster.kubectl("delete", "deployments", "--all", "-n", namespace, timeout=180)
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


@pytest.mark.parametrize("name", CASES)
def test_the_reason_is_where_the_user_looks(world: World, name: str) -> None:
    case = CASES[name]
    ended = world.app.ended(name)
    assert ended.code == case.code, str(ended)
    described = world.app.described(name)
    for reason in case.reasons:
        assert re.search(reason, ended.message), ended.message
        assert re.search(reason, described), described
    text = world.app.logs(ended.pod) + ended.message
    assert "Traceback" not in text
    assert RAN not in text
    assert world.app.protected.key not in text


@pytest.fixture(scope="module")
def repaired(world: World) -> World:
    """Every cause that can be repaired is, once each has shown its reason."""
    for name in CASES:
        world.app.ended(name)
    for name, case in CASES.items():
        if case.repair is not None:
            case.repair(world, name)
    return world


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.repair])
def test_it_is_ready_by_itself_once_the_cause_is_repaired(repaired: World, name: str) -> None:
    assert RAN in repaired.app.ready(name)


def _events(app: App, name: str, reason: str) -> str:
    """The messages of the warnings of a Deployment's pods, once one of them says `reason`."""

    def found() -> str:
        events = app.cluster.get("events", "-n", app.namespace)["items"]
        return "\n".join(
            event["message"]
            for event in events
            if event["involvedObject"]["name"].startswith(f"{name}-") and event["type"] == "Warning"
        )

    app.cluster.wait(lambda: reason in found(), f"an event of {name} says {reason!r}", seen=found)
    return found()


def test_a_resource_that_no_node_has(world: World) -> None:
    app, name = world.app, "no-such-resource"
    limits = {"example.org/nothing": 1}
    app.start(app.deployment(name, app.variables(app.session()), limits=limits))
    assert "Insufficient example.org/nothing" in _events(app, name, "nodes are available")


def test_a_registry_that_is_down(world: World) -> None:
    app, name = world.app, "registry-is-down"
    image = "localhost:1/crannog/app:1"
    manifest = app.deployment(name, app.variables(app.session()), container={"image": image})
    app.start(manifest)
    messages = _events(app, name, "Failed to pull image")
    assert f'Failed to pull image "{image}"' in messages
    assert "connection refused" in messages

    def waiting() -> str:
        for pod in app.cluster.pods(app.namespace, f"run={name}"):
            for status in pod["status"].get("containerStatuses", ()):
                found = status["state"].get("waiting", {})
                if found.get("reason") == "ImagePullBackOff":
                    return str(found["message"])
        return ""

    said = app.cluster.wait(waiting, "the pod's status says ImagePullBackOff")
    assert (image in said, "connection refused" in said) == (True, True), said


def test_a_las_whose_socket_directory_is_a_file_on_the_node(
    cluster: Cluster, cluster_images: dict[str, str]
) -> None:
    with namespace_of_its_own(cluster, "file") as namespace:
        release = Release(cluster, "las", "las", namespace, cluster_images)
        values = {
            "socketDirectory": "/etc/hostname",
            "service": {"hostPort": False},
            "admissionPolicy": {"enabled": False},
        }
        try:
            cluster.helm(
                *("install", "las", str(CHARTS / "las"), "-n", namespace, "--values", "-"),
                input=json.dumps(release.values(values)),
            )
            expected = "hostPath type check failed: /etc/hostname is not a directory"
            cluster.wait(
                lambda: expected in cluster.kubectl("describe", "pods", "-n", namespace).stdout,
                f"`kubectl describe` says {expected!r}",
                seen=lambda: cluster.describe(namespace),
            )
        finally:
            release.uninstall()


def test_the_nodes_launcher_where_no_plugin_gives_it(world: World) -> None:
    app, name = world.app, "no-launcher"
    entry = "/run/crannog/launcher/run"
    container = {"command": [entry, "--", "python3"]}
    app.start(app.deployment(name, app.variables(app.session()), container=container))
    ended = app.ended(name)
    assert (entry in ended.message, "no such file" in ended.message) == (True, True), str(ended)
