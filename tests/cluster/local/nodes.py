"""A node from outside: making it, starting and killing its components, running a command on it."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

from crannog.errors import NotFound, Unavailable
from tests.cluster.local import hierarchies, init, network
from tests.cluster.local.settings import Shape, components, node_files

SECONDS = 30.0


def write(state: Path, shape: Shape, node: str, plugins: Path) -> None:
    """Write the files that a node is made from."""
    directory = state / node
    (directory / "log").mkdir(parents=True)
    for name, text in node_files(node, shape, plugins=plugins).items():
        path = directory / "etc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if text.startswith("#!"):
            path.chmod(0o755)
    (directory / "components.json").write_text(json.dumps(components(node), indent=1))


def make(state: Path, shape: Shape, node: str, programs: Path) -> None:
    """Make the network and the first process of a node; its components do not run yet.

    Raises:
        Unavailable: the first process did not come up; with what it wrote.
    """
    network.make_node(shape, node)
    cgroups = hierarchies.make(shape.name, node)
    log = state / node / "log" / "node.log"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [
                *hierarchies.entering(cgroups),
                *network.entering(shape.name, node),
                *("unshare", "--mount", "--pid", "--uts", "--ipc", "--cgroup"),
                *("--fork", "--kill-child", "--mount-proc"),
                *(sys.executable, "-I", init.__file__, str(state), node, str(programs)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + SECONDS
    while not _answers(state, node):
        if process.poll() is not None or time.monotonic() > deadline:
            raise Unavailable(f"{node} does not come up: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.02)  # it says nowhere that it listens
    process.returncode = 0  # it outlives us


def unmake(state: Path, shape: Shape, node: str) -> None:
    """Kill every process of a node and remove its network."""
    hierarchies.end(shape.name, node)
    (state / node / "control").unlink(missing_ok=True)
    network.remove(shape.name, node)


def order(state: Path, node: str, line: str) -> dict[str, object]:
    """An order to the node's first process; its answer.

    Raises:
        Unavailable: the node does not run, or it refuses.
    """
    with _connect(state, node) as connection:
        connection.sendall(line.encode() + b"\n")
        with connection.makefile() as answers:
            answer: dict[str, object] = json.loads(answers.readline())
    if "error" in answer:
        raise Unavailable(f"{node}: {line}: {answer['error']}")
    return answer


def ended(state: Path, node: str) -> tuple[str, ...]:
    """The components of a node that were started and ended by themselves."""
    found = order(state, node, "status")["ended"]
    assert isinstance(found, dict)
    return tuple(found)


def run(
    state: Path, shape: Shape, node: str, command: tuple[str, ...], *, check: bool, seconds: float
) -> subprocess.CompletedProcess[str]:
    """A command as root on the node, its output captured.

    Raises:
        NotFound: there is no such node.
        Unavailable: it does not run; with `check`, the command ended with another status than 0.
    """
    if node not in shape.node_names:
        raise NotFound(f"node {node!r}, expected one of {', '.join(shape.node_names)}")
    done = subprocess.run(
        [
            *hierarchies.entering(hierarchies.paths(shape.name, node)[:1]),
            *("nsenter", f"--target={first_process(state, node)}"),
            *("--mount", "--pid", "--net", "--uts", "--ipc", "--", *command),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )
    if check and done.returncode != 0:
        raise Unavailable(
            f"{node}: {' '.join(command)}: status {done.returncode}: {done.stderr or done.stdout}"
        )
    return done


def first_process(state: Path, node: str) -> int:
    """The number of the node's first process on the machine."""
    with _connect(state, node) as connection:
        told = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        pid: int = struct.unpack("3i", told)[0]
        return pid


def _connect(state: Path, node: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(SECONDS)
    try:
        connection.connect(os.fspath(state / node / "control"))
    except OSError as error:
        connection.close()
        raise Unavailable(f"{node} does not run") from error
    return connection


def _answers(state: Path, node: str) -> bool:
    try:
        order(state, node, "status")
    except (Unavailable, ValueError):
        return False
    return True
