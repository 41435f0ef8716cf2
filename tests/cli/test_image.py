"""`crannog image encrypt` as a user sees it: lines, exit statuses, what is left on the disk."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from crannog.cli.main import run_cli
from tests.unit.image.support import MARKER, SESSION
from tests.unit.oci.images import Layout, entry, layer

KEY = "[0-9a-f]{64}"
# Answers like Docker, or like Podman under its name, and writes down how it was called.
ENGINE = """\
#!/bin/sh
cd "$(dirname "$0")"
echo "$@" >> called
case "$1 $2" in
--version*) echo "VERSION" ;;
info*) ;;
"image inspect") cat layers 2>/dev/null && exit; echo "Error: No such image: $5" >&2; exit 1 ;;
"image load") tar -x; config=$(sed 's/.*"Config":"\\([^"]*\\)".*/\\1/' manifest.json)
    sed 's/.*"diff_ids":\\(\\[[^]]*\\]\\).*/\\1/' "$config" > layers ;;
esac
"""


class Image:
    """Runs the command in this process, in a directory of its own."""

    def __init__(self, path: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.path = path
        self.stderr = ""
        self._capture = capture
        layout = Layout(path / "image")
        layout.add(
            [
                layer(entry("usr/bin/python3", b"python", mode=0o755)),
                layer(entry("app/", None), entry("app/server.py", MARKER)),
            ]
        )
        (path / "session.yaml").write_text(SESSION)

    def run(self, *arguments: str) -> tuple[int, str]:
        status = run_cli(["image", "encrypt", *arguments], program="crannog")
        out, self.stderr = self._capture.readouterr()
        assert "Traceback" not in self.stderr
        return status, out

    def ok(self, *arguments: str) -> str:
        status, out = self.run("oci:image", "--encrypt", "/app", "--tag", "app:2", *arguments)
        assert status == 0, self.stderr
        return out

    def engine(self, name: str = "docker", version: str = "Docker version 20.10.24") -> Path:
        program = self.path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(ENGINE.replace("VERSION", version))
        program.chmod(0o755)
        return program.parent


@pytest.fixture
def image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Image:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:/usr/bin:/bin")
    return Image(tmp_path, capfd)


def test_with_a_session_stdout_is_the_image_and_no_key(image: Image) -> None:
    out = image.ok("--session", "session.yaml", "--output", "new")
    assert out == "oci:new\n"
    assert not re.search(KEY, out + image.stderr)
    assert "session.yaml has their path, key and tag now" in image.stderr
    assert "crannog session create session.yaml --use-env   # with MRENCLAVE, NS" in image.stderr
    assert 'SCONE_CONFIG_ID="$NS~hello/application"' in image.stderr


def test_without_a_session_the_values_are_printed(image: Image) -> None:
    out = image.ok("--output", "new")
    assert re.fullmatch(
        f'oci:new\nfspf_path: "/fspf.pb"\nfspf_key: "{KEY}"\nfspf_tag: "[0-9a-f]{{32}}"\n', out
    )
    assert not re.search(KEY, image.stderr)


def test_the_values_can_go_to_a_file_of_the_users_alone(image: Image) -> None:
    old = os.umask(0)
    try:
        out = image.ok("--output", "new", "--key-out", "key")
    finally:
        os.umask(old)
    assert out == "oci:new\n"
    assert re.search(f'fspf_key: "{KEY}"', (image.path / "key").read_text())
    assert (image.path / "key").stat().st_mode & 0o777 == 0o600


def test_a_command_that_fails_leaves_no_file_with_a_key(image: Image) -> None:
    bin_ = image.engine()
    (bin_ / "docker").write_text((bin_ / "docker").read_text().replace("tar -x;", "exit 1;"))
    status, _ = image.run(
        "oci:image", "--encrypt", "/app", "--tag", "app:2", "--engine", "docker", "--key-out", "k"
    )
    assert status == 1
    assert not (image.path / "k").exists()


def test_json_has_the_key_only_where_it_is_nowhere_else(image: Image) -> None:
    found = json.loads(image.ok("--json", "--session", "session.yaml", "--output", "new"))
    assert "fspf_key" not in found
    assert (found["image"], found["files"], found["bytes"]) == ("oci:new", 1, len(MARKER))
    assert re.fullmatch(KEY, json.loads(image.ok("--json", "--output", "again"))["fspf_key"])


@pytest.mark.parametrize(
    ("version", "name"),
    [("Docker version 20.10.24", "app:2"), ("podman version 4.3.1", "localhost/app:2")],
)
def test_the_name_is_as_the_engine_keeps_it(image: Image, version: str, name: str) -> None:
    bin_ = image.engine(version=version)
    assert image.ok("--session", "session.yaml") == f"{name}\n"
    assert f"docker push {name}" in image.stderr
    manifest = json.loads((bin_ / "manifest.json").read_text())
    assert manifest[0]["RepoTags"] == [name]


def test_the_key_is_in_no_argument_of_the_engine(image: Image) -> None:
    bin_ = image.engine()
    image.ok("--session", "session.yaml")
    key = re.search(KEY, (image.path / "session.yaml").read_text())
    assert key is not None
    assert key[0] not in (bin_ / "called").read_text()
    assert not re.search(KEY, (bin_ / "called").read_text())


@pytest.mark.parametrize(
    ("source", "more", "status", "match"),
    [
        ("docker://alpine", (), 78, "that is not read here"),
        ("./image", (), 78, "write oci:./image"),
        ("-v", (), 2, ""),
        ("oci:nowhere", (), 1, "there is no directory nowhere"),
        ("docker-archive:nowhere", (), 1, "there is no file nowhere"),
        ("oci:image", ("--platform", "amd64"), 1, "expected OS/ARCHITECTURE"),
        ("oci:image", ("--service", "x"), 2, "--session is not"),
        ("oci:image", ("--tag", "App:2"), 1, "expected a name such as"),
        ("oci:image", ("--tag", "--help:2"), 1, "expected a name such as"),
    ],
)
def test_what_is_wrong_is_said(
    image: Image, source: str, more: tuple[str, ...], status: int, match: str
) -> None:
    tag = () if "--tag" in more else ("--tag", "app:2")
    found, out = image.run(source, "--encrypt", "/app", *tag, "--output", "new", *more)
    assert (found, out) == (status, "")
    assert match in image.stderr
    assert not (image.path / "new").exists()


def test_an_engine_that_is_not_there(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(image.path / "bin"))
    for more, match in (
        ((), "no docker, podman or buildah"),
        (("--engine", "podman"), "no program podman"),
        (("--engine", "lxc"), "expected one of docker, podman, buildah"),
    ):
        status, _ = image.run("hello:1", "--encrypt", "/app", "--tag", "app:2", *more)
        assert status == 78
        assert match in image.stderr
        assert "Hint: " in image.stderr or "expected" in match
