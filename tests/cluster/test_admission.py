"""The admission policy of the chart `las`: each rule refuses with its own message.

The chart is installed with a label of the test's own and on no node, so that nothing but the policy
is there, and only for the test's namespaces.
"""

from __future__ import annotations

import copy
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster.rig import Cluster
from tests.tutorial.seed import bash_blocks, seed_text

CHART = Path(__file__).parent.parent.parent / "charts" / "las"
PAUSE = "import signal; signal.sigwait({signal.SIGTERM})"

KINDS = (
    *("Deployment", "ReplicaSet", "DaemonSet", "StatefulSet", "Job", "CronJob"),
    *("ReplicationController", "PodTemplate"),
)

Change = Callable[[dict[str, Any]], None]


class Policy(NamedTuple):
    """A cluster with the policy, and the label that makes it effective."""

    cluster: Cluster
    label: str


class Rule(NamedTuple):
    """What is forbidden: how a pod's spec gets it, and what the message begins with."""

    name: str
    message: str
    change: Change


def _container(**fields: Any) -> Change:
    return lambda spec: spec["containers"][0].update(fields)


def _spec(**fields: Any) -> Change:
    return lambda spec: spec.update(fields)


def _mount(path: str, volume: dict[str, Any] | None = None, **fields: Any) -> Change:
    """A volume of the pod, an emptyDir unless another is given, mounted into its container."""

    def change(spec: dict[str, Any]) -> None:
        spec["volumes"] = [{"name": "data", **(volume or {"emptyDir": {}})}]
        spec["containers"][0]["volumeMounts"] = [{"name": "data", "mountPath": path, **fields}]

    return change


def _block_device(path: str) -> Change:
    def change(spec: dict[str, Any]) -> None:
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": "disk"}}]
        spec["containers"][0]["volumeDevices"] = [{"name": "data", "devicePath": path}]

    return change


def _init(**fields: Any) -> Change:
    def change(spec: dict[str, Any]) -> None:
        first = copy.deepcopy(spec["containers"][0])
        spec["initContainers"] = [first | {"name": "first"} | fields]

    return change


def _both(*changes: Change) -> Change:
    def change(spec: dict[str, Any]) -> None:
        for each in changes:
            each(spec)

    return change


def _unmasked(spec: dict[str, Any]) -> None:
    spec["hostUsers"] = False  # the API server's own condition
    spec["containers"][0]["securityContext"] = {"procMount": "Unmasked"}


