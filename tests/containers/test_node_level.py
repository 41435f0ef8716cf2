"""Level node: what it takes, end to end, with a real engine, CAS and LAS."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers.node import ENTRY, Node, running_node
from tests.containers.platform import ReachablePlatform
from tests.containers.protected import create_session
from tests.containers.rig import RUN, Engine
from tests.containers.vouched import GREETING, PROGRAM, REFUSED, World, make_world, said


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


def test_a_container_that_is_started_again_is_vouched_for_again(world: World) -> None:
    options = (*world.node.mounts, *world.variables(), f"--entrypoint={ENTRY}")
    with world.engine.container(world.image, "--", *PROGRAM, options=options) as container:
        assert container.wait() == 0, container.logs()
        world.engine.call("start", container.id)
        assert container.wait() == 0, container.logs()
        assert container.logs().count(GREETING) == 2


def test_the_probe_says_what_the_las_can_do(world: World) -> None:
    socket = f"unix:{world.node.socket}/socket"
    found = json.loads(world.platform.run("las", "probe", "--las", socket, "--json"))
    assert (found["level"], found["method"], found["reason"]) == ("node", "las/witness", "")
    digest = (world.node.launcher / "digest").read_text().strip()
    assert f"launcher={digest}" in world.node.log()


def test_claims_that_hold(world: World) -> None:
    config_id = _session(world, {"image": world.image, "engine": world.engine.name})
    done = world.start(SCONE_CONFIG_ID=config_id)
    assert GREETING in done.stdout, said(done)
    config_id = _session(world, {"container": "no-such"}, {"container": f"crannog-{RUN}"})
    done = world.start(SCONE_CONFIG_ID=config_id, options=(f"--name=crannog-{RUN}",))
    assert GREETING in done.stdout, said(done)


@pytest.mark.parametrize(
    "claim", [{"image": "localhost/other:1"}, {"namespace": "tutorial"}, {"container": "hello"}]
)
def test_claims_that_do_not_hold(world: World, claim: dict[str, str]) -> None:
    done = world.start(SCONE_CONFIG_ID=_session(world, claim))
    assert GREETING not in done.stdout, said(done)
    assert done.returncode == REFUSED, said(done)
    assert "claim" in done.stderr.lower(), said(done)


def test_a_pin_as_certificate_reaches_the_statement(world: World) -> None:
    certificate = world.platform.run("cas", "show-certificate", world.platform.cas_client)
    done = world.start(CRANNOG_CAS_KEY=certificate)
    assert GREETING in done.stdout, said(done)


def test_a_launcher_that_was_replaced_under_the_las_is_not_vouched_for(
    world: World, artifacts: Path
) -> None:
    with running_node(artifacts / "launcher") as other:
        world.platform.enrol(other.key)
        mounts = other.mounts
        assert GREETING in world.start(mounts=mounts).stdout
        digest = other.launcher / "digest"
        text = digest.read_text()
        digest.unlink()
        digest.write_text(text)
        done = world.start(mounts=mounts)
        world.platform.remove_las(other.key)
    assert done.returncode == REFUSED, said(done)
    assert "was replaced after the LAS had started" in done.stderr, said(done)


def _session(world: World, *claims: dict[str, str]) -> str:
    """A session for the same program with claims; its configuration id."""
    return create_session(
        world.platform,
        {
            "mrenclaves": [world.mrenclave],
            "command": " ".join(PROGRAM),
            "environment": {"GREETING": GREETING},
            "minimum_level": "node",
            "claims": list(claims),
        },
    )
