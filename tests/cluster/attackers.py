"""Programs and images of those who attack level node on a cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.cluster.node_las import LAUNCHER
from tests.cluster.rig import Cluster
from tests.cluster.vouched import Pod, World
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


# Away for a moment, so that whoever looks by name meets another file; then back, each time for
# longer: on a busy machine a start of the launcher takes longer than the first pauses, and fails.
RENAMING = """
import os, time
while not os.path.exists('/shared/crannog/launcher'):
    pass
pause = 0.2
while True:
    os.rename('/shared/crannog', '/shared/away')
    time.sleep(0.01)
    os.rename('/shared/away', '/shared/crannog')
    time.sleep(pause)
    pause = min(1.5 * pause, 20)
"""


class Images(NamedTuple):
    """Attackers' images, pushed: their names.

    Attributes:
        own_launcher: brings the launcher itself, in /crannog.
        link: its /run/crannog leads elsewhere.
        preload: its /etc/ld.so.preload names a library that says PRELOADED when it is loaded.
        variables: has that library in /evil for variables to name; None without a C compiler, as
            `preload`.
    """

    own_launcher: str
    link: str
    preload: str | None
    variables: str | None


def make_images(cluster: Cluster, base: str, launcher: str, directory: Path) -> Images:
    """Build and push them, over the image `base`; `launcher` is the image with the launcher."""
    (directory / "root" / "run").mkdir(parents=True)
    (directory / "root" / "evil").mkdir()
    (directory / "root" / "run" / "crannog").symlink_to("/evil")
    evil = (
        f"FROM {base}\nCOPY preloaded.so /evil/preloaded.so\n"
        "RUN echo \"print('PRELOADED')\" > /evil/sitecustomize.py\n"
    )
    texts = {
        "own-launcher": f"FROM {base}\nCOPY --from={launcher} /crannog /crannog\n",
        "link": f"FROM {base}\nCOPY root /\n",
    }
    if _compiled(directory):
        texts["variables"] = evil
        texts["preload"] = f"{evil}RUN echo /evil/preloaded.so > /etc/ld.so.preload\n"
    names = {}
    for name, text in texts.items():
        (directory / "Dockerfile").write_text(text)
        names[name] = f"{cluster.registry}/{RUN}/{name}:1"
        cluster.engine.build(directory, names[name])
        cluster.push_tagged(names[name])
    return Images(
        names["own-launcher"], names["link"], names.get("preload"), names.get("variables")
    )


def _compiled(directory: Path) -> bool:
    """Compile the library, where there is a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return False
    source = directory / "preloaded.c"
    source.write_text(
        "#include <unistd.h>\n"
        "__attribute__((constructor)) static void say(void)"
        '{ if (write(2, "PRELOADED\\n", 10)) {} }\n'
    )
    library = directory / "preloaded.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-nostdlib", "-o", library, source], check=True)
    return True


@contextmanager
def other_runtime(cluster: Cluster) -> Iterator[str]:
    """A runtime class whose handler is another one than the nodes' usual; its name.

    CRANNOG_TEST_RUNTIME_HANDLER names it, else `other`.
    """
    name = f"{RUN}-other"
    manifest = {
        "apiVersion": "node.k8s.io/v1",
        "kind": "RuntimeClass",
        "metadata": {"name": name},
        "handler": os.environ.get("CRANNOG_TEST_RUNTIME_HANDLER", "other"),
    }
    cluster.apply(json.dumps(manifest))
    try:
        yield name
    finally:
        cluster.kubectl("delete", "runtimeclass", name)


def log_of_other_runtime(world: World, pod: Pod) -> str:
    """The log of a pod of that class, once it has ended; skips where the nodes have no such one."""
    name = pod["metadata"]["name"]
    field = f"involvedObject.name={name}"

    def ended() -> bool:
        phase = world.cluster.get("pod", name, "-n", world.namespace)["status"].get("phase")
        return phase in ("Succeeded", "Failed")

    def unknown() -> bool:
        events = world.cluster.get("events", "-n", world.namespace, f"--field-selector={field}")
        return any("no runtime for" in one.get("message", "") for one in events["items"])

    world.cluster.wait(lambda: ended() or unknown(), f"{name} ends", seen=lambda: world.log(pod))
    if not ended():
        pytest.skip("containerd on these nodes has no other runtime")
    return world.log(pod)