_EXEC = {"exec": {"command": ["true"]}}
_CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
_NAMESPACE = {"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}
_LAUNCHER = "/run/crannog/launcher"
VOLUMES: dict[str, dict[str, Any]] = {
    "config-map": {"configMap": {"name": "mine"}},
    "secret": {"secret": {"secretName": "mine"}},
    "claim": {"persistentVolumeClaim": {"claimName": "mine"}},
    "ephemeral": {"ephemeral": {"volumeClaimTemplate": {"spec": _CLAIM}}},
    "csi": {"csi": {"driver": "mine.example"}},
    "downward": {"downwardAPI": {"items": [_NAMESPACE]}},
    "projected": {"projected": {"sources": [{"configMap": {"name": "mine"}}]}},
}


def _at(path: str) -> str:
    return f"mountPath, devicePath, terminationMessagePath: {path}: a volume at or above /run"


def _below(path: str) -> str:
    return f"mountPath, devicePath, terminationMessagePath: {path}: /run/crannog has the launcher"


def _plain(path: str) -> str:
    return f"mountPath, devicePath, terminationMessagePath: {path}: expected an absolute path"


_LOCALHOST = {"seccompProfile": {"type": "Localhost", "localhostProfile": "mine.json"}}
FORBIDDEN = (
    Rule(
        "share-process-namespace",
        "shareProcessNamespace: is true",
        _spec(shareProcessNamespace=True),
    ),
    Rule("host-pid", "hostPID: is true", _spec(hostPID=True)),
    Rule("host-ipc", "hostIPC: is true", _spec(hostIPC=True)),
    Rule(
        "privileged",
        "securityContext.privileged: is true",
        _container(securityContext={"privileged": True}),
    ),
    Rule(
        "privileged-init",
        "securityContext.privileged: is true",
        _init(securityContext={"privileged": True}),
    ),
    Rule(
        "ptrace",
        "securityContext.capabilities.add:",
        _container(securityContext={"capabilities": {"add": ["SYS_PTRACE"]}}),
    ),
    Rule(
        "all-capabilities",
        "securityContext.capabilities.add:",
        _container(securityContext={"capabilities": {"add": ["ALL"]}}),
    ),
    Rule(
        "capability-by-its-other-name",
        "securityContext.capabilities.add:",
        _container(securityContext={"capabilities": {"add": ["CAP_SYS_ADMIN"]}}),
    ),
    Rule("unmasked-proc", "securityContext.procMount: is Unmasked", _unmasked),
    Rule(
        "localhost-seccomp",
        "seccompProfile.type: is Localhost",
        _container(securityContext=_LOCALHOST),
    ),
    Rule(
        "localhost-seccomp-of-the-pod",
        "seccompProfile.type: is Localhost",
        _spec(securityContext=_LOCALHOST),
    ),
    Rule(
        "liveness-exec",
        "livenessProbe, readinessProbe, startupProbe: exec",
        _container(livenessProbe=_EXEC),
    ),
    Rule(
        "readiness-exec",
        "livenessProbe, readinessProbe, startupProbe: exec",
        _container(readinessProbe=_EXEC),
    ),
    Rule(
        "startup-exec",
        "livenessProbe, readinessProbe, startupProbe: exec",
        _container(startupProbe=_EXEC),
    ),
    Rule("post-start", "lifecycle: an exec hook", _container(lifecycle={"postStart": _EXEC})),
    Rule("pre-stop", "lifecycle: an exec hook", _container(lifecycle={"preStop": _EXEC})),
    Rule(
        "sidecar-hook",
        "lifecycle: an exec hook",
        _init(restartPolicy="Always", lifecycle={"preStop": _EXEC}),
    ),
    Rule(
        "host-path",
        "volumes: hostPath",
        _spec(volumes=[{"name": "node", "hostPath": {"path": "/"}}]),
    ),
    Rule(
        "flex-volume",
        "volumes: hostPath, flexVolume and gitRepo",
        _spec(volumes=[{"name": "node", "flexVolume": {"driver": "mine/any"}}]),
    ),
    Rule(
        "git-repo",
        "volumes: hostPath, flexVolume and gitRepo",
        _spec(volumes=[{"name": "node", "gitRepo": {"repository": "https://mine.example/"}}]),
    ),
    *(
        Rule(f"volume-at-{path}", _at(path), _mount(path))
        for path in (
            *("/", "/run", "/run/", "/var/run", "/var", "/etc", "/usr", "/usr/lib", "/lib"),
            *(
                "/lib64",
                "/dev",
                "/bin",
                "/proc",
                "/sys",
                "/usr/local",
                "/usr/local/lib/",
                "/usr/sbin",
            ),
        )
    ),
    *(Rule(f"{name}-at-etc", _at("/etc"), _mount("/etc", each)) for name, each in VOLUMES.items()),
    Rule("sub-path-at-usr", _at("/usr"), _mount("/usr", subPath="usr")),
    Rule(
        "sub-path-by-a-variable",
        _at("/lib"),
        _both(
            _mount("/lib", subPathExpr="$(WHICH)"),
            _container(env=[{"name": "WHICH", "value": "lib"}]),
        ),
    ),
    *(
        Rule(
            name,
            _at("/run"),
            _both(
                _mount("/data"),
                _init(volumeMounts=[{"name": "data", "mountPath": "/run"}], **fields),
            ),
        )
        for name, fields in {
            "init-containers-volume": {},
            "sidecars-volume": {"restartPolicy": "Always"},
        }.items()
    ),
    Rule("block-device-at-dev", _at("/dev"), _block_device("/dev")),
    Rule(
        "block-device-for-the-launcher",
        _below("/run/crannog/launcher/run"),
        _block_device("/run/crannog/launcher/run"),
    ),
    Rule(
        "message-over-the-launcher",
        _below("/run/crannog/launcher/run"),
        _container(terminationMessagePath="/run/crannog/launcher/run"),
    ),
    Rule(
        "message-by-dots",
        _plain("/dev/../run/crannog/las"),
        _container(terminationMessagePath="/dev/../run/crannog/las"),
    ),
    *(
        Rule(f"{name}-over-the-launcher", _below(_LAUNCHER), _mount(_LAUNCHER, each))
        for name, each in {"empty-dir": {"emptyDir": {}}, **VOLUMES}.items()
    ),
    Rule(
        "file-over-the-launcher",
        _below("/run/crannog/launcher/run"),
        _mount("/run/crannog/launcher/run", VOLUMES["config-map"], subPath="run"),
    ),
    Rule("volume-beside-the-launcher", _below("/var/run/crannog"), _mount("/var/run/crannog")),
    Rule("volume-in-proc", _below("/proc/self"), _mount("/proc/self")),
    Rule("volume-by-the-root-link", _below("/proc/1/root/run"), _mount("/proc/1/root/run")),
    *(
        Rule(f"volume-at-{path}", _plain(path), _mount(path))
        for path in (
            *("/data/../run", "/run/../run", "/./run", "/run/.", "//run", "/run//", "///"),
            *("run", "./run"),
        )
    ),
)
ALLOWED = (
    Rule("plain", "", lambda spec: None),
    Rule("http-probe", "", _container(readinessProbe={"httpGet": {"path": "/", "port": 8080}})),
    Rule("sleep-hook", "", _container(lifecycle={"preStop": {"sleep": {"seconds": 1}}})),
    Rule(
        "usual-capability",
        "",
        _container(
            securityContext={"capabilities": {"drop": ["ALL"], "add": ["NET_BIND_SERVICE"]}}
        ),
    ),
    Rule(
        "runtime-default-seccomp",
        "",
        _spec(securityContext={"seccompProfile": {"type": "RuntimeDefault"}}),
    ),
    *(
        Rule(f"volume-at-{path}", "", _mount(path))
        for path in (
            "/data",
            "/etc/nginx",
            "/dev/shm",
            "/var/lib/app",
            "/running",
            "/run/app",
            "/usr/share/app",
        )
    ),
    *(Rule(f"{name}-of-its-own", "", _mount("/data", each)) for name, each in VOLUMES.items()),
    Rule("file-of-its-own", "", _mount("/etc/app.conf", VOLUMES["config-map"], subPath="app.conf")),
    Rule("block-device", "", _block_device("/dev/xvda")),
    Rule("message-elsewhere", "", _container(terminationMessagePath="/tmp/why")),
    Rule("host-network", "", _spec(hostNetwork=True)),
    # What the API server itself adds to a pod: a volume at /var/run/secrets/kubernetes.io.
    Rule("service-account-token", "", _spec(automountServiceAccountToken=True)),
)


@pytest.fixture(scope="module")
def policy(cluster: Cluster) -> Iterator[Policy]:
    """The chart's policy, effective in namespaces that have a label of this run."""
    run = secrets.token_hex(4)
    release, label = f"admission-{run}", f"crannog-test-{run}/protected"
    cluster.kubectl("create", "namespace", release)
    try:
        cluster.helm(
            *("install", release, str(CHART), "-n", release, "--set", "image=nobody.invalid/las"),
            *("--set", f"admissionPolicy.label={label}", "--set", "nodeSelector.nowhere=here"),
        )
        probe = f"{release}-probe"
        cluster.kubectl("create", "namespace", probe)
        cluster.kubectl("label", "namespace", probe, f"{label}=true")
        try:
            refused = json.dumps(_pod("host-pid", FORBIDDEN[1].change))
            # The API server notices a new policy after a moment; and whoever comes before the
            # namespace's service account is refused for another reason.
            cluster.wait(
                lambda: (
                    FORBIDDEN[1].message
                    in cluster.kubectl(
                        *("create", "-n", probe, "--dry-run=server", "-f", "-"),
                        input=refused,
                        check=False,
                    ).stderr
                ),
                "the policy to be effective",
            )
        finally:
            cluster.kubectl("delete", "namespace", probe, "--wait=false")
        yield Policy(cluster, label)
    finally:
        cluster.helm("uninstall", release, "-n", release, check=False)
        cluster.kubectl("delete", "namespace", release, "--wait=false", check=False)


@pytest.fixture
def protected(policy: Policy, namespace: str) -> str:
    """A namespace with the label."""
    policy.cluster.kubectl("label", "namespace", namespace, f"{policy.label}=true")
    return namespace


@pytest.fixture(scope="module")
def protected_once(policy: Policy) -> Iterator[str]:
    """A namespace with the label, for tests that leave nothing in it."""
    name = f"test-{secrets.token_hex(4)}"
    policy.cluster.kubectl("create", "namespace", name)
    policy.cluster.kubectl("label", "namespace", name, f"{policy.label}=true")
    policy.cluster.wait(
        lambda: (
            policy.cluster.kubectl(
                *("get", "serviceaccount", "default", "-n", name, "--ignore-not-found")
            ).stdout
        ),
        "the namespace's service account",
    )
    yield name
    policy.cluster.kubectl("delete", "namespace", name, "--wait=false")


def _pod(name: str, change: Change) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "containers": [{"name": "app", "image": "nobody.invalid/app"}],
    }
    change(spec)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


