"""The tutorial as it is written, in order, on a real cluster: `docker`, `kubectl`, `curl` as well.

Set are the registry's address before the images' names and the CAS's address, nothing else. Left
out are the blocks that fetch the finished script and install the device plugin, which the session
did before. What a person does in a second terminal (a port-forward) is done there, and what is
typed in a container's shell is typed there.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pexpect
import pytest

from tests.cluster.outside import OutsideCas
from tests.cluster.rig import Cluster
from tests.cluster.tutorial import terminal, text_for
from tests.tutorial.seed import Reply, bash_blocks, block_with, replies

NAMESPACE = "hello-scone"
LEFT_OUT = ("git clone", "./run_hello_world.sh", "helm install")
ATTESTED = (
    "attested-hello-world",
    "attested-hello-world-tls-certs",
    "attested-hello-world-tls",
)
FORWARD = re.compile(r"^kubectl port-forward svc/(\S+) \d+:\d+ -n hello-scone\n$")
SHELL_PROMPT = "[#$] "
SECONDS = 300
# Kubernetes deletes a namespace's pods 5 s after it was asked to, and looks again 5 s later: with
# pods that stop at once it takes 10 to 11 s (test_goodbye.py measures our part), a third look 21.
TWO_LOOKS = 15


class Forwards:
    """The port-forwards of a second terminal, each begun again when it has ended."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._running: list[subprocess.Popen[str]] = []

    def open(self, block: str, reply: Reply) -> None:
        """Run the tutorial's block until the program behind it has answered once."""
        found = FORWARD.match(block)
        assert found is not None
        self._cluster.wait_ready(NAMESPACE, f"deployment/{found[1]}", seconds=SECONDS)
        process = self._start(block)

        def answered() -> bool:
            nonlocal process
            if process.poll() is not None:  # nothing listened in the pod yet
                process = self._start(block)
            return not self._cluster.user(["bash", "-c", reply.command], check=False).returncode

        self._cluster.wait(answered, reply.command, seen=lambda: self._cluster.describe(NAMESPACE))

    def _start(self, block: str) -> subprocess.Popen[str]:
        process = self._cluster.start_user(["bash", "-c", f"exec {block}"])
        self._running.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("Forwarding from"), line + (process.stdout.read() or "")
        return process

    def close(self) -> None:
        """End them all."""
        for process in self._running:
            process.terminate()
            process.communicate(timeout=30)


@pytest.fixture
def forwards(cluster: Cluster) -> Iterator[Forwards]:
    forwards = Forwards(cluster)
    yield forwards
    forwards.close()


@pytest.fixture
def tutorial(cluster: Cluster, cluster_images: Mapping[str, str], outside_cas: OutsideCas) -> str:
    """The text with this cluster's addresses, and the images that it names pushed."""
    return text_for(cluster, cluster_images, outside_cas.address)


@pytest.fixture
def nothing_there(cluster: Cluster) -> Iterator[None]:
    """No namespace of the tutorial's name before, and none afterwards."""
    cluster.leave_alone((f"namespace/{NAMESPACE}", ""))
    delete = ("delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait=true")
    cluster.kubectl(*delete)
    yield
    cluster.kubectl(*delete, timeout=180)


def _script(blocks: list[str], typed: list[str]) -> tuple[str, list[Reply], list[str]]:
    """The blocks as one script, in order; where a second terminal is needed it waits for Enter."""
    lines = ["set -euo pipefail"]
    expected: list[Reply] = []
    forwards: list[str] = []
    for number, block in enumerate(blocks):
        if block in typed or any(mark in block for mark in LEFT_OUT):
            continue
        lines.append(f"echo 'BLOCK {number}'")
        if FORWARD.match(block):
            lines += [f"echo 'SECOND TERMINAL' {len(forwards)}", "read -r"]
            forwards.append(block)
        elif replies(block):
            for reply in replies(block):
                lines.append(f"{reply.command} > $REPLIES/reply.{len(expected)}")
                expected.append(reply)
        elif block.startswith("kubectl delete namespace"):
            lines += ["echo 'BEFORE THE END'", "read -r", block]
        else:
            lines.append(block)
    lines.append("echo 'ALL BLOCKS'")
    return "\n".join(lines), expected, forwards


