"""A node for the tests: the launcher's directory and a LAS with a socket, as the chart brings them.

Both lie in a directory of root's outside the temporary ones, since a directory that anybody may
write above them would be a hole.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.containers.rig import RUN, is_dead

CRANNOG = (sys.executable, "-m", "crannog")
ENTRY = "/run/crannog/launcher/run"
ROOT = Path("/var/lib")


@dataclass(frozen=True, slots=True)
class Node:
    """A node whose LAS runs.

    Attributes:
        launcher: the launcher's directory on the node.
        socket: the directory of the LAS's socket.
        key: the LAS's public key in hex, to enrol at a CAS.
        log_file: what the LAS writes.
    """

    launcher: Path
    socket: Path
    key: str
    log_file: Path

    @property
    def mounts(self) -> tuple[str, ...]:
        """The options of `run` that bring the launcher and the socket into a container."""
        return (
            f"--volume={self.launcher}:/run/crannog/launcher:ro",
            f"--volume={self.socket}:/run/crannog/las:ro",
        )

    def log(self) -> str:
        """What the LAS logged so far."""
        return self.log_file.read_text(errors="replace")


@contextmanager
def running_node(launcher: Path, *arguments: str) -> Iterator[Node]:
    """Install a copy of `launcher` as root's, and run a LAS that knows it, with more options."""
    root = Path(tempfile.mkdtemp(prefix=f"{RUN}-", dir=ROOT))
    try:
        root.chmod(0o755)
        installed = root / "launcher"
        subprocess.run(["cp", "-a", "--no-preserve=ownership", launcher, installed], check=True)
        sockets = root / "las"
        sockets.mkdir(mode=0o755)
        log = root / "las.log"
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [
                    *CRANNOG,
                    *("las", "serve", "--listen", "none"),
                    *("--socket", str(sockets / "socket")),
                    *("--state-directory", str(root / "state")),
                    *("--launcher", str(installed)),
                    *arguments,
                ],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        try:
            yield Node(installed, sockets, _key(process, sockets / "socket", log), log)
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    finally:
        shutil.rmtree(root)


def remove_dead() -> None:
    """Remove the directories of nodes whose process was killed."""
    for directory in ROOT.glob("crannog-test-*"):
        if is_dead(directory.name.rpartition("-")[0]):
            shutil.rmtree(directory, ignore_errors=True)


def _key(process: subprocess.Popen[bytes], socket: Path, log: Path) -> str:
    deadline = time.monotonic() + 30
    while not socket.exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the LAS did not start: {log.read_text(errors='replace')}")
        time.sleep(0.05)  # the socket's name is how it says that it is ready
    done = subprocess.run(
        [*CRANNOG, "las", "probe", "--las", f"unix:{socket}", "--json"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    return str(json.loads(done.stdout)["public_key"])
