"""Killed, without space, two at once: the tag and the session are the old ones, or the new ones."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crannog.image.session_file import MARK
from tests.unit.image.support import MARKER, SESSION
from tests.unit.oci.images import Layout, entry, layer

# An engine that keeps each image as a file, and takes it in by a rename as its last step. It waits
# where a test wants to kill the command: for a file `go` to appear.
ENGINE = """\
#!/bin/sh
cd "$(dirname "$0")/../store"
case "$1 $2" in
"image inspect")
    test -e present || { echo "Error: No such image" >&2; exit 1; }
    cat layers ;;
"image load")
    cat > incoming || exit 1
    tar -tf incoming > listed || exit 1
    grep -q '^manifest.json$' listed || { echo "no manifest.json" >&2; exit 1; }
    tar -xf incoming
    touch arrived
    while test -e hold && ! test -e go; do sleep 0.01; done
    config=$(sed 's/.*"Config":"\\([^"]*\\)".*/\\1/' manifest.json)
    sed 's/.*"diff_ids":\\(\\[[^]]*\\]\\).*/\\1/' "$config" > layers
    touch present ;;
*) exit 1 ;;
esac
"""


class Machine:
    """A directory with an engine, a session and an image; `start` runs the command in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("bin", "store", "temporary", "work"):
            (path / name).mkdir()
        engine = path / "bin" / "docker"
        engine.write_text(ENGINE)
        engine.chmod(0o755)
        self.store = path / "store"
        self.session = path / "work" / "session.yaml"
        self.session.write_text(SESSION)
        self.source = Layout(path / "image")
        self.source.add(
            [
                layer(entry("usr/bin/python3", b"python", mode=0o755)),
                layer(entry("app/", None), entry("app/server.py", MARKER + os.urandom(1 << 20))),
            ]
        )

    def start(self, *more: str, temporary: Path | None = None) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "crannog", "image", "encrypt", f"oci:{self.source.path}"]
        command += ["--encrypt", "/app", "--tag", "app:2", "--engine", "docker"]
        return subprocess.Popen(
            [*command, "--session", str(self.session), *more],
            env={
                **os.environ,
                "PATH": f"{self.path / 'bin'}:{os.environ['PATH']}",
                "TMPDIR": str(temporary or self.path / "temporary"),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def stored(self) -> bool:
        return (self.store / "present").exists()

    @property
    def changed(self) -> bool:
        text = self.session.read_text()
        if text == SESSION:
            return False
        assert MARK in text
        return True


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.005)


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    _, stderr = process.communicate(timeout=60)
    assert "Traceback" not in stderr
    return process.returncode, stderr


def test_the_engine_of_these_tests_takes_an_image_in(machine: Machine) -> None:
    status, stderr = finish(machine.start())
    assert status == 0, stderr
    assert machine.stored
    assert machine.changed


def leftovers(directory: Path) -> list[str]:
    """What lies there."""
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_killed_while_the_engine_takes_it_in(machine: Machine, number: signal.Signals) -> None:
    (machine.store / "hold").touch()
    process = machine.start()
    wait_for(machine.store / "arrived", process)
    # Its new text lies beside the old one by now, with a mode that nobody else reads.
    (beside,) = [path for path in machine.session.parent.iterdir() if ".crannog-" in path.name]
    assert beside.stat().st_mode & 0o777 == 0o600
    process.send_signal(number)
    process.communicate(timeout=60)
    assert machine.session.read_text() == SESSION
    if number != signal.SIGKILL:
        assert leftovers(machine.session.parent) == ["session.yaml"]
        assert leftovers(machine.path / "temporary") == []
    (machine.store / "go").touch()
    # Running it again mends everything, and leaves nothing of the first.
    (machine.store / "hold").unlink()
    status, stderr = finish(machine.start("--force"))
    assert status == 0, stderr
    assert machine.stored
    assert machine.changed
    assert leftovers(machine.session.parent) == ["session.yaml"]


def test_killed_at_any_time(machine: Machine) -> None:
    begun = time.monotonic()
    finish(machine.start())
    length = time.monotonic() - begun
    for step in range(12):
        machine.session.write_text(SESSION)
        (machine.store / "present").unlink(missing_ok=True)
        process = machine.start()
        try:
            process.wait(length * step / 11)
        except subprocess.TimeoutExpired:
            process.kill()
        process.communicate()
        # A session that names a key has its image; the moment between the two is the other way.
        assert not machine.changed or machine.stored


def test_two_at_once_under_one_tag(machine: Machine) -> None:
    (machine.store / "hold").touch()
    first = machine.start()
    wait_for(machine.store / "arrived", first)
    second = machine.start()
    status, stderr = finish(second)
    assert status == 75
    assert "another command is storing app:2" in stderr
    (machine.store / "go").touch()
    assert finish(first)[0] == 0
    assert machine.changed


def test_an_engine_that_refuses_leaves_the_session(machine: Machine) -> None:
    engine = machine.path / "bin" / "docker"
    engine.write_text(
        ENGINE.replace("cat > incoming", "head -c 1000 > incoming; echo full >&2; false")
    )
    status, stderr = finish(machine.start())
    assert status == 1
    assert "docker cannot load the image: full" in stderr
    assert not machine.stored
    assert not machine.changed
    assert leftovers(machine.session.parent) == ["session.yaml"]
    assert leftovers(machine.path / "temporary") == []


def fill(path: Path) -> None:
    """Write to a file until there is no more room."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 16, 1):
            with contextlib.suppress(OSError):
                while os.write(descriptor, bytes(size)):
                    pass
    finally:
        os.close(descriptor)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k,mode=0700", "tmpfs", mounted],
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("a small tmpfs cannot be mounted (needs root)")
    try:
        yield mounted
    finally:
        subprocess.run(["umount", "-l", mounted], check=True)


def test_no_space_for_the_layers(machine: Machine, small_disk: Path) -> None:
    status, stderr = finish(machine.start(temporary=small_disk))
    assert status == 1
    assert "No space left on device" in stderr
    assert "Hint: make room" in stderr
    assert not machine.stored
    assert not machine.changed
    assert leftovers(small_disk) == []


def test_no_space_for_the_session(machine: Machine, small_disk: Path) -> None:
    machine.session = small_disk / "session.yaml"
    machine.session.write_text(SESSION)
    fill(small_disk / "ballast")
    status, stderr = finish(machine.start())
    assert status == 1
    assert "No space left on device" in stderr
    assert not machine.stored
    assert not machine.changed
    assert sorted(os.listdir(small_disk)) == ["ballast", "session.yaml"]


def test_no_space_for_a_layout(machine: Machine, small_disk: Path) -> None:
    for name in ("layout", "new.tar"):
        status, stderr = finish(machine.start("--output", str(small_disk / name)))
        assert status == 1
        assert "No space left on device" in stderr
        assert os.listdir(small_disk) == []
    assert not machine.changed