@pytest.mark.usefixtures("plugin", "nothing_there")
def test_the_tutorial_as_it_is_written(
    cluster: Cluster,
    tutorial: str,
    outside_cas: OutsideCas,
    forwards: Forwards,
    tmp_path: Path,
) -> None:
    blocks = bash_blocks(tutorial)
    typed = [block_with(blocks, "scone fspf create"), block_with(blocks, "$ cat server-tls.py")]
    script, expected, forwarded = _script(blocks, typed)
    assert (len(expected), len(forwarded)) == (4, 4)
    (tmp_path / "tutorial.sh").write_text(script)

    with (tmp_path / "terminal.log").open("w") as log:
        command = [*cluster.within, "bash", str(tmp_path / "tutorial.sh")]
        shell = pexpect.spawn(
            command[0],
            command[1:],
            cwd=tmp_path,
            env=terminal(cluster, tmp_path),
            encoding="utf-8",
            codec_errors="replace",
            timeout=SECONDS,
            logfile=log,
        )
        try:
            for number, (block, reply) in enumerate(zip(forwarded, expected, strict=True)):
                if number == 3:
                    _type(shell, typed)
                shell.expect(f"SECOND TERMINAL {number}\r\n")
                forwards.open(block, reply)
                shell.sendline()
            shell.expect("BEFORE THE END")
            logs = {
                name: cluster.kubectl("logs", f"deployment/{name}", "-n", NAMESPACE).stdout
                for name in ATTESTED
            }
            las = cluster.kubectl("logs", "daemonset/local-attestation", "-n", NAMESPACE).stdout
            started = time.monotonic()
            shell.sendline()
            shell.expect("ALL BLOCKS")
            deleted = time.monotonic() - started
            shell.expect(pexpect.EOF)
        except pexpect.ExceptionPexpect as error:
            raise AssertionError((tmp_path / "terminal.log").read_text()[-6000:]) from error
        finally:
            shell.close(force=True)
    assert shell.exitstatus == 0

    for number, reply in enumerate(expected):
        assert (tmp_path / f"reply.{number}").read_text() == reply.output
    for name, text in logs.items():
        assert "at level simulation" in text, f"{name}: {text}"
    (session,) = tmp_path.glob("tmp.*/namespace.yaml")
    name = session.read_text().split()[1]
    received = re.findall(rf"config id {name}~(\S+)/application level=(\S+) ", outside_cas.log())
    assert {level for _, level in received} == {"simulation"}
    assert len({service for service, _ in received}) == len(ATTESTED)
    assert "LAS is listening on 0.0.0.0:18766" in las
    assert "level simulation only" in las
    assert deleted < TWO_LOOKS, f"kubectl delete namespace took {deleted:.1f} s"
    _assert_encrypted(tmp_path)


def _type(shell: pexpect.spawn[str], blocks: list[str]) -> None:
    """Type the tutorial's lines into the container's shell."""
    shell.expect(SHELL_PROMPT)
    protect, look = blocks
    for line in protect.splitlines():
        shell.sendline(line)
        shell.expect(SHELL_PROMPT)
    for command in re.findall(r"^\$ (.*)$", look, re.MULTILINE):
        shell.sendline(f"{command}; echo E''ND")
        shell.expect("END")
        shown = shell.before or ""
        assert "server-tls.py" in shown
        assert "HTTPServer" not in shown
    shell.sendline("exit")


def _assert_encrypted(directory: Path) -> None:
    (work,) = directory.glob("tmp.*")
    plain = (work / "app" / "server-tls.py").read_bytes()
    encrypted = (work / "app_image" / "app" / "server-tls.py").read_bytes()
    assert len(encrypted) == len(plain)
    assert b"HTTPServer" not in encrypted
