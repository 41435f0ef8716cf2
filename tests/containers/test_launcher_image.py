"""The launcher directory as an image brings it: nothing about it changes on the way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from crannog.measure.launcher_directory import directory_digest, verify_launcher_directory
from tests.containers.rig import Engine

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to unpack with owners")


def test_an_image_holds_the_directory_as_it_was_made(
    engine: Engine, launcher_image: str, artifacts: Path, tmp_path: Path
) -> None:
    container = engine.call("create", launcher_image, "x").stdout.strip()
    try:
        with subprocess.Popen(
            [engine.name, "export", container], stdout=subprocess.PIPE
        ) as exported:
            subprocess.run(
                ["tar", "--extract", "--numeric-owner", "--directory", str(tmp_path)],
                stdin=exported.stdout,
                check=True,
            )
    finally:
        engine.call("rm", container)
    found = verify_launcher_directory(str(tmp_path / "crannog"))
    assert found == directory_digest(str(artifacts / "launcher"))
