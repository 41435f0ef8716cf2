"""Each part killed with SIGKILL in turn, under a load of new pods and of new sessions.

Programs that run go on, whatever dies beside them; no session is lost that the CAS acknowledged;
new pods become ready by themselves once the part is back. On the session's cluster, which is whole
again afterwards, or the tests fail.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.apps import make_app
from tests.cluster.charts import (
    CHARTS,
    InsideCas,
    Release,
    chart_installed,
    las_keys,
    namespace_of_its_own,
    run_to_its_end,
)
from tests.cluster.faults import (
    DATA,
    ENTRY,
    MAIN,
    SECRET,
    ChartCas,
    Load,
    Program,
    Storm,
    World,
    make_whole,
)
from tests.cluster.rig import Cluster

STANDING = "standing"
SECONDS = 120.0
CLAIM = "state-cas-0"


@pytest.fixture(scope="module")
def whole(cluster: Cluster, plugin: Release, las: Release) -> Iterator[Cluster]:
    """The session's cluster, from inside; afterwards as it was."""
    if cluster.local is None:
        pytest.skip("the parts of this cluster are not ours to kill")
    keys = las_keys(las)
    yield cluster
    make_whole(cluster)
    for release in (plugin, las):
        cluster.wait_ready(release.namespace, release.workload, seconds=SECONDS)
    assert las_keys(las) == keys


@pytest.fixture(scope="module")
def cas(whole: Cluster, cluster_images: dict[str, str], las: Release) -> Iterator[InsideCas]:
    """The chart's CAS of level node, in a directory of the last node; each LAS is enrolled."""
    node, path = whole.nodes[-1], f"/var/lib/test-cas-{secrets.token_hex(4)}"
    values: dict[str, Any] = {
        "minimumLevel": "node",
        "persistence": {"local": {"path": path, "node": node}},
    }
    whole.on_node(node, "mkdir", path)
    with ExitStack() as undo:
        undo.callback(whole.on_node, node, "rm", "-r", path)
        namespace = undo.enter_context(namespace_of_its_own(whole, "faults-cas"))
        undo.callback(whole.kubectl, "delete", "pv", f"{namespace}-cas-state", check=False)
        undo.callback(whole.kubectl, "delete", "pvc", "--all", "-n", namespace, check=False)
        release = undo.enter_context(
            chart_installed(whole, cluster_images, "cas", values, namespace=namespace)
        )
        inside = InsideCas(release)
        inside.enrol(las)
        yield inside


