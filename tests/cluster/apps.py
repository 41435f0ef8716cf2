"""Applications on the cluster as a user deploys them: a Deployment, its pods, what they say."""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.cluster.rig import Cluster
from tests.cluster.vouched import Cas
from tests.containers.protected import Protected, create_session, image_of, measured, protect

HARDENED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


class Ended(NamedTuple):
    """How a container's last run ended: the exit code and the termination message."""

    pod: str
    code: int
    message: str


@dataclass(frozen=True, slots=True)
class App:
    """An image whose program is encrypted, and the CAS that has its sessions.

    Attributes:
        cluster: where it runs.
        namespace: of its Deployments.
        cas: of level simulation, reachable from pods.
        image: the full name.
        protected: the encrypted program.
        mrenclave: of the image's program.
    """

    cluster: Cluster
    namespace: str
    cas: Cas
    image: str
    protected: Protected
    mrenclave: str

    def service(self, **changes: object) -> dict[str, object]:
        """The service of a session that lets the program run, but for `changes`."""
        return {
            "mrenclaves": [self.mrenclave],
            "command": "python3 /app/main.py",
            **self.protected.service,
            **changes,
        }

    def session(self, *, document: Mapping[str, object] | None = None, **changes: object) -> str:
        """Create such a session, with more of its `document`; its configuration id."""
        return create_session(self.cas, self.service(**changes), **(document or {}))

    def update(self, config_id: str, *, command: str = "update", **changes: object) -> None:
        """`session update`, or `create`: let it be such a session from now on."""
        name = config_id.partition("/")[0]
        document = {
            "name": name,
            "version": "0.2",
            "services": [{"name": "app", **self.service(**changes)}],
        }
        path = self.cas.directory / f"{name}.yaml"
        path.write_text(yaml.safe_dump(document))
        self.cas.run("session", command, str(path))

    def variables(self, config_id: str, **changes: str) -> dict[str, str]:
        """The variables that attest at the CAS, tried for two seconds; "" removes one."""
        found = {
            "SCONE_CAS_ADDR": self.cas.cas_enclave,
            "SCONE_CONFIG_ID": config_id,
            "CRANNOG_RETRY_SECONDS": "2",
            **changes,
        }
        return {name: value for name, value in found.items() if value}

    def deployment(
        self,
        name: str,
        variables: Mapping[str, str],
        *,
        limits: Mapping[str, int] | None = None,
        container: Mapping[str, Any] | None = None,
        volumes: Sequence[Mapping[str, Any]] = (),
    ) -> dict[str, Any]:
        """A hardened Deployment of one pod, ready when its program listens on port 8080."""
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "selector": {"matchLabels": {"run": name}},
                "template": {
                    "metadata": {"labels": {"run": name}},
                    "spec": {
                        "volumes": list(volumes),
                        "containers": [
                            {
                                "name": "app",
                                "image": self.image,
                                "env": [{"name": n, "value": v} for n, v in variables.items()],
                                "resources": {"limits": dict(limits or {})},
                                "securityContext": HARDENED,
                                "readinessProbe": {"tcpSocket": {"port": 8080}},
                                **(container or {}),
                            }
                        ],
                    },
                },
            },
        }

    def start(self, *manifests: Mapping[str, Any]) -> None:
        """Create them, in one call."""
        self.cluster.apply(json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))

    def ended(self, name: str, *, seconds: float = 120.0) -> Ended:
        """How a Deployment's pod has ended, once it has."""

        def found() -> Ended | None:
            for pod in self.cluster.pods(self.namespace, f"run={name}"):
                for status in pod["status"].get("containerStatuses", ()):
                    for state in (status["state"], status.get("lastState", {})):
                        if "terminated" in state:
                            last = state["terminated"]
                            message = last.get("message", "")
                            return Ended(pod["metadata"]["name"], last["exitCode"], message)
            return None

        ended = self.cluster.wait(
            found,
            f"a container of {name} ends",
            seconds=seconds,
            seen=lambda: self.cluster.describe(self.namespace),
        )
        assert ended is not None
        return ended

    def logs(self, pod: str) -> str:
        """What a pod's container wrote, in its last run and the one before."""
        texts = []
        for which in ((), ("--previous",)):
            done = self.cluster.kubectl("logs", pod, "-n", self.namespace, *which, check=False)
            texts.append(done.stdout)
        return "".join(texts)

    def described(self, name: str) -> str:
        """`kubectl describe pod` of a Deployment's pods."""
        return self.cluster.kubectl(
            "describe", "pod", "-n", self.namespace, f"--selector=run={name}"
        ).stdout

    def ask(self, name: str) -> str:
        """What the program of a Deployment answers at port 8080, asked through the API server."""
        (pod,) = self.cluster.pods(self.namespace, f"run={name}")
        where = f"/api/v1/namespaces/{self.namespace}/pods/{pod['metadata']['name']}:8080/proxy/"
        return self.cluster.kubectl("get", "--raw", where).stdout

    def ready(self, name: str, *, seconds: float = 180.0) -> str:
        """Wait until a Deployment is ready; the log of the pod that is."""
        self.cluster.wait_ready(self.namespace, f"deployment/{name}", seconds=seconds)
        return self.cluster.kubectl("logs", f"deployment/{name}", "-n", self.namespace).stdout


def make_app(
    cluster: Cluster,
    namespace: str,
    cas: Cas,
    curated: str,
    files: Mapping[str, str],
    directory: Path,
    *,
    plain: Mapping[str, str] | None = None,
) -> App:
    """Encrypt `files` below /app, build and push an image with them, and with `plain` beside."""
    protected = protect(cas, files, directory)
    for path, content in (plain or {}).items():
        (protected.root / path).write_text(content)
    name = f"{cluster.registry}/{namespace}/app:{uuid.uuid4().hex[:8]}"
    image = image_of(cluster.engine, curated, protected.root, name)
    cluster.push_tagged(image)
    shutil.rmtree(directory / "plain")
    return App(cluster, namespace, cas, image, protected, measured(cluster.engine, image))
