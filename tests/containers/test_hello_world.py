"""`run_hello_world.sh` with each engine and platform; what is left when it fails or is stopped."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.containers.registry import Registry
from tests.containers.rig import Engine
from tests.tutorial.seed import PROJECT

SCRIPT = PROJECT / "examples" / "hello-world" / "run_hello_world.sh"
SUCCESS = "All tests were successful.\n"
SECONDS = 120


def _needs(*ports: int) -> None:
    for port in ports:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("0.0.0.0", port))
            except OSError:
                pytest.skip(f"port {port} of the tutorial is taken on this machine")


@contextmanager
def _script(engine: Engine, directory: Path, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The script, in a process group of its own, with its temporary files in `directory`."""
    _needs(8080, 8082, 8083, 8084)
    environment = os.environ | {
        "DOCKER": engine.name,
        "TMPDIR": str(directory),
        "RUN_OPTIONS": " ".join(engine.limits),
        **variables,
    }
    with subprocess.Popen(
        [str(SCRIPT), "--containers"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        cwd=directory,
        start_new_session=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)


def _assert_nothing_left(engine: Engine, process: subprocess.Popen[str], directory: Path) -> None:
    run = f"hello-scone-{process.pid}-"
    assert run not in engine.listed("container", "--all", "--format", "{{.Names}}")
    assert run not in engine.listed("image", "--format", "{{.Repository}}")
    assert list(directory.iterdir()) == []


def test_with_cas_and_las_in_containers(
    engine: Engine, curated_image: str, cas_image: str, las_image: str, tmp_path: Path
) -> None:
    with _script(
        engine, tmp_path, BASE_IMAGE=curated_image, CAS_IMAGE=cas_image, LAS_IMAGE=las_image
    ) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert output.endswith(SUCCESS), output
    assert process.returncode == 0
    assert len(re.findall(r"^  \$GREETING is: ", output, re.MULTILINE)) == 4
    _assert_nothing_left(engine, process, tmp_path)


def test_with_crannog_up_and_a_registry(
    engine: Engine, curated_image: str, registry: Registry, tmp_path: Path
) -> None:
    _needs(8081, 18765, 18766)
    pushed = registry.push(engine, curated_image, "hello/python:1")
    with _script(
        engine,
        tmp_path,
        BASE_IMAGE=pushed,
        IMAGEREPO=f"{registry.address}/hello/world",
        PLATFORM="up",
        CRANNOG=str(Path(sys.executable).parent / "crannog"),
    ) as process:
        output, _ = process.communicate(timeout=SECONDS)
    engine.call("rmi", pushed)
    assert "- pushing " in output
    assert output.endswith(SUCCESS), output
    assert process.returncode == 0
    _assert_nothing_left(engine, process, tmp_path)


def test_an_interruption_leaves_nothing(
    engine: Engine, curated_image: str, cas_image: str, las_image: str, tmp_path: Path
) -> None:
    with _script(
        engine, tmp_path, BASE_IMAGE=curated_image, CAS_IMAGE=cas_image, LAS_IMAGE=las_image
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line == "- starting hello-world\n":
                os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C
                break
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "What to do: " in output
    assert "successful" not in output
    _assert_nothing_left(engine, process, tmp_path)


def test_a_base_image_that_is_not_curated_is_named(
    engine: Engine, base_image: str, tmp_path: Path
) -> None:
    with _script(engine, tmp_path, BASE_IMAGE=base_image) as process:
        output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert f"FAILED: the base image {base_image}\nWhat to do: " in output
    _assert_nothing_left(engine, process, tmp_path)


def test_help_says_what_there_is() -> None:
    done = subprocess.run([str(SCRIPT), "--help"], capture_output=True, text=True, check=True)
    for name in ("DOCKER", "BASE_IMAGE", "PLATFORM", "SCONE_CAS_ADDR", "IMAGEREPO"):
        assert f"\n  {name} " in done.stdout
