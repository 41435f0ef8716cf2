"""A stand-in for `kubectl` on one machine: it does with a container engine what a manifest says.

The tests put it in the PATH, so that the tutorial's blocks run as they are written. It knows the
four commands of the tutorial. What a manifest asks for is taken from its text: image, command,
variables, ports, the host's network. What it does not ask for a container does not get: no
capability, no new privilege, no writable root, and a user that is not root.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

HARDENED = ("--cap-drop=all", "--security-opt=no-new-privileges", "--read-only", "--user=1000:1000")
READY_SECONDS = 60.0


def run_arguments(kind: str, pod: Mapping[str, Any], container: Mapping[str, Any]) -> list[str]:
    """The arguments of `docker run` that mean what a manifest's container says."""
    arguments = []
    if pod.get("hostNetwork"):
        arguments.append("--network=host")
    if kind != "DaemonSet":  # the node's own services run as the image says
        arguments += HARDENED
    for variable in container.get("env", ()):
        arguments.append(f"--env={variable['name']}={variable['value']}")
    command = list(container.get("command", ()))
    if command:
        arguments.append(f"--entrypoint={command[0]}")
    return [*arguments, container["image"], *command[1:], *container.get("args", ())]


class Workload(NamedTuple):
    """A Deployment or DaemonSet of one container.

    Attributes:
        labels: those of its pods.
        pulled: the image, where the manifest asks that it be pulled.
        arguments: of `docker run`.
        host_port: the port of the host that it listens on itself, 0 for none.
    """

    kind: str
    name: str
    labels: Mapping[str, str]
    pulled: str
    arguments: list[str]
    host_port: int


def workloads(text: str) -> Iterator[Workload]:
    """The workloads of a manifest."""
    for document in yaml.safe_load_all(text):
        if document["kind"] not in ("Deployment", "DaemonSet"):
            continue
        template = document["spec"]["template"]
        (container,) = template["spec"]["containers"]
        yield Workload(
            document["kind"],
            container["name"],
            template["metadata"]["labels"],
            container["image"] if container.get("imagePullPolicy") == "Always" else "",
            run_arguments(document["kind"], template["spec"], container),
            container["ports"][0].get("hostPort", 0),
        )


def services(text: str) -> Iterator[tuple[str, Mapping[str, str], set[int]]]:
    """Each service's name, selector and ports."""
    for document in yaml.safe_load_all(text):
        if document["kind"] == "Service":
            spec = document["spec"]
            yield document["metadata"]["name"], spec["selector"], {p["port"] for p in spec["ports"]}


class Cluster:
    """The containers of a namespace and what stands before them, kept in a file."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "cluster.json"
        self._options = json.loads(os.environ.get("KUBECTL_RUN_OPTIONS", "[]"))
        self.state: dict[str, Any] = {"pods": [], "services": {}, "forwards": []}
        if self._file.exists():
            self.state = json.loads(self._file.read_text())

    def save(self) -> None:
        """Write the file."""
        self._file.write_text(json.dumps(self.state, indent=1))

    def create(self, text: str) -> None:
        """Start what a manifest describes."""
        for found in workloads(text):
            if found.pulled:
                _docker("pull", "--quiet", found.pulled)
            started = _docker("run", "--detach", *self._options, *found.arguments).splitlines()[-1]
            self.state["pods"].append({"labels": dict(found.labels), "id": started})
            self.save()
            if found.host_port:
                _wait_for(("127.0.0.1", found.host_port), started)
            print(f"{found.kind.lower()} {found.name} created")
        for name, selector, ports in services(text):
            self.state["services"][name] = {"selector": selector, "ports": sorted(ports)}
            self.save()
            print(f"service/{name} created")

    def forward(self, target: str, ports: str) -> None:
        """Forward a port of this machine to a service; returns when the service accepts."""
        local, _, remote = ports.partition(":")
        service = self.state["services"][target.removeprefix("svc/")]
        if int(remote) not in service["ports"]:
            raise SystemExit(f"error: service {target} has no port {remote}")
        (pod,) = [
            pod
            for pod in self.state["pods"]
            if service["selector"].items() <= pod["labels"].items()
        ]
        address = _docker("inspect", "-f", "{{.NetworkSettings.IPAddress}}", pod["id"])
        _wait_for((address, int(remote)), pod["id"])
        relay = subprocess.Popen(
            [sys.executable, __file__, "relay", local, address, remote],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self.state["forwards"].append(relay.pid)
        self.save()
        assert relay.stdout is not None
        if not relay.stdout.readline():
            raise SystemExit(f"error: port {local} cannot be listened on")
        print(f"Forwarding from 127.0.0.1:{local} -> {remote}")

    def delete(self) -> None:
        """Stop everything."""
        for process in self.state["forwards"]:
            os.kill(process, 15)
        for pod in self.state["pods"]:
            _docker("stop", pod["id"])
            _docker("rm", pod["id"])
        self.state = {"pods": [], "services": {}, "forwards": []}
        self.save()


def _docker(*arguments: str) -> str:
    done = subprocess.run(
        ["docker", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"error: docker {' '.join(arguments)}: {done.stdout}{done.stderr}")
    return done.stdout.strip()


def _wait_for(address: tuple[str, int], container: str) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            socket.create_connection(address, timeout=5).close()
            return
        except OSError:
            running = _docker("inspect", "-f", "{{.State.Running}}", container)
            if running != "true" or time.monotonic() > deadline:
                logs = subprocess.run(
                    ["docker", "logs", container], capture_output=True, text=True, check=False
                )
                raise SystemExit(f"error: pod is not ready: {logs.stdout}{logs.stderr}") from None
            time.sleep(0.1)  # a readiness probe


def _relay(local: int, address: tuple[str, int]) -> None:
    listener = socket.create_server(("127.0.0.1", local))
    print("listening", flush=True)
    while True:
        client, _ = listener.accept()
        server = socket.create_connection(address)
        for source, sink in ((client, server), (server, client)):
            threading.Thread(target=_copy, args=(source, sink), daemon=True).start()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # the other side is gone; so is this connection


def main(arguments: Sequence[str]) -> None:
    """The command."""
    if arguments[0] == "relay":
        _relay(int(arguments[1]), (arguments[2], int(arguments[3])))
        return
    cluster = Cluster(Path(os.environ["KUBECTL_STATE"]))
    match list(arguments):
        case ["create", "namespace", name]:
            print(f"namespace/{name} created")
        case ["create", "-f", file, "-n", _]:
            cluster.create(Path(file).read_text())
        case ["port-forward", target, ports, "-n", _]:
            cluster.forward(target, ports)
        case ["delete", "namespace", name]:
            cluster.delete()
            print(f'namespace "{name}" deleted')
        case _:
            raise SystemExit(f"error: unknown command {' '.join(arguments)}")


if __name__ == "__main__":
    main(sys.argv[1:])
