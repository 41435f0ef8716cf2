"""Level node: what it takes, end to end, with a real engine, CAS and LAS."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.containers.node import Node
from tests.containers.platform import ReachablePlatform
from tests.containers.rig import Engine
from tests.containers.vouched import GREETING, World, make_world, said


@pytest.fixture(scope="module")
def world(
    engine: Engine, base_image: str, node: Node, platform: ReachablePlatform
) -> Iterator[World]:
    """An enrolled node."""
    yield make_world(engine, base_image, node, platform)
    platform.remove_las(node.key)


def test_the_node_s_launcher_in_any_image_is_of_level_node(world: World) -> None:
    done = world.start()
    assert done.stdout == f"PROGRAM RAN {GREETING}\n", said(done)
    assert "at level node" in world.start(SCONE_LOG="INFO").stderr


def test_unprivileged(world: World) -> None:
    done = world.start(options=(*world.engine.hardened, "--user=1000:1000"))
    assert done.stdout == f"PROGRAM RAN {GREETING}\n", said(done)