def _names(rules: tuple[Rule, ...]) -> list[str]:
    return [rule.name for rule in rules]


@pytest.fixture(scope="module", params=[(), ("--dry-run=server",)], ids=["for-real", "dry-run"])
def said(request: pytest.FixtureRequest, policy: Policy, protected_once: str) -> list[str]:
    """What the API server says of each forbidden pod, in their order; "" of one that it takes."""
    pods = [_pod(f"pod-{number}", rule.change) for number, rule in enumerate(FORBIDDEN)]
    done = policy.cluster.kubectl(
        *("create", "-n", protected_once, *request.param, "-f", "-"),
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}),
        check=False,
    )
    assert not policy.cluster.pods(protected_once)
    lines = done.stderr.splitlines()
    return [
        next((line for line in lines if f'pods "pod-{number}" is forbidden' in line), "")
        for number in range(len(pods))
    ]


@pytest.mark.parametrize("number", range(len(FORBIDDEN)), ids=_names(FORBIDDEN))
def test_a_pod_is_refused(said: list[str], number: int) -> None:
    assert f"denied request: {FORBIDDEN[number].message}" in said[number]


def test_usual_pods_are_admitted(policy: Policy, protected_once: str) -> None:
    pods = [_pod(rule.name.replace("/", "-").lower(), rule.change) for rule in ALLOWED]
    policy.cluster.kubectl(
        *("create", "-n", protected_once, "--dry-run=server", "-f", "-"),
        input=json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}),
    )


