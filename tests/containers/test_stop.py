"""How containers end: at once when told to, with nothing left unreaped, and with their status."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.containers.asking import ask
from tests.containers.platform import ReachablePlatform
from tests.containers.protected import (
    Protected,
    create_session,
    image_of,
    measured,
    protect,
)
from tests.containers.rig import Container, Engine
from tests.tutorial.seed import bash_blocks, block_with, seed_text

SECONDS = 2.0

ORPHANS = """\
import os, time
for _ in range(50):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)  # its parent is gone: PID 1 has it now
        os._exit(0)
    os.wait()

def states():
    for name in filter(str.isdecimal, os.listdir('/proc')):
        try:
            yield open(f'/proc/{name}/stat').read().rpartition(')')[2].split()[0]
        except OSError:
            pass

deadline = time.monotonic() + 20
while 'Z' in states() and time.monotonic() < deadline:
    time.sleep(0.01)
print('zombies:', list(states()).count('Z'))
"""


@dataclass
class World:
    """The tutorial's programs in one image: /plain in plain, /app encrypted."""

    engine: Engine
    image: str
    platform: ReachablePlatform
    protected: Protected
    mrenclave: str

    def session(self, command: str | list[str], **service: object) -> str:
        """A session for the image's interpreter, with the tutorial's certificate injected."""
        return create_session(
            self.platform,
            {
                "mrenclaves": [self.mrenclave],
                "command": command,
                "image_name": "image",
                "pwd": "/",
                "environment": {"GREETING": "hello"},
                **service,
            },
            images=[
                {
                    "name": "image",
                    "injection_files": [
                        {"path": "/app/cert.pem", "content": "$$SCONE::SERVER_CERT.crt$$"},
                        {"path": "/app/key.pem", "content": "$$SCONE::SERVER_CERT.key$$"},
                    ],
                }
            ],
            secrets=[{"name": "SERVER_CERT", "kind": "x509"}],
        )

    @contextmanager
    def running(self, *command: str, config_id: str = "") -> Iterator[Container]:
        """A hardened container of the image, attested where a configuration id is given."""
        options = [*self.engine.hardened, "--user=1000:1000"]
        if config_id:
            options += self.platform.options(self.engine, config_id)
        with self.engine.container(self.image, *command, options=options) as container:
            yield container


@pytest.fixture(scope="module")
def world(
    engine: Engine,
    curated_image: str,
    image_prefix: str,
    platform: ReachablePlatform,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    directory = tmp_path_factory.mktemp("stop")
    blocks = bash_blocks(seed_text())
    for mark in ("app/server.py << EOF", "app/server-tls.py << EOF"):
        subprocess.run(
            ["bash", "-c", f"mkdir -p app\n{block_with(blocks, mark)}"], check=True, cwd=directory
        )
    plain = {path.name: path.read_text() for path in (directory / "app").iterdir()}
    protected = protect(platform, plain, directory)
    (directory / "app").rename(protected.root / "plain")
    image = image_of(engine, curated_image, protected.root, f"{image_prefix}stop:1")
    return World(engine, image, platform, protected, measured(engine, image))


def _plain(world: World) -> str:
    return world.session("python3 /plain/server.py")


def _tls(world: World) -> str:
    return world.session("python3 /plain/server-tls.py")


def _encrypted(world: World) -> str:
    return world.session("python3 /app/server-tls.py", **world.protected.service)


def _assert_stops(container: Container) -> None:
    seconds = container.stop()
    assert seconds < SECONDS
    state = container.state()
    assert state["ExitCode"] == 143, container.logs()  # SIGTERM, not the SIGKILL of the time limit


def test_stop_ends_a_program_that_is_not_attested(world: World) -> None:
    with world.running("python3", "/plain/server.py") as container:
        assert "no greeting" in ask(container, 8080)
        _assert_stops(container)


@pytest.mark.parametrize(("session", "port"), [(_plain, 8080), (_tls, 4443), (_encrypted, 4443)])
def test_stop_ends_an_attested_program(
    world: World, session: Callable[[World], str], port: int
) -> None:
    with world.running(config_id=session(world)) as container:
        assert "hello" in ask(container, port, tls=port == 4443)
        _assert_stops(container)


def test_stop_ends_a_container_that_waits_for_its_cas(world: World) -> None:
    options = [
        *world.engine.hardened,
        "--env=SCONE_CONFIG_ID=a/b",
        f"--env=SCONE_CAS_ADDR={world.engine.gateway}:1",
        "--env=CRANNOG_RETRY_SECONDS=600",
    ]
    with world.engine.container(world.image, options=options) as container:
        while "trying again" not in container.logs():
            assert container.state()["Running"], container.logs()
        assert container.stop() < SECONDS


@pytest.mark.parametrize("attested", [False, True], ids=["plain", "attested"])
def test_orphans_are_reaped(world: World, attested: bool) -> None:
    status, log = _end(world, ORPHANS, attested)
    assert status == 0, log
    assert "zombies: 0" in log


@pytest.mark.parametrize("attested", [False, True], ids=["plain", "attested"])
@pytest.mark.parametrize(
    ("script", "status"),
    [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)],
    ids=["exit", "killed"],
)
def test_the_exit_status_arrives(world: World, script: str, status: int, attested: bool) -> None:
    found, log = _end(world, script, attested)
    assert found == status, log


def _end(world: World, script: str, attested: bool) -> tuple[int, str]:
    command = ["python3", "-c", script]
    config_id = world.session(command) if attested else ""
    with world.running(*([] if attested else command), config_id=config_id) as container:
        return container.wait(), container.logs()
