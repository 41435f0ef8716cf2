"""The commands of docs/containers.md do what it says, in its order, with every engine.

Only names are exchanged: the images for those of this run, names of containers, volumes and the
node's directory for ones of our own, the ports and the host's address for free and right ones.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.containers.registry import free_port
from tests.containers.rig import RUN, Engine
from tests.tutorial.seed import PROJECT

GUIDE = PROJECT / "docs" / "containers.md"
OURS = ("cas", "las", "hello", "encrypted", "any", "copy")
_BLOCK = re.compile(
    r"<!-- executed by tests/containers/test_guide.py(?:: (\w+)|, last)? -->\n```bash\n(.*?)```",
    re.DOTALL,
)


def blocks(engine: Engine) -> list[str]:
    """The blocks for this engine."""
    found = _BLOCK.findall(GUIDE.read_text())
    return [block for only, block in found if only in ("", engine.name)]


@dataclass(frozen=True, slots=True)
class Guide:
    """The page's blocks by their first words, and where they run."""

    engine: Engine
    directory: Path
    node: Path
    names: dict[str, str]
    ports: dict[str, int]

    def run(self, holds: str) -> subprocess.CompletedProcess[str]:
        """Run the one block that holds this text."""
        (block,) = [block for block in blocks(self.engine) if holds in block]
        return self.bash(block)

    def bash(self, block: str, *, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run commands as the page's."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", self._ours(block)],
            cwd=self.directory,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "HOME": str(self.directory),
                "HOST": self.engine.gateway,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def _ours(self, text: str) -> str:
        text = re.sub(r"(?m)(^|[\s$(])docker(?= [a-z]|$)", rf"\1{self.engine.name}", text)
        for image, name in self.names.items():
            text = re.sub(rf"(?<![\w/.-]){re.escape(image)}(?![\w/])", name, text)
        text = re.sub(rf"\bcrannog-({'|'.join(OURS)})\b", rf"{RUN}-\1", text)
        text = text.replace("/opt/crannog-node", str(self.node))
        text = text.replace("172.17.0.1", self.engine.gateway)
        for port, free in self.ports.items():
            text = text.replace(f"{port}:{port}", f"{free}:{port}")
        text = text.replace("attest localhost", f"attest localhost:{self.ports['8081']}")
        text = text.replace("CAS_ADDR=$HOST", f"CAS_ADDR=$HOST:{self.ports['18765']}")
        return text.replace("LAS_ADDR=$HOST", f"LAS_ADDR=$HOST:{self.ports['18766']}")


@pytest.fixture(scope="module")
def guide(
    engine: Engine,
    base_image: str,
    launcher_image: str,
    curated_image: str,
    cas_image: str,
    las_image: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Guide]:
    if os.geteuid() != 0:
        pytest.skip("a node's launcher and LAS belong to root")
    node = Path(tempfile.mkdtemp(prefix=f"{RUN}-", dir="/var/lib"))
    node.chmod(0o755)
    names = {
        "debian:bookworm-slim": base_image,
        "crannog/launcher": launcher_image,
        "crannog/python": curated_image,
        "crannog/cas": cas_image,
        "crannog/las": las_image,
    }
    ports = {port: free_port(int(port)) for port in ("8081", "18765", "18766")}
    try:
        yield Guide(engine, tmp_path_factory.mktemp("guide"), node, names, ports)
    finally:
        for name in OURS:
            engine.call("rm", "--force", "--volumes", f"{RUN}-{name}", check=False)
            engine.call("volume", "rm", "--force", f"{RUN}-{name}", check=False)
        shutil.rmtree(node, ignore_errors=True)


@pytest.fixture(scope="module")
def platform_of_the_guide(guide: Guide) -> None:
    """CAS and LAS as the page starts them."""
    guide.run("docker volume create")


Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def ordinary(guide: Guide, platform_of_the_guide: None) -> Done:
    return guide.run("app/hello.py <<")


@pytest.fixture(scope="module")
def attested(guide: Guide, ordinary: Done) -> Done:
    return guide.run("cat > session.yaml")


@pytest.fixture(scope="module")
def encrypted(guide: Guide, attested: Done) -> Done:
    return guide.run("crannog image encrypt")


@pytest.fixture(scope="module")
def other(guide: Guide, platform_of_the_guide: None) -> Done:
    return guide.run("Dockerfile.any")


@pytest.fixture(scope="module")
def node_of_the_guide(guide: Guide, ordinary: Done) -> None:
    guide.run("crannog-copy:")
    guide.run("--pid=host")
    guide.run("cas launcher add")


def test_an_ordinary_start(ordinary: Done) -> None:
    assert ordinary.stdout.splitlines()[-1] == "greeting: howdy of the host: None"


def test_an_attested_start(attested: Done) -> None:
    lines = attested.stdout.splitlines()
    assert lines[-1] == "greeting: hello from the session of the host: None"
    assert "simulation" in attested.stderr


def test_exec_is_a_second_attested_program(guide: Guide, attested: Done) -> None:
    done = guide.bash(
        "docker run --detach --name crannog-any --env SCONE_CAS_ADDR=$HOST"
        " --env SCONE_LAS_ADDR=$HOST --env SCONE_CONFIG_ID=hello/application crannog-hello"
        " sleep 600\n"
        "docker exec crannog-any python3 -c 'print(1)'\n"
        "docker rm --force crannog-any"
    )
    assert "greeting: hello from the session of the host: None" in done.stdout.splitlines()


def test_an_encrypted_image(encrypted: Done) -> None:
    lines = encrypted.stdout.splitlines()
    assert "greeting: hello from the session of the host: None" in lines
    assert not any("i   m   p   o   r   t" in line for line in lines)


def test_a_las_without_records_says_why(guide: Guide, platform_of_the_guide: None) -> None:
    log = guide.bash("docker logs crannog-las 2>&1").stdout
    assert re.search(r"level simulation only: \w+", log)


def test_any_other_image(other: Done) -> None:
    lines = other.stdout.splitlines()
    assert re.fullmatch("[0-9a-f]{64}", lines[-2])
    assert lines[-1] == "an ordinary start"


def test_level_node(guide: Guide, node_of_the_guide: None) -> None:
    done = guide.run("cat > node.yaml")
    assert done.stdout.splitlines()[-1] == "greeting: hello at level node of the host: None"
    # Without the mounts it is another level, and refused with what it is.
    refused = guide.bash(
        "docker run --rm --env SCONE_CAS_ADDR=$HOST --env SCONE_LAS_ADDR=$HOST"
        " --env SCONE_CONFIG_ID=hello-node/application crannog-hello python3",
        check=False,
    )
    assert refused.returncode == 78
    assert "greeting" not in refused.stdout
    assert "Trust level is simulation" in refused.stderr
    assert "Expected at least node" in refused.stderr


def test_the_level_is_changed_and_then_all_is_removed(
    guide: Guide, encrypted: Done, other: Done, node_of_the_guide: None
) -> None:
    guide.run("set-minimum-level")
    guide.bash(
        "for turn in $(seq 300); do docker logs crannog-cas 2>&1 | grep -q 'level is node' && exit;"
        " sleep 0.2; done; docker logs crannog-cas; exit 1"
    )
    guide.run("docker volume rm")
    assert not guide.node.exists()


def test_images_are_made_as_the_page_says() -> None:
    done = subprocess.run(
        ["make", "--dry-run", "images", "ENGINE=podman", "BASE=debian-python:bookworm"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "images.build --engine podman --base debian-python:bookworm" in done.stdout


def test_every_message_of_the_page_is_one_of_ours() -> None:
    sources = "\n".join(
        re.sub(r'"\s*\n\s*f?"', "", path.read_text())
        for place in ("src", "images")
        for path in (PROJECT / place).rglob("*.py")
    )
    table = GUIDE.read_text().partition("## When it does not work")[2]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")][1:]
    messages = [found for row in rows for found in re.findall("`([^`]+)`", row)]
    foreign = ("address already in use", "port is already allocated", "setrlimit")
    ours = [text for text in messages if not text.startswith(foreign) and " " in text]
    assert len(ours) > 8
    for message in ours:
        for part in re.split(r"\s*…\s*|permission denied", message):  # that is the kernel's
            assert part in sources, message
