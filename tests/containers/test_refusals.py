"""What the containers of the tutorial refuse, and that nothing of the program ran, or was served.

The program leaves a file in a volume as its first act, and says so.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from crannog.session.otp import one_time_password, time_step
from tests.containers.platform import ReachablePlatform
from tests.containers.protected import (
    Protected,
    create_session,
    image_of,
    measured,
    protect,
)
from tests.containers.rig import Engine

REFUSED, TRY_AGAIN = 78, 75
SHARED_SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"

MAIN = """\
import os, pathlib, sys
pathlib.Path('/proof/ran').write_text('')
print('PROGRAM RAN', flush=True)
what, path = sys.argv[1:]
if what == 'list':
    print(sorted(os.listdir(path)))
elif what == 'execute':
    os.execv(path, [path])
else:
    print(open(path).read())
"""
FILES = {
    "main.py": MAIN,
    "note": "the text of the note\n" * 10_000,
    "data/config": "the genuine configuration",
}


@dataclass
class World:
    """An engine, the image with the protected files, and who provides its configuration."""

    engine: Engine
    base: str
    image: str
    platform: ReachablePlatform
    protected: Protected
    mrenclave: str
    directory: Path

    @property
    def proof(self) -> Path:
        """The file that the program makes first."""
        return self.directory / "proof" / "ran"

    def session(self, *arguments: str, **changes: object) -> str:
        """A session that is right but for `changes`; its configuration id."""
        return create_session(
            self.platform,
            {
                "mrenclaves": [self.mrenclave],
                "command": " ".join(["python3", "/app/main.py", *arguments]),
                **self.protected.service,
                **changes,
            },
        )

    def start(self, config_id: str, *, image: str = "", **variables: str) -> tuple[int, str]:
        """Run a container of the image, hardened; its exit status and what it wrote."""
        self.proof.unlink(missing_ok=True)
        options = (
            *self.engine.hardened,
            "--user=1000:1000",
            f"--volume={self.proof.parent}:/proof",
            *self.platform.options(
                self.engine, config_id, **{"CRANNOG_RETRY_SECONDS": "1", **variables}
            ),
        )
        with self.engine.container(image or self.image, options=options) as container:
            return container.wait(), container.logs()

    def changed(self, name: str, change: Callable[[Path], None]) -> str:
        """The image with something changed in its root."""
        root = self.protected.copy(self.directory / name)
        change(root)
        image = image_of(self.engine, self.base, root, f"{self.image.rpartition(':')[0]}:{name}")
        shutil.rmtree(root)
        return image


@pytest.fixture(scope="module")
def world(
    engine: Engine,
    curated_image: str,
    image_prefix: str,
    platform: ReachablePlatform,
    tmp_path_factory: pytest.TempPathFactory,
) -> World:
    directory = tmp_path_factory.mktemp("refusals")
    (directory / "proof").mkdir()
    (directory / "proof").chmod(0o777)
    protected = protect(platform, FILES, directory)
    image = image_of(engine, curated_image, protected.root, f"{image_prefix}refusals:genuine")
    return World(
        engine=engine,
        base=curated_image,
        image=image,
        platform=platform,
        protected=protected,
        mrenclave=measured(engine, image),
        directory=directory,
    )


def _assert_refused(world: World, status: int, log: str, *names: str) -> None:
    assert status == REFUSED, log
    assert "Caused by: " in log
    assert all(name in log for name in names), log
    assert "Traceback" not in log
    _assert_never_ran(world, log)


def _assert_never_ran(world: World, log: str) -> None:
    assert not world.proof.exists(), log
    assert "PROGRAM RAN" not in log


def test_the_genuine_image_runs(world: World) -> None:
    status, log = world.start(world.session("read", "/app/data/config"))
    assert (status, world.proof.exists()) == (0, True), log
    assert "PROGRAM RAN\nthe genuine configuration\n" in log


def test_an_older_fspf(world: World, tmp_path: Path) -> None:
    newer = protect(world.platform, FILES, tmp_path)
    config_id = world.session("read", "/app/note", **newer.service)
    _assert_refused(world, *world.start(config_id), newer.tag)


def test_a_wrong_measurement(world: World) -> None:
    config_id = world.session("read", "/app/note", mrenclaves=["0" * 64])
    _assert_refused(world, *world.start(config_id), world.mrenclave, "0" * 64)


def test_a_session_that_is_missing(world: World) -> None:
    _assert_refused(world, *world.start("no-such-session/app"), "no-such-session")


def test_a_service_that_is_missing(world: World) -> None:
    session = world.session("read", "/app/note").rpartition("/")[0]
    _assert_refused(world, *world.start(f"{session}/other"), "other")


def test_an_expired_one_time_password(world: World) -> None:
    config_id = world.session("read", "/app/note", one_time_password_shared_secret=SHARED_SECRET)
    code = one_time_password(SHARED_SECRET, time_step(time.time() - 600))
    status, log = world.start(f"{config_id}@{code}")
    _assert_refused(world, status, log, "One-time Password is invalid", "it has expired")


def test_a_one_time_password_that_was_used(world: World) -> None:
    config_id = world.session(
        "read", "/app/data/config", one_time_password_shared_secret=SHARED_SECRET
    )
    code = one_time_password(SHARED_SECRET, time_step(time.time()))
    status, log = world.start(f"{config_id}@{code}")
    assert (status, world.proof.exists()) == (0, True), log
    _assert_refused(world, *world.start(f"{config_id}@{code}"), "was already used")


@pytest.mark.parametrize("variable", ["SCONE_CAS_ADDR", "SCONE_LAS_ADDR"])
def test_a_service_of_the_platform_that_is_not_reached(world: World, variable: str) -> None:
    nobody = f"{world.engine.gateway}:1"
    status, log = world.start(world.session("read", "/app/note"), **{variable: nobody})
    assert status == TRY_AGAIN, log
    assert "Caused by: " in log
    assert nobody in log
    _assert_never_ran(world, log)


def test_a_flipped_bit_of_the_program(world: World) -> None:
    def flip(root: Path) -> None:
        _flip(root / "app" / "main.py", 3)

    status, log = world.start(
        world.session("read", "/app/note"), image=world.changed("flipped-program", flip)
    )
    assert status == REFUSED, log
    assert "/app/main.py" in log
    _assert_never_ran(world, log)


def test_a_flipped_bit_stops_the_program_before_a_byte_of_the_file_is_served(world: World) -> None:
    def flip(root: Path) -> None:
        _flip(root / "app" / "note", -1)  # of the last chunk; the program reads from the first

    status, log = world.start(
        world.session("read", "/app/note"), image=world.changed("flipped-note", flip)
    )
    _assert_stopped_at(world, status, log, "/app/note")
    assert "the text of the note" not in log


def test_a_deleted_file_stops_the_program(world: World) -> None:
    def delete(root: Path) -> None:
        (root / "app" / "data" / "config").unlink()

    status, log = world.start(
        world.session("read", "/app/data/config"), image=world.changed("deleted", delete)
    )
    _assert_stopped_at(world, status, log, "/app/data/config")


def _assert_stopped_at(world: World, status: int, log: str, path: str) -> None:
    assert world.proof.exists()  # it ran up to there
    assert status == REFUSED, log
    assert path in log
    assert "FileNotFoundError" not in log  # it was not told that there is no such file


def _flip(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place] ^= 1
    file.write_bytes(data)


@pytest.fixture(scope="module")
def planted(world: World) -> str:
    """The image with an added module, a planted executable, and a link instead of a directory."""

    def plant(root: Path) -> None:
        (root / "app" / "pathlib.py").write_text("print('PLANTED')")  # the program imports it
        executable = root / "app" / "planted"
        executable.write_text("#!/bin/sh\necho PLANTED\n")
        executable.chmod(0o755)
        shutil.rmtree(root / "app" / "data")
        (root / "elsewhere").mkdir()
        (root / "elsewhere" / "config").write_text("PLANTED")
        os.symlink("/elsewhere", root / "app" / "data")

    return world.changed("planted", plant)


def test_an_added_file_is_not_listed(world: World, planted: str) -> None:
    status, log = world.start(world.session("list", "/app"), image=planted)
    assert status == 0, log
    assert "['data', 'main.py', 'note']" in log
    assert "PLANTED" not in log


def test_an_added_file_cannot_be_read(world: World, planted: str) -> None:
    status, log = world.start(world.session("read", "/app/pathlib.py"), image=planted)
    assert (status, "FileNotFoundError" in log) == (1, True), log
    assert "PLANTED" not in log


def test_a_planted_executable_is_not_executed(world: World, planted: str) -> None:
    status, log = world.start(world.session("execute", "/app/planted"), image=planted)
    assert (status, "FileNotFoundError" in log) == (1, True), log
    assert "PLANTED" not in log


def test_a_directory_turned_into_a_link_is_not_followed(world: World, planted: str) -> None:
    status, log = world.start(world.session("read", "/app/data/config"), image=planted)
    _assert_stopped_at(world, status, log, "/app/data/config")
    assert "PLANTED" not in log
