"""What the cluster tests share; each thing is made once in a session, by the first who asks.

The cluster is the one that KUBECONFIG names, with the registry that CRANNOG_TEST_REGISTRY names;
else the local one that CRANNOG_TEST_CLUSTER names (`make cluster`); else one made here, where that
can be had. Otherwise the tests are skipped, with the reason.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.cluster.attackers import Images, make_images
from tests.cluster.charts import (
    InsideCas,
    Release,
    chart_installed,
    las_keys,
    namespace_of_its_own,
    offered,
)
from tests.cluster.chosen import NoCluster, chosen_cluster
from tests.cluster.device_pods import Pods
from tests.cluster.node_las import installed
from tests.cluster.outside import OutsideCas
from tests.cluster.pushed import pushed_base, pushed_images
from tests.cluster.rig import Cluster
from tests.cluster.vouched import Cas, World
from tests.containers import artifacts as made
from tests.containers.rig import RUN, Engine, is_dead, remove_everything, why_not

HERE = Path(__file__).parent
WORKLOADS = "deployments,daemonsets,statefulsets,jobs,pods"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the cluster's tests be the last: its programs may still be built beside the others."""
    items.sort(key=lambda item: HERE in item.path.parents)


@pytest.fixture(scope="session")
def cluster_engine() -> Iterator[Engine]:
    """The engine that builds and pushes for the cluster: Docker, else Podman."""
    reasons = {program: why_not(program) for program in ("docker", "podman")}
    for program, reason in reasons.items():
        if not reason:
            engine = Engine(program)
            remove_everything(engine, is_dead)
            yield engine
            remove_everything(engine, lambda run: run == f"{RUN}")
            return
    pytest.skip(f"no engine to build images with: {reasons}")


@pytest.fixture(scope="session")
def cluster(cluster_engine: Engine) -> Iterator[Cluster]:
    """A cluster that answers."""
    with ExitStack() as undo:
        try:
            found = undo.enter_context(chosen_cluster(cluster_engine))
        except NoCluster as reason:
            pytest.skip(f"{reason}")
        yield found


@pytest.fixture
def namespace(cluster: Cluster) -> Iterator[str]:
    """A namespace of the test's own, removed afterwards."""
    name = f"test-{secrets.token_hex(4)}"
    cluster.kubectl("create", "namespace", name)
    try:
        cluster.wait(
            lambda: not cluster.kubectl("get", "sa", "default", "-n", name, check=False).returncode,
            f"the default service account of {name}",
        )
        yield name
    finally:
        # Deleting a namespace begins with 5 s in which nothing happens: its workloads go before.
        cluster.kubectl("delete", WORKLOADS, "--all", "-n", name, "--wait=false")
        cluster.kubectl("delete", "namespace", name, "--wait=false")
        # Nothing of it runs when this returns; the API server forgets it a few seconds later.
        cluster.wait(lambda: not cluster.running(name), f"the pods of {name} end", seconds=180)


@pytest.fixture(scope="session")
def cluster_images(cluster: Cluster) -> dict[str, str]:
    """Every image of this checkout, pushed: `launcher`, `python`, `cas`, … and the full name."""
    return pushed_images(cluster)


@pytest.fixture(scope="session")
def outside_cas(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OutsideCas]:
    """A CAS outside the cluster, level simulation, reachable from pods and the user."""
    if not cluster.address:
        pytest.skip("CRANNOG_TEST_HOST does not say at which address pods reach this machine")
    directory: Path = tmp_path_factory.mktemp("outside-cas")
    with OutsideCas(cluster, directory) as cas:
        cas.attest()
        yield cas


@pytest.fixture(scope="session")
def plain_image(cluster: Cluster) -> str:
    """The base image, pushed: Debian with Python, and nothing of ours."""
    return pushed_base(cluster)


