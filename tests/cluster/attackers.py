"""Programs and images of those who attack level node on a cluster."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.node_las import LAUNCHER
from tests.cluster.rig import Cluster
from tests.cluster.vouched import World
from tests.containers import impostor
from tests.containers.rig import RUN

ELSEWHERE = "/opt/genuine"
"""Where a pod that covers the launcher has the genuine one as well, for its modules."""


def attest(world: World, launcher: str = LAUNCHER, **environment: str) -> str:
    """Python text that claims PROGRAM's measurement and attests; `launcher` has the modules."""
    return impostor.attest(world.mrenclave, **environment).replace(LAUNCHER, launcher)


def script(world: World, launcher: str, **environment: str) -> str:
    """The same as an executable file."""
    return f"#!/usr/bin/python3 -I\n{attest(world, launcher, **environment)}"


def sidecar(world: World, code: str, *mounts: Mapping[str, Any]) -> dict[str, Any]:
    """A container that runs Python text beside the first one, and is started before it."""
    return {
        "name": "beside",
        "image": world.image,
        "command": ["python3", "-c", code],
        "restartPolicy": "Always",
        "volumeMounts": list(mounts),
    }


# Joins each connection on `listening` to a new one that `connect` makes.
_RELAY = """
import socket, threading
def pump(source, sink):
    try:
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass
def serve(listening, connect):
    while True:
        one, _ = listening.accept()
        other = connect()
        threading.Thread(target=pump, args=(one, other)).start()
        threading.Thread(target=pump, args=(other, one)).start()
"""


def relay_to_socket(port: int, path: str) -> str:
    """Python text: whoever connects by TCP speaks with the socket at `path`."""
    return f"""{_RELAY}
def connect():
    made = socket.socket(socket.AF_UNIX)
    made.connect({path!r})
    return made
serve(socket.create_server(('', {port})), connect)
"""


def relay_to_tcp(path: str, address: str, port: int) -> str:
    """Python text: whoever connects to the socket made at `path` speaks with a TCP port."""
    return f"""{_RELAY}
import os
listening = socket.socket(socket.AF_UNIX)
listening.bind({path!r})
os.chmod({path!r}, 0o666)
listening.listen()
serve(listening, lambda: socket.create_connection(({address!r}, {port})))
"""


# Away for a moment, so that whoever looks by name meets another file; then back.
RENAMING = """
import os, time
while not os.path.exists('/shared/crannog/launcher'):
    pass
while True:
    os.rename('/shared/crannog', '/shared/away')
    time.sleep(0.01)
    os.rename('/shared/away', '/shared/crannog')
    time.sleep(0.2)
"""


def preloading(cluster: Cluster, base: str, directory: Path, *, preload: bool) -> str:
    """An image with a library in /evil that says when it is loaded; pushed, its name.

    With `preload` its /etc/ld.so.preload names the library.
    """
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = directory / "preloaded.c"
    source.write_text(
        "#include <unistd.h>\n"
        "__attribute__((constructor)) static void say(void)"
        '{ if (write(2, "PRELOADED\\n", 10)) {} }\n'
    )
    library = directory / "preloaded.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-nostdlib", "-o", library, source], check=True)
    more = "RUN echo /evil/preloaded.so > /etc/ld.so.preload\n" if preload else ""
    (directory / "Dockerfile").write_text(
        f"FROM {base}\nCOPY preloaded.so /evil/preloaded.so\n"
        f"RUN echo \"print('PRELOADED')\" > /evil/sitecustomize.py\n{more}"
    )
    return _pushed(cluster, directory, "preload" if preload else "variables")


def with_link(cluster: Cluster, base: str, directory: Path) -> str:
    """An image whose /run/crannog leads elsewhere; pushed, its name."""
    (directory / "root" / "run").mkdir(parents=True)
    (directory / "root" / "evil").mkdir()
    (directory / "root" / "run" / "crannog").symlink_to("/evil")
    (directory / "Dockerfile").write_text(f"FROM {base}\nCOPY root /\n")
    return _pushed(cluster, directory, "link")


def with_own_launcher(cluster: Cluster, base: str, launcher: str, directory: Path) -> str:
    """An image that brings the launcher itself; pushed, its name."""
    (directory / "Dockerfile").write_text(
        f"FROM {base}\nCOPY --from={launcher} /crannog /crannog\n"
    )
    return _pushed(cluster, directory, "own-launcher")


def _pushed(cluster: Cluster, directory: Path, name: str) -> str:
    full = f"{cluster.registry}/{RUN}/{name}:1"
    cluster.engine.build(directory, full)
    cluster.push_tagged(full)
    return full
