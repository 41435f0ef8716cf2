"""The cluster's network: a switch in a namespace of its own, where the user sits, and the nodes.

Nothing leads from it to the machine's own network, and several clusters do not know one another.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from crannog.errors import Unavailable
from tests.cluster.local.settings import (
    CONTROL,
    ITSELF,
    OUTSIDE,
    SERVICES,
    Shape,
    address_of,
    pods_of,
)

NAMESPACES = Path("/run/netns")


def namespace(name: str, place: str) -> str:
    """The name of the network namespace of a place (`outside`, or a node) of a cluster."""
    return f"crannog-cluster.{name}.{place}"


def entering(name: str, place: str) -> tuple[str, ...]:
    """What a command is put after to run in that network."""
    return ("nsenter", f"--net={NAMESPACES / namespace(name, place)}", "--")


def make_outside(shape: Shape) -> None:
    """The switch, and the user's place at it, from which nodes, pods and services are reached."""
    _make_namespace(shape.name, "outside")
    lines = [
        "link set lo up",
        "link add switch type bridge",
        f"addr add {OUTSIDE}/24 dev switch",
        "link set switch up",
        f"route add {SERVICES} via {CONTROL}",
        *(f"route add {pods_of(node)} via {address_of(node)}" for node in shape.node_names),
    ]
    _configure(shape.name, "outside", lines)


def make_node(shape: Shape, node: str) -> None:
    """A node's network, with a cable to the switch."""
    _make_namespace(shape.name, node)
    _run(
        *("ip", "link", "add", "eth0", "netns", namespace(shape.name, node)),
        *("type", "veth", "peer", "name", node, "netns", namespace(shape.name, "outside")),
    )
    _configure(shape.name, "outside", [f"link set {node} master switch up"])
    lines = [
        "link set lo up",
        f"addr add {ITSELF}/32 dev lo",
        f"addr add {address_of(node)}/24 dev eth0",
        "link set eth0 up",
        *(
            f"route add {pods_of(other)} via {address_of(other)}"
            for other in shape.node_names
            if other != node
        ),
        f"route add default via {OUTSIDE}",
    ]
    _configure(shape.name, node, lines)
    # The settings of a namespace are its own, though /proc is the machine's.
    _run(*entering(shape.name, node), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")


def remove(name: str, place: str = "") -> None:
    """Remove a node's network, or all of a cluster's."""
    wanted = namespace(name, place)
    for path in NAMESPACES.glob(f"{namespace(name, '')}*"):
        if not place or path.name == wanted:
            _run("ip", "netns", "delete", path.name)


def clusters() -> set[str]:
    """The names of clusters that have network namespaces on this machine."""
    prefix = "crannog-cluster."
    return {
        path.name.removeprefix(prefix).rpartition(".")[0] for path in NAMESPACES.glob(f"{prefix}*")
    }


def _make_namespace(name: str, place: str) -> None:
    _run("ip", "netns", "add", namespace(name, place))


def _configure(name: str, place: str, lines: Sequence[str]) -> None:
    _run(*entering(name, place), "ip", "-batch", "-", given="\n".join(lines) + "\n")


def _run(*command: str, given: str = "") -> None:
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}\n{given}")