def test_the_api_server_finds_no_fault_with_the_expressions(policy: Policy) -> None:
    for found in policy.cluster.get("validatingadmissionpolicies")["items"]:
        labels = found["metadata"].get("labels") or {}
        if str(labels.get("app.kubernetes.io/instance", "")).startswith("admission-"):
            status = policy.cluster.wait(
                lambda name=found["metadata"]["name"]: policy.cluster.get(  # type: ignore[misc]
                    "validatingadmissionpolicy", name
                ).get("status"),
                "the policy's type check",
            )
            assert status is not None
            assert not status.get("typeChecking", {}).get("expressionWarnings"), status


@pytest.mark.parametrize("kind", KINDS)
def test_whoever_applies_a_workload_hears_the_reason(
    policy: Policy, protected_once: str, kind: str
) -> None:
    for rule in (FORBIDDEN[0], ALLOWED[0]):
        manifest = json.dumps(_workload(kind, rule.change))
        done = policy.cluster.kubectl(
            *("create", "-n", protected_once, "--dry-run=server", "-f", "-"),
            input=manifest,
            check=False,
        )
        assert (done.returncode != 0) == bool(rule.message), done.stderr
        assert rule.message in done.stderr


def test_only_the_label_refuses_and_any_value_of_it_but_false(
    policy: Policy, namespace: str
) -> None:
    manifest = json.dumps(_pod("free", FORBIDDEN[0].change))

    def is_refused() -> bool:
        done = policy.cluster.kubectl(
            *("create", "-n", namespace, "--dry-run=server", "-f", "-"),
            input=manifest,
            check=False,
        )
        assert (done.returncode == 0) != (FORBIDDEN[0].message in done.stderr), done.stderr
        return done.returncode != 0

    assert not is_refused()
    for label, refused in (
        *((f"{policy.label}=true", True), (f"{policy.label}=True", True)),
        *((f"{policy.label}=", True), (f"{policy.label}=false", False)),
        *((f"{policy.label}=yes", True), (f"{policy.label}-", False)),
    ):
        policy.cluster.kubectl("label", "--overwrite", "namespace", namespace, label)
        policy.cluster.wait(lambda refused=refused: is_refused() == refused, label)  # type: ignore[misc]


def test_what_was_there_before_the_label_can_be_scaled_and_removed(
    policy: Policy, namespace: str
) -> None:
    cluster = policy.cluster
    cluster.apply(json.dumps(_workload("Deployment", FORBIDDEN[0].change)), namespace)
    cluster.kubectl("label", "namespace", namespace, f"{policy.label}=true")
    cluster.kubectl("scale", "deployment/refused", "--replicas=0", "-n", namespace)
    changed = cluster.kubectl(
        *("set", "image", "deployment/refused", "app=nobody.invalid/other", "-n", namespace),
        check=False,
    )
    assert "shareProcessNamespace: is true" in changed.stderr
    cluster.kubectl("delete", "deployment/refused", "-n", namespace)


