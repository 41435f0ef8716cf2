"""A real image registry on localhost: Debian's docker-registry."""

from __future__ import annotations

import socket
import subprocess
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from tests.containers.rig import RUN, Engine

SETTINGS = """\
version: 0.1
log: {{level: warn}}
storage:
  filesystem: {{rootdirectory: {directory}}}
  delete: {{enabled: true}}
http:
  addr: "127.0.0.1:{port}"
  headers: {{X-Run: ["{run}"]}}
"""


@dataclass(frozen=True, slots=True)
class Registry:
    """A registry that runs; `address` is what an image's name begins with."""

    address: str

    def push(self, engine: Engine, image: str, name: str) -> str:
        """Push `image` by a name in this registry that the engine does not keep; the name."""
        full = f"{self.address}/{name}"
        engine.call("tag", image, full)
        engine.call("push", full)
        engine.call("rmi", full)
        return full


def start(directory: Path, port: int) -> subprocess.Popen[bytes]:
    """Start it with its storage in `directory`; it answers when this returns."""
    settings = directory / "registry.yml"
    settings.write_text(SETTINGS.format(directory=directory / "storage", port=port, run=RUN))
    with (directory / "registry.log").open("wb") as log:
        process = subprocess.Popen(
            ["docker-registry", "serve", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/", timeout=5) as answer:
                if answer.headers["X-Run"] == RUN:  # and not somebody else's registry
                    return process
            raise OSError("another registry answers")
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                process.kill()
                process.wait()
                raise AssertionError((directory / "registry.log").read_text()) from None
            time.sleep(0.05)  # it says nowhere when it is ready


def free_port(wanted: int = 0) -> int:
    """`wanted`, or another port of the loopback interface where that is 0 or taken."""
    for port in (wanted, 0):
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(listener.getsockname()[1])
    raise AssertionError("no free port")
