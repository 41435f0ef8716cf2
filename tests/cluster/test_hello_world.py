"""`run_hello_world.sh` on the cluster; what is left when it ends, fails or is stopped."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cluster.outside import OutsideCas
from tests.cluster.rig import Cluster
from tests.containers.rig import RUN
from tests.tutorial.seed import PROJECT

SCRIPT = PROJECT / "examples" / "hello-world" / "run_hello_world.sh"
SUCCESS = "All tests were successful.\n"
SECONDS = 300


@pytest.fixture
def settings(cluster: Cluster, cluster_images: Mapping[str, str], tmp_path: Path) -> dict[str, str]:
    """What the script is told; its namespace is named for the test."""
    return {
        "DOCKER": cluster.engine.name,
        "BASE_IMAGE": cluster_images["python"],
        "CAS_IMAGE": cluster_images["cas"],
        "LAS_IMAGE": cluster_images["las"],
        "IMAGEREPO": f"{cluster.registry}/{RUN}/hello-world",
        "NAMESPACE": f"hello-{secrets.token_hex(4)}",
        "TMPDIR": str(tmp_path),
        "WAIT": "120",
        "CAS_PORT": "28082",  # 8081 may be that of the session's CAS
    }


@contextmanager
def _script(
    cluster: Cluster, settings: Mapping[str, str], directory: Path
) -> Iterator[subprocess.Popen[str]]:
    """The script where the user sits, in a session of its own."""
    with cluster.start_user(
        ["setsid", str(SCRIPT)], environment=settings, cwd=directory
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


def _assert_nothing_left(cluster: Cluster, settings: Mapping[str, str], directory: Path) -> None:
    found = cluster.kubectl("get", "namespace", settings["NAMESPACE"], check=False)
    assert "NotFound" in found.stderr
    assert list(directory.iterdir()) == []


@pytest.mark.usefixtures("plugin")
def test_the_four_programs_with_a_cas_and_a_las_of_its_own(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    with _script(cluster, settings, tmp_path) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert output.endswith(SUCCESS), output
    assert process.returncode == 0
    assert len(re.findall(r"^  \$GREETING is: ", output, re.MULTILINE)) == 4
    assert len(re.findall(r"^  configured by CAS at \S+ at level ", output, re.MULTILINE)) == 3
    _assert_nothing_left(cluster, settings, tmp_path)


def test_an_interruption_leaves_nothing(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    settings["SGX_RESOURCE"] = ""
    with _script(cluster, settings, tmp_path) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "- starting hello-world\n":
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does
                break
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130, output
    assert "What to do: " in output
    assert "successful" not in output
    _assert_nothing_left(cluster, settings, tmp_path)


def test_an_image_that_the_nodes_cannot_pull_is_named(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    missing = f"{settings['IMAGEREPO']}-missing/cas"
    changed = {**settings, "SGX_RESOURCE": "", "CAS_IMAGE": missing}
    with _script(cluster, changed, tmp_path) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, output
    assert f'Failed to pull image "{missing}"' in output
    assert "deployment/cas is not ready: its image cannot be pulled" in output
    assert "FAILED: a CAS in the namespace\nWhat to do: " in output
    _assert_nothing_left(cluster, settings, tmp_path)


def test_a_port_that_another_cas_has_is_named(
    cluster: Cluster, settings: dict[str, str], outside_cas: OutsideCas, tmp_path: Path
) -> None:
    # It listens at every address of IPv4; kubectl alone would go on with that of IPv6.
    port = outside_cas.cas_client.rpartition(":")[2]
    changed = {**settings, "SGX_RESOURCE": "", "CAS_PORT": port}
    with _script(cluster, changed, tmp_path) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, output
    assert "address already in use" in output
    assert f"What to do: see that port {port} of this machine is free, or set CAS_PORT\n" in output
    _assert_nothing_left(cluster, settings, tmp_path)


def test_a_resource_that_no_node_has_is_named_before_anything_is_made(
    cluster: Cluster, settings: dict[str, str], tmp_path: Path
) -> None:
    settings["SGX_RESOURCE"] = "example.org/nothing"
    with _script(cluster, settings, tmp_path) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, output
    assert "no node has the resource example.org/nothing\n" in output
    assert "What to do: install the device plugin" in output
    _assert_nothing_left(cluster, settings, tmp_path)


def test_a_namespace_of_somebody_else_is_not_touched(
    cluster: Cluster, settings: dict[str, str], namespace: str, tmp_path: Path
) -> None:
    changed = {**settings, "SGX_RESOURCE": "", "NAMESPACE": namespace}
    with _script(cluster, changed, tmp_path) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, output
    assert "already exists" in output
    assert "What to do: choose another NAMESPACE" in output
    assert cluster.get("namespace", namespace)["status"]["phase"] == "Active"