def test_exec_attach_cp_and_debug_are_refused_in_a_running_pod(
    policy: Policy, protected: str, cluster_images: dict[str, str]
) -> None:
    cluster = policy.cluster

    def running(spec: dict[str, Any]) -> None:
        spec["containers"][0].update(
            image=cluster_images["python"], command=["python3", "-c", PAUSE], stdin=True
        )
        spec["terminationGracePeriodSeconds"] = 1

    cluster.apply(json.dumps(_pod("app", running)), protected)
    cluster.kubectl("wait", "pod/app", "--for=condition=Ready", "--timeout=90s", "-n", protected)
    for arguments, message in (
        (("exec", "app", "--", "true"), "pods/exec starts a process beside the program"),
        (("cp", "app:/etc/hostname", "/dev/null"), "pods/exec starts a process beside the program"),
        (("attach", "app"), "pods/attach reads and writes"),
        (
            ("debug", "app", "--image", cluster_images["python"], "--", "true"),
            "ephemeralContainers: one joins a running pod",
        ),
        (
            ("debug", "app", "--image", cluster_images["python"], "--target=app", "--", "true"),
            "ephemeralContainers: one joins a running pod",
        ),
    ):
        done = cluster.kubectl(
            arguments[0], "-n", protected, *arguments[1:], check=False, timeout=30
        )
        assert done.returncode != 0, arguments
        assert message in done.stderr, arguments
    assert not cluster.get("pod", "app", "-n", protected)["spec"].get("ephemeralContainers")
    # What the tutorial needs of a running pod is not refused.
    cluster.kubectl("logs", "app", "-n", protected)
    forwarding = cluster.start_user(["kubectl", "port-forward", "-n", protected, "app", ":8080"])
    try:
        assert forwarding.stdout is not None
        assert "Forwarding from 127.0.0.1" in forwarding.stdout.readline()
    finally:
        forwarding.terminate()
        forwarding.communicate()


def test_the_tutorials_manifests_and_their_pods_are_admitted(
    policy: Policy, protected: str
) -> None:
    cluster = policy.cluster
    values = {
        "IMAGE": "nobody.invalid/app",
        "SCONE_CAS_ADDR": "cas.example",
        "NS": "HelloWorld-1-2",
    }
    manifests = [text for text in tutorial_manifests(values) if "kind:" in text]
    assert len(manifests) == 5
    for manifest in manifests:
        cluster.kubectl("create", "-n", protected, "-f", "-", input=manifest)
    made = {
        *("hello-world", "attested-hello-world", "attested-hello-world-tls-certs"),
        *("attested-hello-world-tls", "local-attestation"),
    }

    def owners() -> set[str]:
        return {
            name.removesuffix(f"-{pod['metadata']['labels'].get('pod-template-hash', '')}")
            for pod in cluster.pods(protected)
            for name in [pod["metadata"]["ownerReferences"][0]["name"]]
        }

    cluster.wait(
        lambda: owners() == made, "a pod of each", seen=lambda: cluster.describe(protected)
    )


def tutorial_manifests(values: dict[str, str]) -> Iterator[str]:
    """The seed's Kubernetes manifests as the tutorial's shell would write them."""
    for block in bash_blocks(seed_text()):
        if "apiVersion:" not in block:
            continue
        body = block.split("EOF\n", 1)[1].split("\nEOF", 1)[0]
        for name, value in values.items():
            body = body.replace(f"${name}", value)
        yield body + "\n"


def _workload(kind: str, change: Change) -> dict[str, Any]:
    pod = _pod("refused", change)
    labels = {"app": "refused"}
    template = {"metadata": {"labels": labels}, "spec": pod["spec"]}
    spec: dict[str, Any]
    if kind in ("Job", "CronJob"):
        pod["spec"]["restartPolicy"] = "Never"
        spec = {"template": template}
        if kind == "CronJob":
            spec = {"schedule": "0 0 1 1 *", "jobTemplate": {"spec": spec}}
    else:
        spec = {"selector": {"matchLabels": labels}, "template": template}
        if kind == "StatefulSet":
            spec["serviceName"] = "refused"
    group = {"Job": "batch/v1", "CronJob": "batch/v1", "ReplicationController": "v1"}
    made = {
        "apiVersion": group.get(kind, "apps/v1"),
        "kind": kind,
        "metadata": {"name": "refused"},
        "spec": spec,
    }
    if kind == "ReplicationController":
        spec["selector"] = labels
    if kind == "PodTemplate":
        return {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": made["metadata"],
            "template": template,
        }
    return made
