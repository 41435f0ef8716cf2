"""What the container tests share; each thing is made once in a session, by the first who asks.

The engine, its images and the registry live as long as the session; `node` as long as a module.
Where something cannot be had the tests that need it are skipped, with the reason.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import pytest
from images.build import build_images

from tests.containers import artifacts as made
from tests.containers import podman
from tests.containers import registry as registries
from tests.containers.node import Node, remove_dead, running_node
from tests.containers.platform import ReachablePlatform
from tests.containers.registry import Registry
from tests.containers.rig import (
    PROGRAMS,
    RUN,
    Engine,
    available_engines,
    is_dead,
    remove_everything,
    why_not,
)


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark of tests that both engines would answer alike."""
    config.addinivalue_line(
        "markers",
        "one_engine: what it tests is in the image, not the engine: Docker where it answers,"
        " else Podman",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out Podman's turn of the tests marked `one_engine` where Docker answers."""
    left_out = [item for item in items if _is_second_turn(item)]
    if left_out and not why_not("docker"):
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _is_second_turn(item: pytest.Item) -> bool:
    if item.get_closest_marker("one_engine") is None or not isinstance(item, pytest.Function):
        return False
    callspec = getattr(item, "callspec", None)
    return callspec is not None and callspec.params.get("engine") == "podman"


@pytest.fixture(scope="session")
def _port() -> int:
    return registries.free_port()


@pytest.fixture(scope="session")
def _engines(tmp_path_factory: pytest.TempPathFactory, _port: int) -> Iterator[None]:
    """Settings for Podman; what dead runs left is removed before, what this one made after."""
    settings = podman.write_settings(tmp_path_factory.mktemp("podman"), f"localhost:{_port}")
    before = podman.settings_in_force(settings)
    terminated = signal.signal(signal.SIGTERM, _interrupt)
    engines = available_engines()
    for engine in engines:
        remove_everything(engine, is_dead)
    remove_dead()
    try:
        yield
    finally:
        for engine in engines:
            remove_everything(engine, lambda run: run == RUN)
        signal.signal(signal.SIGTERM, terminated)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _interrupt(_: int, __: FrameType | None) -> None:
    """End the session as Ctrl-C does, so that it cleans up."""
    raise KeyboardInterrupt


def _engine(program: str) -> Engine:
    reason = why_not(program)
    if reason:
        pytest.skip(f"no engine {program}: {reason}")
    return Engine(program)


@pytest.fixture(scope="session", params=PROGRAMS)
def engine(request: pytest.FixtureRequest, _engines: None) -> Engine:
    """Each engine in turn."""
    return _engine(request.param)


@pytest.fixture(scope="session")
def docker_engine(_engines: None) -> Engine:
    """A real Docker engine."""
    return _engine("docker")


@pytest.fixture(scope="session")
def podman_engine(_engines: None) -> Engine:
    """Podman."""
    return _engine("podman")


@pytest.fixture(scope="session")
def registry(
    tmp_path_factory: pytest.TempPathFactory, _engines: None, _port: int
) -> Iterator[Registry]:
    """A registry on localhost that both engines push to and pull from."""
    if shutil.which("docker-registry") is None:
        pytest.skip("no docker-registry")
    process = registries.start(tmp_path_factory.mktemp("registry"), _port)
    try:
        yield Registry(f"localhost:{_port}")
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture(scope="session")
def image_prefix(_port: int) -> str:
    """What the names of this session's images begin with."""
    return f"localhost:{_port}/{RUN}/"


@pytest.fixture(scope="session")
def base_image(engine: Engine, image_prefix: str) -> str:
    """A Debian with Python 3.11 in the engine; what is built from it carries the run's label."""
    return made.import_base(engine, f"{image_prefix}base:bookworm")


@pytest.fixture(scope="session")
def artifacts(_engines: None) -> Path:
    """Launcher, services and front for the base image; CRANNOG_TEST_ARTIFACTS names made ones."""
    return made.artifacts()


def _build(engine: Engine, base_name: str, artifacts: Path, prefix: str, *only: str) -> str:
    built = build_images(engine.name, base=base_name, artifacts=artifacts, prefix=prefix, only=only)
    return built[-1].name


@pytest.fixture(scope="session")
def launcher_image(engine: Engine, base_image: str, artifacts: Path, image_prefix: str) -> str:
    """The image `crannog/launcher`."""
    return _build(engine, base_image, artifacts, image_prefix, "launcher")


@pytest.fixture(scope="session")
def curated_image(engine: Engine, base_image: str, artifacts: Path, image_prefix: str) -> str:
    """The curated image `crannog/python`."""
    return _build(engine, base_image, artifacts, image_prefix, "python")


@pytest.fixture(scope="session")
def cas_image(
    engine: Engine, base_image: str, launcher_image: str, artifacts: Path, image_prefix: str
) -> str:
    """The image `crannog/cas`."""
    return _build(engine, base_image, artifacts, image_prefix, "cas")


@pytest.fixture(scope="session")
def las_image(
    engine: Engine, base_image: str, launcher_image: str, artifacts: Path, image_prefix: str
) -> str:
    """The image `crannog/las`."""
    return _build(engine, base_image, artifacts, image_prefix, "las")


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ReachablePlatform]:
    """CAS and LAS of level simulation, on free ports, reachable from containers."""
    running = ReachablePlatform(tmp_path_factory.mktemp("platform"))
    with running:
        running.attest()
        yield running


@pytest.fixture(scope="module")
def node(artifacts: Path) -> Iterator[Node]:
    """The launcher's directory and a LAS with a socket on this machine, for one module."""
    if os.geteuid() != 0:
        pytest.skip("a node's launcher and LAS belong to root")
    with running_node(artifacts / "launcher") as running:
        yield running
