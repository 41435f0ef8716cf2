"""Pods that a node's LAS may vouch for, and attackers that it may not, for the tests."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from crannog.testing.platform import DevelopmentPlatform
from tests.cluster.node_las import ENTRY, LAUNCHER, SOCKET, SOCKETS, Installed, host_path
from tests.cluster.rig import Cluster
from tests.containers.protected import create_session

PROGRAM = ("python3", "-c", "print('PROGRAM','RAN',__import__('os').environ['GREETING'])")
GREETING = "only at level node"
RAN = f"PROGRAM RAN {GREETING}"
REFUSED = 78
MOUNTS = (
    {"name": "launcher", "mountPath": LAUNCHER, "readOnly": True},
    {"name": "las", "mountPath": SOCKET, "readOnly": True},
)

Pod = dict[str, Any]


class Cas(DevelopmentPlatform):
    """A CAS where the user sits, on ports of its own, so that several runs do not meet."""

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        super().__init__(directory, listen="0.0.0.0", within=cluster.within)
        self._address = cluster.address

    def __enter__(self) -> Self:
        super().__enter__()
        self.cas_client = f"{self._address}:{self.cas_client.rpartition(':')[2]}"
        self.cas_enclave = f"{self._address}:{self.cas_enclave.rpartition(':')[2]}"
        return self


class Ended(NamedTuple):
    """A pod that has ended: its containers' log, and the first one's exit code and message."""

    log: str
    code: int
    message: str


@dataclass
class World:
    """A CAS, enrolled nodes, an image, and a session that asks for level node.

    Attributes:
        cluster: where it is.
        namespace: of its pods.
        image: a plain one, with Python.
        cas: the CAS.
        installed: the nodes' launcher and LASes.
        given: the mounts of launcher and socket that each pod names itself; none where a device
            plugin gives them.
        limits: what each pod asks for.
        mrenclave: of PROGRAM in the image.
        config_id: of the session.
    """

    cluster: Cluster
    namespace: str
    image: str
    cas: Cas
    installed: Installed
    given: Sequence[Mapping[str, Any]] = MOUNTS
    limits: Mapping[str, int] = field(default_factory=dict)
    mrenclave: str = ""
    config_id: str = ""

    def environment(self, **changes: str) -> dict[str, str]:
        """The variables of a pod that attests; `changes` replace some."""
        return {
            "SCONE_CAS_ADDR": self.cas.cas_enclave,
            "SCONE_CONFIG_ID": self.config_id,
            "CRANNOG_RETRY_SECONDS": "0",
            **changes,
        }

    def pod(
        self,
        *arguments: str,
        command: Sequence[str] = (ENTRY,),
        environment: Mapping[str, str] | None = None,
        container: Mapping[str, Any] | None = None,
        mounts: Sequence[Mapping[str, Any]] = (),
        volumes: Sequence[Mapping[str, Any]] = (),
        given: Sequence[Mapping[str, Any]] | None = None,
        image: str = "",
        node: str = "",
        namespace: str = "",
        **spec: Any,
    ) -> Pod:
        """A pod that has the node's launcher and socket, and runs PROGRAM unless told otherwise.

        Args:
            arguments: after the command; `-- PROGRAM` without any.
            command: the container's.
            environment: its variables; those that attest by default.
            container: more fields of it.
            mounts: more of its mounts.
            volumes: more of the pod's volumes; each takes the place of the pod's own of its name.
            given: the mounts that a device plugin would give; those of this world by default.
            image: another image.
            node: the node that it has to run on.
            namespace: another one.
            spec: more fields of the pod.
        """
        variables = self.environment() if environment is None else environment
        given = self.given if given is None else given
        own = {
            "launcher": host_path("launcher", self.installed.launcher),
            "las": host_path("las", SOCKETS),
        }
        own = {
            name: volume for name, volume in own.items() if any(m["name"] == name for m in given)
        }
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"pod-{uuid.uuid4().hex[:12]}",
                "namespace": namespace or self.namespace,
            },
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 1,
                **({"nodeName": node} if node else {}),
                "containers": [
                    {
                        "name": "app",
                        "image": image or self.image,
                        "command": list(command),
                        "args": list(arguments or ("--", *PROGRAM)),
                        "env": [{"name": k, "value": v} for k, v in variables.items()],
                        "volumeMounts": [*given, *mounts],
                        **({"resources": {"limits": dict(self.limits)}} if self.limits else {}),
                        **(container or {}),
                    }
                ],
                "volumes": [*(own | {volume["name"]: volume for volume in volumes}).values()],
                **spec,
            },
        }

    def start(self, *pods: Pod) -> None:
        """Create pods."""
        self.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": pods}))

    def ended(self, pod: Pod) -> Ended:
        """Wait until the pod's first container has ended, whatever its other ones do."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]

        def state() -> dict[str, Any]:
            status = self.cluster.get("pod", name, "-n", namespace)["status"]
            for one in status.get("containerStatuses", []):
                if one["name"] == "app" and "terminated" in one["state"]:
                    found: dict[str, Any] = one["state"]["terminated"]
                    return found
            return {}

        ended = self.cluster.wait(
            state, f"{name} ends", seen=lambda: self.cluster.describe(namespace)
        )
        return Ended(self.log(pod), ended["exitCode"], ended.get("message", ""))

    def run(self, pod: Pod) -> Ended:
        """Create a pod and wait for its end."""
        self.start(pod)
        return self.ended(pod)

    def started(self, pod: Pod) -> None:
        """Create a pod and wait until its first container has been started."""
        self.start(pod)
        self.wait_started(pod)

    def wait_started(self, pod: Pod) -> None:
        """Wait until the first container of a pod has been started."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        self.cluster.kubectl(
            *("wait", f"pod/{name}", "-n", namespace, "--timeout=60s"),
            "--for=jsonpath={.status.containerStatuses[0].started}=true",
        )

    def log(self, pod: Pod, container: str = "app") -> str:
        """What a container of the pod has written."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        done = self.cluster.kubectl("logs", name, "-n", namespace, "-c", container, check=False)
        return done.stdout + done.stderr

    def on_node(self, node: str, script: str, *, image: str = "") -> None:
        """Run a shell script as root on a node, whose /var/lib is at /host; it has to succeed."""
        self.on_nodes(script, node, image=image)

    def on_nodes(self, script: str, *nodes: str, image: str = "") -> None:
        """The same on several nodes at once, all without any."""
        pods = [
            self.pod(
                *("-c", script),
                command=("sh",),
                environment={},
                given=(),
                container={"resources": {}},
                image=image,
                node=node,
                mounts=[{"name": "host", "mountPath": "/host"}],
                volumes=[host_path("host", "/var/lib")],
            )
            for node in nodes or self.cluster.nodes
        ]
        self.start(*pods)
        for pod in pods:
            done = self.ended(pod)
            assert done.code == 0, done.log

    @contextmanager
    def only_enrolled(self, *nodes: str) -> Iterator[None]:
        """The CAS takes the word of these nodes' LASes and of no other, for a while."""
        others = [one.key for name, one in self.installed.nodes.items() if name not in nodes]
        for key in others:
            self.cas.remove_las(key)
        try:
            yield
        finally:
            for key in others:
                self.cas.enrol(key)

    def exec(self, pod: Pod, *command: str) -> str:
        """`kubectl exec` in the pod's first container; both outputs."""
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        done = self.cluster.kubectl(
            "exec", name, "-n", namespace, "-c", "app", "--", *command, check=False
        )
        return done.stdout + done.stderr

    def measured(self, *command: str, image: str = "") -> str:
        """The MRENCLAVE of a command, by the node's launcher."""
        ended = self.run(self.pod("--", *command, environment={"SCONE_HASH": "1"}, image=image))
        assert ended.code == 0, ended.log
        return ended.log.strip()

    def session(self, **more: object) -> str:
        """A session for PROGRAM that asks for level node, and for `more`; its configuration id."""
        return create_session(
            self.cas,
            {
                "mrenclaves": [self.mrenclave],
                "command": " ".join(PROGRAM),
                "environment": {"GREETING": GREETING},
                "minimum_level": "node",
                **more,
            },
        )

    def prepare(self) -> None:
        """Enrol the LASes, and make the session."""
        self.enrol_all()
        self.mrenclave = self.measured(*PROGRAM)
        self.config_id = self.session()

    def enrol_all(self) -> None:
        """Enrol the LAS of every node."""
        for one in self.installed.nodes.values():
            self.cas.enrol(one.key, note=one.node)
