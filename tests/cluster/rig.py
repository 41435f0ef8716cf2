"""A Kubernetes cluster as the tests use it: one that is given, or one made on this machine.

Commands of a *user* run where a user of the tutorial would sit: with `kubectl` and `helm` in the
PATH, `KUBECONFIG` set, and a network that reaches the API server, the nodes, the registry and a CAS
outside the cluster. On a cluster of this machine that place is a network namespace of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

from tests.cluster.local.cluster import LocalCluster
from tests.containers.rig import Engine

SECONDS = 120.0
Found = TypeVar("Found")


class CommandFailed(AssertionError):
    """A command on the cluster ended with a status other than 0; the text has what it printed."""


class TimedOut(AssertionError):
    """What was waited for did not come about; the text has what was seen last."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A cluster that answers.

    Attributes:
        nodes: the names of its nodes.
        registry: what an image's name begins with, both where it is pushed and where it is pulled.
        engine: the container engine that builds and pushes images.
        address: where the user sits, as pods see it; "" where that is not known.
        within: what a command is put after to run where the user sits.
        environment: the user's, added to this process's.
        local: the same cluster from inside, None where it is not of this machine.
    """

    nodes: tuple[str, ...]
    registry: str
    engine: Engine
    address: str
    within: tuple[str, ...]
    environment: Mapping[str, str]
    local: LocalCluster | None

    def kubectl(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        timeout: float = SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """One command of `kubectl`, its output captured."""
        return self.user(["kubectl", *arguments], input=input, check=check, timeout=timeout)

    def helm(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        timeout: float = SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """One command of `helm`, its output captured."""
        return self.user(["helm", *arguments], input=input, check=check, timeout=timeout)

    def user(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        timeout: float = SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end where the user sits; `environment` is added to the user's.

        Raises:
            CommandFailed: it ended with another status than 0 (not with `check=False`), or never.
        """
        try:
            done = subprocess.run(
                [*self.within, *command],
                stdin=subprocess.DEVNULL if input is None else None,
                input=input,
                capture_output=True,
                text=True,
                errors="replace",
                env=self._environment(environment),
                cwd=cwd,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            seen = f"{_text(error.stdout)}{_text(error.stderr)}"
            raise CommandFailed(
                f"{shlex.join(command)}: not done after {timeout:.0f} s\n{seen}"
            ) from None
        if check and done.returncode != 0:
            raise CommandFailed(
                f"{shlex.join(command)}: status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def start_user(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        stdout: int | IO[Any] = subprocess.PIPE,
        stderr: int | IO[Any] = subprocess.STDOUT,
    ) -> subprocess.Popen[str]:
        """Start a command where the user sits; whoever starts it ends it."""
        return subprocess.Popen(
            [*self.within, *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            text=True,
            errors="replace",
            env=self._environment(environment),
            cwd=cwd,
        )

    def _environment(self, more: Mapping[str, str] | None) -> dict[str, str]:
        return {**os.environ, **self.environment, **(more or {})}

    def get(self, *arguments: str) -> dict[str, Any]:
        """`kubectl get ARGUMENTS -o json`, parsed."""
        found: dict[str, Any] = json.loads(self.kubectl("get", *arguments, "-o", "json").stdout)
        return found

    def leave_alone(self, *names: tuple[str, str]) -> None:
        """Skip the test where something has a name, which the test would use and then remove.

        Each is `KIND/NAME` and its namespace, "" for none. On a cluster of this machine everything
        is the tests' own.
        """
        if self.local is not None:
            return
        for what, namespace in names:
            where = ("-n", namespace) if namespace else ()
            if self.kubectl("get", what, *where, "--ignore-not-found", "-o", "name").stdout:
                pytest.skip(f"this cluster has a {what} that is not the tests': it is left alone")

    def apply(self, manifest: str, namespace: str = "") -> None:
        """Create or change what a manifest says."""
        where = ("-n", namespace) if namespace else ()
        self.kubectl("apply", *where, "-f", "-", input=manifest)

    def push(self, image: str, name: str) -> str:
        """Push an image of the engine as REGISTRY/`name`; the full name, which pods pull."""
        full = f"{self.registry}/{name}"
        self.engine.call("tag", image, full)
        self.push_tagged(full)
        return full

    def push_tagged(self, full: str) -> None:
        """Push what the engine has under the full name already."""
        plain = () if self.engine.name == "docker" else ("--tls-verify=false",)
        self.engine.call("push", *plain, full)

    def wait(
        self,
        found: Callable[[], Found],
        what: str,
        *,
        seconds: float = SECONDS,
        seen: Callable[[], object] | None = None,
        every: float = 0.2,
    ) -> Found:
        """Ask `found` again and again until it answers something true; that answer.

        Raises:
            TimedOut: not within `seconds`; with what `seen` (else `found`) answers then.
        """
        deadline = time.monotonic() + seconds
        while True:
            answer = found()
            if answer:
                return answer
            if time.monotonic() > deadline:
                last = seen() if seen is not None else answer
                raise TimedOut(f"{what}: not within {seconds:.0f} s; seen last:\n{last}")
            time.sleep(every)  # between two questions; what ends the wait is the condition

    def wait_ready(self, namespace: str, *what: str, seconds: float = SECONDS) -> None:
        """Until each of `what` (`deployment/NAME`, `daemonset/NAME`, `statefulset/NAME`) is.

        Raises:
            TimedOut: with the namespace's pods, their last lines and the events.
        """
        for each in what:
            done = self.kubectl(
                *("rollout", "status", each, "-n", namespace, f"--timeout={seconds:.0f}s"),
                check=False,
                timeout=seconds + 30,
            )
            if done.returncode != 0:
                raise TimedOut(f"{each}: {done.stderr.strip()}\n{self.describe(namespace)}")

    def describe(self, namespace: str) -> str:
        """What a person would look at when something in a namespace does not come up."""
        parts = []
        for arguments in (
            ("get", "pods", "-o", "wide", "-n", namespace),
            ("get", "events", "-n", namespace, "--sort-by=.lastTimestamp"),
        ):
            parts.append(self.kubectl(*arguments, check=False).stdout)
        for pod in self.pods(namespace):
            name = pod["metadata"]["name"]
            logs = self.kubectl(
                *("logs", name, "-n", namespace, "--all-containers", "--tail=15"), check=False
            )
            statuses = json.dumps(pod["status"].get("containerStatuses", []))
            parts.append(f"--- {name}: {statuses}\n{logs.stdout}{logs.stderr}")
        return "\n".join(parts)

    def pods(self, namespace: str, selector: str = "") -> list[dict[str, Any]]:
        """The pods of a namespace, all or those with these labels (`key=value,…`)."""
        chosen = (f"--selector={selector}",) if selector else ()
        items: list[dict[str, Any]] = self.get("pods", "-n", namespace, *chosen)["items"]
        return items

    def running(self, namespace: str) -> list[str]:
        """The pods of a namespace with a container that runs, or that may yet run."""
        return [
            pod["metadata"]["name"]
            for pod in self.pods(namespace)
            if "deletionTimestamp" not in pod["metadata"]
            or any(
                "running" in each["state"] for each in pod["status"].get("containerStatuses", ())
            )
        ]

    def on_node(self, node: str, *command: str, check: bool = True) -> str:
        """The stdout of a command as root on a node; only on a cluster of this machine."""
        assert self.local is not None
        return self.local.on_node(node, *command, check=check).stdout


def local_cluster(local: LocalCluster, engine: Engine) -> Cluster:
    """A cluster of this machine as the tests use it."""
    return Cluster(
        local.nodes,
        local.shape.registry,
        engine,
        local.address,
        local.within,
        local.environment,
        local,
    )


def given_cluster(registry: str, engine: Engine) -> Cluster:
    """The cluster that KUBECONFIG names, with the programs of the PATH.

    CRANNOG_TEST_HOST is the user's address as pods see it, CRANNOG_TEST_WITHIN a command that the
    user's commands are put after, where the user's place is another network than this process's.

    Raises:
        CommandFailed: it does not answer, or a program is not there.
    """
    for program in ("kubectl", "helm"):
        if shutil.which(program) is None:
            raise CommandFailed(f"KUBECONFIG names a cluster, but there is no {program} in PATH")
    host = os.environ.get("CRANNOG_TEST_HOST", "")
    within = tuple(shlex.split(os.environ.get("CRANNOG_TEST_WITHIN", "")))
    cluster = Cluster((), registry, engine, host, within, {}, None)
    nodes = cluster.get("nodes")["items"]
    names = tuple(node["metadata"]["name"] for node in nodes)
    return replace(cluster, nodes=names)


def _text(output: object) -> str:
    if isinstance(output, bytes):
        return output.decode(errors="replace")
    return output if isinstance(output, str) else ""