@pytest.fixture(scope="session")
def attack_images(
    cluster: Cluster,
    cluster_images: dict[str, str],
    plain_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Images:
    """Images of those who attack level node."""
    return make_images(
        cluster, plain_image, cluster_images["launcher"], tmp_path_factory.mktemp("attackers")
    )


@pytest.fixture(scope="session")
def world(
    cluster: Cluster,
    cluster_images: dict[str, str],
    plain_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    """A CAS, and nodes with a launcher and an enrolled LAS of this run's own."""
    if not cluster.address:
        pytest.skip("CRANNOG_TEST_HOST does not say at which address pods reach this machine")
    digest = (made.artifacts() / "launcher" / "digest").read_text().strip()
    name = f"vouched-{secrets.token_hex(4)}"
    with (
        installed(cluster, cluster_images, digest) as nodes,
        Cas(cluster, tmp_path_factory.mktemp("cas")) as cas,
    ):
        cas.attest()
        cluster.kubectl("create", "namespace", name)
        try:
            found = World(cluster, name, plain_image, cas, nodes)
            found.prepare()
            yield found
        finally:
            cluster.kubectl("delete", "pods", "--all", "-n", name, timeout=180)
            cluster.kubectl("delete", "namespace", name, "--wait=false")


@pytest.fixture(scope="session")
def plugin(cluster: Cluster, cluster_images: dict[str, str]) -> Iterator[Release]:
    """The device plugin's chart in simulation, on every node; a pod that asks for SGX gets it."""
    if any(offered(cluster).values()):
        pytest.skip("a device plugin runs on this cluster already")
    with (
        namespace_of_its_own(cluster, "plugin") as namespace,
        chart_installed(
            cluster, cluster_images, "sgxdevplugin", {"simulation": True}, namespace=namespace
        ) as release,
    ):
        cluster.wait(lambda: all(offered(cluster).values()), "every node to offer SGX")
        yield release


@pytest.fixture
def pods(cluster: Cluster, namespace: str, plain_image: str, plugin: Release) -> Pods:
    """Pods that ask for SGX, on the last node."""
    return Pods(cluster, namespace, plain_image)


@pytest.fixture
def node(cluster: Cluster, plugin: Release) -> str:
    """A node with the plugin on which processes can be ended."""
    if cluster.local is None:
        pytest.skip("needs a cluster made on this machine")
    return cluster.nodes[-1]


@pytest.fixture(scope="session")
def las(cluster: Cluster, cluster_images: dict[str, str], plugin: Release) -> Iterator[Release]:
    """The LAS's chart on every node, by its socket: the nodes' port is left to the tutorial's."""
    selector = "--selector=app.kubernetes.io/name=las"
    if cluster.local is None and cluster.get("pods", "-A", selector)["items"]:
        pytest.skip("a LAS runs on this cluster already: its socket and its key are left alone")
    with (
        namespace_of_its_own(cluster, "las") as namespace,
        chart_installed(
            cluster,
            cluster_images,
            "las",
            {"service": {"hostPort": False}, "admissionPolicy": {"enabled": False}},
            namespace=namespace,
        ) as release,
    ):
        yield release


@pytest.fixture
def without_las(las: Release) -> Iterator[dict[str, str]]:
    """The keys of the session's LASes, which make room for another release during the test."""
    keys, values = las_keys(las), las.given()
    las.uninstall()
    try:
        yield keys
    finally:
        las.upgrade(values)


@pytest.fixture(scope="session")
def inside_cas(cluster: Cluster, cluster_images: dict[str, str]) -> Iterator[InsideCas]:
    """A CAS of the chart, of level simulation, without a volume, under the restricted profile."""
    enforced = {"pod-security.kubernetes.io/enforce": "restricted"}
    values = {"minimumLevel": "simulation", "persistence": {"enabled": False}}
    with (
        namespace_of_its_own(cluster, "cas", enforced) as namespace,
        chart_installed(cluster, cluster_images, "cas", values, namespace=namespace) as release,
    ):
        yield InsideCas(release)
