"""`crannog image encrypt` with each engine: section 5 of the tutorial in one command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from crannog.session.load import load_session
from tests.containers.platform import ReachablePlatform
from tests.containers.registry import Registry
from tests.containers.rig import Engine

MARKER = "PLAIN-CONTENT-THAT-NOBODY-MAY-SEE"
PROGRAM = f"""\
# {MARKER}
import os, sys
from pathlib import Path
print(Path("/app/data/note").read_text(), sorted(os.listdir("/app")), os.environ["GREETING"])
"""
SESSION = """\
name: {name}   # a name of this test
version: "0.2"

services:
   - name: application
     mrenclaves: [$MRENCLAVE]
     command: python3 /app/server.py
     pwd: /
     environment:
        GREETING: hello
"""


@pytest.fixture(scope="session")
def plain(
    engine: Engine,
    curated_image: str,
    image_prefix: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    """An image with the program in plain; a copy of it lies in a layer that a later one hides."""
    context = tmp_path_factory.mktemp("plain")
    (context / "app" / "data").mkdir(parents=True)
    (context / "app" / "server.py").write_text(PROGRAM)
    (context / "app" / "data" / "note").write_text(f"the note, {MARKER}")
    (context / "Dockerfile").write_text(
        f"FROM {curated_image}\n"
        "COPY app /src\n"
        "RUN cp -r /src /app && rm -r /src && echo kept > /opt/kept && chmod 0640 /opt/kept\n"
        'CMD ["python3", "/app/server.py"]\n'
    )
    return engine.build(context, f"{image_prefix}plain:1", "--no-cache")


class Encrypting:
    """Runs the command in a directory of its own."""

    def __init__(self, engine: Engine, path: Path) -> None:
        self.engine = engine
        self.path = path
        self.session = path / "session.yaml"
        self.session.write_text(SESSION.format(name=f"encrypt-{path.name}-{engine.name}"))

    def __call__(
        self, source: str, tag: str, *arguments: str, status: int = 0, engine: str = ""
    ) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "crannog", "image", "encrypt", source, "--tag", tag]
        if not any(argument.startswith("--output") for argument in arguments):
            command += ["--engine", engine or self.engine.name]
        done = subprocess.run(
            [*command, "--encrypt", "/app", *arguments],
            cwd=self.path,
            env={**os.environ, "HOME": str(self.path)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == status, done.stderr
        assert "Traceback" not in done.stderr
        return done

    @property
    def key(self) -> str:
        text = self.session.read_text().replace("$MRENCLAVE", "0" * 64)
        fspf = load_session(text.encode()).session.services[0].fspf
        assert fspf is not None
        return fspf.key


@pytest.fixture
def encrypt(engine: Engine, tmp_path: Path) -> Encrypting:
    """The command, with a session file."""
    return Encrypting(engine, tmp_path)


@pytest.fixture
def tag(engine: Engine, image_prefix: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A name for the new image, which goes with the test."""
    name = f"{image_prefix}encrypted:{zlib.crc32(request.node.name.encode())}"
    yield name
    engine.call("rmi", "--force", name, check=False)


def attested(
    engine: Engine, platform: ReachablePlatform, encrypt: Encrypting, image: str
) -> subprocess.CompletedProcess[str]:
    """Measure the image, create the session as the command's output says, and run it."""
    found = engine.run(image, options=("--env=SCONE_HASH=1",)).stdout.strip()
    platform.create_session(encrypt.session.read_text().replace("$MRENCLAVE", found))
    name = f"encrypt-{encrypt.path.name}-{engine.name}/application"
    return engine.run(image, options=(*platform.options(engine, name), *engine.hardened))


