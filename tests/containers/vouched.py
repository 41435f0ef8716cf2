"""Containers that a node's LAS may vouch for, and attackers that it may not, for the tests."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from tests.containers.node import ENTRY, Node
from tests.containers.platform import ReachablePlatform
from tests.containers.protected import create_session
from tests.containers.rig import Engine

PROGRAM = ("python3", "-c", "print('PROGRAM','RAN',__import__('os').environ['GREETING'])")
GREETING = "only at level node"
REFUSED = 78


@dataclass
class World:
    """A CAS, an enrolled node, an image, and a session that asks for level node."""

    engine: Engine
    image: str
    node: Node
    platform: ReachablePlatform
    mrenclave: str
    config_id: str

    def variables(self, **changes: str) -> tuple[str, ...]:
        """The options that set the container's environment; `changes` replace variables."""
        found = {
            "SCONE_CAS_ADDR": self.platform.cas_address(self.engine),
            "SCONE_CONFIG_ID": self.config_id,
            "CRANNOG_RETRY_SECONDS": "0",
            **changes,
        }
        return tuple(f"--env={name}={value}" for name, value in found.items())

    def start(
        self,
        *command: str,
        options: Sequence[str] = (),
        entry: str = ENTRY,
        mounts: Sequence[str] | None = None,
        image: str = "",
        **changes: str,
    ) -> subprocess.CompletedProcess[str]:
        """Run a container as the node's pods are, but for what is given."""
        return self.engine.run(
            image or self.image,
            *(command or ("--", *PROGRAM)),
            options=(
                *(self.node.mounts if mounts is None else mounts),
                *self.variables(**changes),
                f"--entrypoint={entry}",
                *options,
            ),
            check=False,
        )


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Both outputs and the status, for a failed assertion."""
    return f"status {done.returncode}\n{done.stdout}\n{done.stderr}"


def measured(engine: Engine, image: str, node: Node, *command: str) -> str:
    """The MRENCLAVE of a command in an image, by the node's launcher."""
    done = engine.run(
        image,
        "--",
        *command,
        options=(*node.mounts, "--env=SCONE_HASH=1", f"--entrypoint={ENTRY}"),
    )
    return done.stdout.strip()


def make_world(engine: Engine, image: str, node: Node, platform: ReachablePlatform) -> World:
    """Enrol the node's LAS, and post a session for PROGRAM that asks for level node."""
    platform.enrol(node.key)
    mrenclave = measured(engine, image, node, *PROGRAM)
    config_id = create_session(
        platform,
        {
            "mrenclaves": [mrenclave],
            "command": " ".join(PROGRAM),
            "environment": {"GREETING": GREETING},
            "minimum_level": "node",
        },
    )
    return World(engine, image, node, platform, mrenclave, config_id)
