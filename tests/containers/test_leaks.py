"""What an operator of containers can look at holds no secret, and gives the program nothing.

The program says over its own connection what it got, so that the real values are searched for:
the generated password, the certificate's key, the greeting, the fspf's key and the plain source.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest

from tests.containers.asking import ask
from tests.containers.platform import ReachablePlatform
from tests.containers.protected import create_session, image_of, measured, protect
from tests.containers.rig import Container, Engine

SOURCE = "a line of the encrypted source"
GREETING = "a greeting of the session alone"
OPERATOR = "set-by-the-operator"

MAIN = f"""\
# {SOURCE}
import http.server, json, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = {{
            'environment': dict(os.environ),
            'of the kernel': open('/proc/self/environ').read(),
            'argv': sys.argv,
            'command line': open('/proc/self/cmdline').read(),
            'key': open('/app/key.pem').read(),
            'parent': open('/proc/%d/cmdline' % os.getppid()).read(),
        }}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

http.server.HTTPServer(('0.0.0.0', 8080), Handler).serve_forever()
"""


class Received(NamedTuple):
    """What the program said it got, and the same as secrets to search for."""

    found: dict[str, Any]
    secrets: list[bytes]


@dataclass
class World:
    """An attested program that runs with its root writable, so that a leak would have a place."""

    engine: Engine
    image: str
    container: Container
    received: Received


@pytest.fixture(scope="module")
def world(
    engine: Engine,
    curated_image: str,
    image_prefix: str,
    platform: ReachablePlatform,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[World]:
    protected = protect(platform, {"main.py": MAIN}, tmp_path_factory.mktemp("leaks"))
    image = image_of(engine, curated_image, protected.root, f"{image_prefix}leaks:1")
    config_id = create_session(
        platform,
        {
            "mrenclaves": [measured(engine, image)],
            "command": "python3 /app/main.py",
            "image_name": "image",
            "environment": {"GREETING": GREETING, "PASSWORD": "$$SCONE::PASSWORD$$"},
            **protected.service,
        },
        images=[
            {
                "name": "image",
                "injection_files": [{"path": "/app/key.pem", "content": "$$SCONE::KEY.key$$"}],
            }
        ],
        secrets=[
            {"name": "PASSWORD", "kind": "ascii", "size": 24},
            {"name": "KEY", "kind": "x509"},
        ],
    )
    options = (
        *("--cap-drop=all", "--security-opt=no-new-privileges"),
        *platform.options(
            engine, config_id, GREETING=OPERATOR, OPERATOR=OPERATOR, PYTHONPATH=f"/{OPERATOR}"
        ),
    )
    with engine.container(
        image, "python3", "-c", "print(0)", OPERATOR, options=options
    ) as container:
        found = json.loads(ask(container, 8080))
        key = re.sub(r"-----.*-----|\s", "", found["key"])
        secrets = [
            GREETING,
            found["environment"]["PASSWORD"],
            key[64:128],  # PEM lines are of 64
            SOURCE,
            protected.key,
        ]
        everything = [text.encode() for text in secrets] + [bytes.fromhex(protected.key)]
        assert all(len(secret) >= 20 for secret in everything)
        yield World(engine, image, container, Received(found, everything))


def test_the_operators_environment_never_arrives(world: World) -> None:
    found = dict(world.received.found)
    assert found.pop("parent")  # the launcher, which the operator started
    assert OPERATOR not in json.dumps(found)
    environment = world.received.found["environment"]
    assert set(environment) - {"LC_CTYPE"} == {"GREETING", "PASSWORD", "PATH", "HOME"}


def test_the_operators_arguments_never_arrive(world: World) -> None:
    assert world.received.found["argv"] == ["/app/main.py"]
    command = world.received.found["command line"].split("\0")
    assert command[1:] == ["/app/main.py", ""]


def test_inspect_holds_no_secret(world: World) -> None:
    shown = world.engine.call("inspect", world.container.id).stdout.encode()
    assert OPERATOR.encode() in shown  # the search would find something
    assert not _held(world, [shown])


def test_logs_hold_no_secret(world: World) -> None:
    logs = world.container.logs().encode()
    assert logs
    assert not _held(world, [logs])


def test_the_difference_to_the_image_holds_no_secret(world: World) -> None:
    changes = world.engine.call("diff", world.container.id).stdout
    assert not [line for line in changes.splitlines() if "/app" in line], changes
    export = [world.engine.name, "export", world.container.id]
    with _output(export) as stream:
        assert not _held(world, stream)


def test_a_commit_holds_no_secret(world: World) -> None:
    name = world.image.replace("leaks:1", "leaks:committed")
    world.engine.call("commit", world.container.id, name)
    shown = world.engine.call("inspect", name).stdout + world.engine.call("history", name).stdout
    assert not _held(world, [shown.encode()])
    with _output([world.engine.name, "save", name]) as stream:
        assert not _held(world, stream)


def test_the_search_finds_what_is_there(world: World) -> None:
    with _output([world.engine.name, "save", world.image]) as stream:
        assert _search(stream, [b"Crannog", world.received.secrets[0]]) == {b"Crannog"}


def _held(world: World, stream: Iterator[bytes] | list[bytes]) -> set[bytes]:
    return _search(stream, world.received.secrets)


def _search(stream: Iterator[bytes] | list[bytes], needles: list[bytes]) -> set[bytes]:
    """Those of `needles` that are in the stream."""
    found: set[bytes] = set()
    overlap = max(map(len, needles))
    tail = b""
    for block in stream:
        text = tail + block
        found |= {needle for needle in needles if needle in text}
        tail = text[-overlap:]
    return found


@contextmanager
def _output(command: list[str]) -> Iterator[Iterator[bytes]]:
    """What a command writes, in blocks; its layers and files are not compressed."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        pipe = process.stdout
        yield iter(lambda: pipe.read(1 << 20), b"")
    assert process.returncode == 0