def shipped(engine: Engine, image: str, path: Path) -> bytes:
    """Every byte of every layer and document of an image, decompressed."""
    engine.call("save", "--output", str(path), image)
    found = path.read_bytes()
    with tarfile.open(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            data = file.read() if file is not None else b""
            if data.startswith(b"\x1f\x8b"):
                found += zlib.decompressobj(31).decompress(data)
    return found


def test_the_encrypted_image_runs_attested_and_holds_no_plain_file(
    engine: Engine, platform: ReachablePlatform, encrypt: Encrypting, plain: str, tag: str
) -> None:
    done = encrypt(plain, tag, "--session", "session.yaml")
    assert done.stdout == f"{tag}\n"
    assert encrypt.key not in done.stdout + done.stderr
    for line in (f"{engine.name} push {tag}", "crannog session create session.yaml"):
        assert line in done.stderr

    ran = attested(engine, platform, encrypt, tag)
    assert ran.stdout == f"the note, {MARKER} ['data', 'server.py'] hello\n"

    assert MARKER.encode() in shipped(engine, plain, encrypt.path / "plain.tar")
    found = shipped(engine, tag, encrypt.path / "encrypted.tar")
    for secret in (MARKER.encode(), encrypt.key.encode(), bytes.fromhex(encrypt.key)):
        assert secret not in found
    for told in (
        engine.call("history", "--no-trunc", tag).stdout,
        engine.call("inspect", tag).stdout,
        engine.run(tag, "sh", "-c", "cat /app/server.py /app/data/note /fspf.pb | tr -d '\\0'"),
    ):
        text = told if isinstance(told, str) else told.stdout
        assert MARKER not in text
        assert encrypt.key not in text


@pytest.mark.one_engine
def test_the_measurement_and_the_other_layers_stay(
    engine: Engine, encrypt: Encrypting, plain: str, curated_image: str, tag: str
) -> None:
    encrypt(plain, tag, "--session", "session.yaml")
    hashes = {engine.run(image, options=("--env=SCONE_HASH=1",)).stdout for image in (plain, tag)}
    assert len(hashes) == 1
    below = engine.inspect(curated_image)["RootFS"]["Layers"]
    assert engine.inspect(tag)["RootFS"]["Layers"][: len(below)] == below
    assert engine.run(tag, "stat", "-c", "%a", "/opt/kept").stdout == "640\n"
    assert engine.run(tag, "ls", "/app").stdout.split() == ["data", "server.py"]


def test_the_encrypted_image_through_a_registry(
    engine: Engine,
    platform: ReachablePlatform,
    encrypt: Encrypting,
    registry: Registry,
    plain: str,
    tag: str,
) -> None:
    assert tag.startswith(registry.address)
    encrypt(plain, tag, "--session", "session.yaml")
    engine.call("push", tag)
    engine.call("rmi", "--force", tag)
    engine.call("pull", tag)
    ran = attested(engine, platform, encrypt, tag)
    assert ran.stdout.startswith(f"the note, {MARKER}")


def test_a_layout_and_back_into_the_engine(
    engine: Engine, platform: ReachablePlatform, encrypt: Encrypting, plain: str, tag: str
) -> None:
    # From what `save` wrote to an archive, without an engine, and loaded.
    saved = encrypt.path / "saved.tar"
    engine.call("save", "--output", str(saved), plain)
    archive = encrypt.path / "new.tar"
    encrypt(f"docker-archive:{saved}", tag, "--output", str(archive), "--session", "session.yaml")
    engine.call("load", "--input", str(archive))
    assert attested(engine, platform, encrypt, tag).stdout.startswith("the note")
    # And as a layout, whose members any tool can read.
    encrypt(f"docker-archive:{saved}", tag, "--output", str(encrypt.path / "layout"))
    index = json.loads((encrypt.path / "layout" / "index.json").read_text())
    assert index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"] == tag


def test_a_tag_that_is_there_is_not_replaced_unless_told(
    engine: Engine, encrypt: Encrypting, plain: str, tag: str
) -> None:
    engine.call("tag", plain, tag)
    before = encrypt.session.read_bytes()
    done = encrypt(plain, tag, "--session", "session.yaml", status=1)
    assert f"has an image {tag} already" in done.stderr
    assert "--force" in done.stderr
    assert encrypt.session.read_bytes() == before
    assert engine.inspect(tag)["Id"] == engine.inspect(plain)["Id"]
    encrypt(plain, tag, "--session", "session.yaml", "--force")
    assert engine.inspect(tag)["Id"] != engine.inspect(plain)["Id"]


@pytest.mark.one_engine
def test_a_keytag_that_the_tutorial_left_is_refused(
    engine: Engine, encrypt: Encrypting, plain: str, image_prefix: str, tag: str
) -> None:
    line = "Encrypted file system protection file fspf.pb AES-GCM tag: {} key: {}"
    text = line.format("0a" * 16, "0b" * 32)
    # Two builds, since some builders make one layer of two commands.
    shipped_one = engine.build_text(
        f"{image_prefix}keytag:1", f"FROM {plain}\nRUN echo '{text}' > /app/keytag\n"
    )
    source = engine.build_text(
        f"{image_prefix}keytag:2", f"FROM {shipped_one}\nRUN rm /app/keytag\n"
    )
    before = encrypt.session.read_bytes()
    done = encrypt(source, tag, "--session", "session.yaml", status=78)
    assert "/app/keytag" in done.stderr
    assert "Hint: " in done.stderr
    assert "0b0b" not in done.stderr
    assert encrypt.session.read_bytes() == before
    assert engine.call("image", "inspect", tag, check=False).returncode != 0


def test_an_image_that_is_not_there(engine: Engine, encrypt: Encrypting, tag: str) -> None:
    done = encrypt("no-such-image:1", tag, status=1)
    assert f"{engine.name} has no image no-such-image:1" in done.stderr


@pytest.mark.one_engine
def test_an_image_is_not_encrypted_twice(
    engine: Engine, encrypt: Encrypting, plain: str, tag: str
) -> None:
    encrypt(plain, tag, "--session", "session.yaml")
    first = encrypt.session.read_bytes()
    done = encrypt(tag, f"{tag}-2", "--session", "session.yaml", status=1)
    assert "by this command already" in done.stderr
    assert encrypt.session.read_bytes() == first


@pytest.mark.parametrize("engine", ["podman"], indirect=True)  # its store is Buildah's too
def test_buildah_stores_what_podman_runs(
    engine: Engine, encrypt: Encrypting, plain: str, tag: str
) -> None:
    if not any(os.access(f"{path}/buildah", os.X_OK) for path in os.get_exec_path()):
        pytest.skip("no program buildah")
    encrypt(plain, tag, "--session", "session.yaml", engine="buildah")
    assert engine.run(tag, "ls", "/app").stdout.split() == ["data", "server.py"]
