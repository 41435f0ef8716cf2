"""The tutorial as it is written, in order, against a real registry: `docker` is Docker, or Podman.

Set are the registry's address before the images' names, the CAS's address, and the LAS's where
this machine does not have the tutorial's 172.17.0.1. `kubectl` is the stand-in of
`tests/containers/kubectl.py`. Left out are the blocks that fetch the finished script and install
the device plugin. What the tutorial types in a container's shell is typed there, on a terminal.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pexpect
import pytest

from tests.containers.kubectl import Cluster
from tests.containers.platform import ReachablePlatform
from tests.containers.podman import SETTINGS, write_docker_shim
from tests.containers.registry import Registry
from tests.containers.rig import LABEL, RUN, Engine
from tests.tutorial.seed import PROJECT, Reply, bash_blocks, block_with, replies, seed_text

LAS = "172.17.0.1"
PORTS = (8080, 8081, 8082, 8083, 8084, 18765, 18766)
LEFT_OUT = ("git clone", "./run_hello_world.sh", "helm install")
SHELL_PROMPT = "[#$] "


@pytest.fixture
def cas(tmp_path: Path) -> Iterator[ReachablePlatform]:
    """A CAS on the tutorial's ports; its LAS is not used."""
    for port in PORTS:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("0.0.0.0", port))
            except OSError:
                pytest.skip(f"port {port} of the tutorial is taken on this machine")
    running = ReachablePlatform(tmp_path, ports=(8081, 18765, 0))
    with running:
        yield running


@pytest.fixture
def path(engine: Engine, curated_image: str, registry: Registry, tmp_path: Path) -> Iterator[str]:
    """A PATH with `docker` and `kubectl` of this test; what they left is removed."""
    programs = tmp_path / "bin"
    programs.mkdir()
    if engine.name == "podman":
        write_docker_shim(programs)
    kubectl = programs / "kubectl"
    kubectl.write_text(
        f'#!/bin/sh\nPYTHONPATH={PROJECT} exec {sys.executable} -m tests.containers.kubectl "$@"\n'
    )
    kubectl.chmod(0o755)
    # Podman's network, and with it the address of the CAS, is there while a container is in it.
    with engine.container(curated_image, "sleep", "3600"):
        yield f"{programs}:{os.environ['PATH']}"
    cluster = Cluster(tmp_path)
    for process in cluster.state["forwards"]:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)
    engine.remove(*(pod["id"] for pod in cluster.state["pods"]))
    names = engine.listed("image", "--format", "{{.Repository}}:{{.Tag}}").split()
    ours = [name for name in names if name.startswith(f"{registry.address}/sconecurated")]
    engine.call("rmi", "--force", *(name for name in ours if "<none>" not in name), check=False)


def _addresses(text: str, engine: Engine, registry: Registry) -> str:
    """The tutorial with this machine's addresses, and nothing else changed."""
    text, images = re.subn(
        r"(?<=[ =])sconecuratedimages/", f"{registry.address}/sconecuratedimages/", text
    )
    text, addresses = re.subn(
        r"^export SCONE_CAS_ADDR=\S+$",
        f"export SCONE_CAS_ADDR={engine.gateway}",
        text,
        flags=re.MULTILINE,
    )
    assert (images, addresses) == (5, 1)
    if not _is_ours(LAS):
        text = text.replace(f"value: {LAS}", f"value: {engine.gateway}")
        text = text.replace(f'value: "{LAS}"', f'value: "{engine.gateway}"')
    return text


def _is_ours(address: str) -> bool:
    with socket.socket() as listener:
        try:
            listener.bind((address, 0))
        except OSError:
            return False
    return True


def _script(blocks: list[str], typed: list[str]) -> tuple[str, list[Reply]]:
    """The blocks as one script, in order; a marker before the shell that `typed` is typed into."""
    lines = ["set -euo pipefail"]
    expected: list[Reply] = []
    for number, block in enumerate(blocks):
        if block in typed or any(mark in block for mark in LEFT_OUT):
            continue
        lines.append(f"echo 'BLOCK {number}'")
        for reply in replies(block):
            lines.append(f"{reply.command} > $KUBECTL_STATE/reply.{len(expected)}")
            expected.append(reply)
        if not replies(block):
            lines.append(block)
    lines.append("echo 'ALL BLOCKS'")
    return "\n".join(lines), expected


def test_the_tutorial_as_it_is_written(
    engine: Engine,
    curated_image: str,
    las_image: str,
    registry: Registry,
    cas: ReachablePlatform,
    path: str,
    tmp_path: Path,
) -> None:
    text = _addresses(seed_text(), engine, registry)
    blocks = bash_blocks(text)
    for image, mark in ((curated_image, "export BASE_IMAGE"), (las_image, "kind: DaemonSet")):
        found = re.search(rf"{registry.address}/(\S+)", block_with(blocks, mark))
        assert found is not None
        registry.push(engine, image, found[1])
    typed = [block_with(blocks, "scone fspf create"), block_with(blocks, "$ cat server-tls.py")]
    script, expected = _script(blocks, typed)
    assert len(expected) == 4
    (tmp_path / "tutorial.sh").write_text(script)

    environment = {
        "PATH": path,
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
        "KUBECTL_STATE": str(tmp_path),
        "KUBECTL_RUN_OPTIONS": json.dumps([f"--label={LABEL}={RUN}", *engine.limits]),
        **{name: os.environ[name] for name in SETTINGS if name in os.environ},
    }
    with (tmp_path / "terminal.log").open("w") as log:
        shell = pexpect.spawn(
            "bash",
            [str(tmp_path / "tutorial.sh")],
            cwd=tmp_path,
            env=environment,
            encoding="utf-8",
            codec_errors="replace",
            timeout=180,
            logfile=log,
        )
        try:
            _type(shell, typed)
            shell.expect("ALL BLOCKS")
            shell.expect(pexpect.EOF)
        except pexpect.ExceptionPexpect as error:
            raise AssertionError((tmp_path / "terminal.log").read_text()[-6000:]) from error
        finally:
            shell.close(force=True)
    assert shell.exitstatus == 0

    for number, reply in enumerate(expected):
        assert (tmp_path / f"reply.{number}").read_text() == reply.output
    terminal = (tmp_path / "terminal.log").read_text()
    assert len(re.findall(r'\{"hash":"[0-9a-f]{64}"', terminal)) == 4
    (directory,) = tmp_path.glob("tmp.*")
    measured = re.findall(
        r"mrenclaves: \[([0-9a-f]{64})\]",
        "".join(path.read_text() for path in directory.glob("session*.yaml")),
    )
    assert (len(measured), len(set(measured))) == (3, 1)  # of the images 0.1, 0.2 and 0.3
    plain = (directory / "app" / "server-tls.py").read_bytes()
    encrypted = (directory / "app_image" / "app" / "server-tls.py").read_bytes()
    assert len(encrypted) == len(plain)
    assert b"HTTPServer" not in encrypted


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