@pytest.fixture(scope="module")
def world(
    whole: Cluster,
    cas: InsideCas,
    plugin: Release,
    las: Release,
    cluster_images: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """A program on each node, encrypted, with a secret of its session."""
    with namespace_of_its_own(whole, "faults") as namespace:
        user = ChartCas(whole, tmp_path_factory.mktemp("user"), cas)
        user.attest()
        app = make_app(
            whole,
            namespace,
            user,
            cluster_images["python"],
            {"main.py": MAIN, "data": DATA},
            tmp_path_factory.mktemp("app"),
        )
        hash_of = {"SCONE_HASH": "1"}
        measured = run_to_its_end(whole, namespace, app.image, ENTRY, hash_of, node_launcher=True)
        config_id = app.session(
            mrenclaves=[measured.strip()], minimum_level="node", environment={"SECRET": SECRET}
        )
        found = World(app, config_id, cas, plugin, las)
        for node in whole.nodes:
            found.start(f"on-{node}", load=STANDING, node=node)
        found.wait_ready(STANDING, seconds=SECONDS)
        yield found
        whole.kubectl("delete", "deployments", "--all", "-n", namespace, "--wait=false")


class Standing:
    """The programs that run while something else dies."""

    def __init__(self, world: World, *nodes: str) -> None:
        self._world = world
        self._names = [f"on-{node}" for node in nodes or world.cluster.nodes]
        self._before = self._now()
        self._said = world.answers(self._before)
        assert all(self._said.values())

    def _now(self) -> dict[str, Program]:
        return self._world.programs(*self._names)

    def assert_answering(self) -> None:
        """The same processes answer, also where nobody can ask the API server about them."""
        assert self._world.answers(self._before) == self._said

    def assert_undisturbed(self) -> None:
        """And they are the same containers, started no more often."""
        self.assert_answering()
        assert self._now() == self._before


@pytest.fixture
def storm(world: World, tmp_path: Path) -> Storm:
    return Storm(world, tmp_path / "storm.log")


Break = Callable[[World, Callable[[], None]], None]


def _release(which: Callable[[World], Release]) -> Break:
    """Kills every process of a release; the kubelet starts others."""

    def broken(world: World, meanwhile: Callable[[], None]) -> None:
        world.killed(which(world))
        meanwhile()

    return broken


def _component(name: str) -> Break:
    """Kills that component of every node, and starts it again once new pods have waited for it."""

    def broken(world: World, meanwhile: Callable[[], None]) -> None:
        for node in world.cluster.nodes:
            world.local.kill(node, name)
        try:
            meanwhile()
        finally:
            for node in world.cluster.nodes:
                world.local.start(node, name)

    return broken


PARTS: dict[str, Break] = {
    "device-plugin": _release(lambda world: world.plugin),
    "las": _release(lambda world: world.las),
    "cas": _release(lambda world: world.cas.release),
    "kubelet": _component("kubelet"),
    "containerd": _component("containerd"),
}


@pytest.mark.parametrize("part", PARTS)
def test_a_part_is_killed_under_load(world: World, storm: Storm, part: str) -> None:
    standing, load = Standing(world), Load(world, part)

    def meanwhile() -> None:
        standing.assert_answering()
        load.wait_more(2)

    with storm.during():
        with load.during():
            storm.wait_more(5)
            PARTS[part](world, meanwhile)
            load.wait_more(1)
        world.wait_ready(part, seconds=SECONDS)
        storm.wait_more(5)
    standing.assert_undisturbed()
    storm.assert_nothing_lost()
    print(f"{part}: {len(load.accepted)} new pods, {storm.promised} sessions")
    load.remove()


def test_the_node_that_runs_the_cas_is_killed_under_load(world: World, storm: Storm) -> None:
    *others, lost = world.cluster.nodes
    standing, load = Standing(world, *others), Load(world, "node")
    with storm.during():
        with load.during():
            storm.wait_more(5)
            world.local.stop_node(lost)
            world.cluster.wait(
                lambda: lost not in world.local.ready_nodes(), f"the API server misses {lost}"
            )
            standing.assert_answering()
            world.local.start_node(lost)
            world.local.wait_ready()
            load.wait_more(1)
        world.wait_ready("node", seconds=SECONDS)
        world.wait_ready(STANDING, seconds=SECONDS)
        storm.wait_more(5)
    standing.assert_undisturbed()
    storm.assert_nothing_lost()
    load.remove()


def test_a_second_cas_on_the_same_volume_is_refused_with_its_reason(
    world: World, storm: Storm
) -> None:
    first = world.cas.release
    second = Release(first.cluster, "cas", "second-cas", first.namespace, first.images)
    values = second.values(
        {
            "minimumLevel": "node",
            "persistence": {"existingClaim": CLAIM},
            "nodeSelector": {"kubernetes.io/hostname": world.cluster.nodes[-1]},
        }
    )

    def message() -> str:
        pod = world.cluster.get("pod", "second-cas-0", "-n", first.namespace)
        states = [
            status[which].get("terminated", {}).get("message", "")
            for status in pod["status"].get("containerStatuses", ())
            for which in ("state", "lastState")
        ]
        return "".join(states)

    with storm.during():
        storm.wait_more(5)
        try:
            world.cluster.helm(
                *("install", second.name, str(CHARTS / "cas"), "-n", first.namespace),
                *("--values", "-"),
                input=json.dumps(values),
            )
            reason = world.cluster.wait(
                message,
                "the second CAS has ended with a reason",
                seen=lambda: world.cluster.describe(first.namespace),
            )
        finally:
            second.uninstall()
        storm.wait_more(5)
    assert "expected one CAS per database" in reason
    assert "stop that CAS" in reason
    storm.assert_nothing_lost()
