"""The README's commands do what the README says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from crannog.testing.platform import DevelopmentPlatform
from tests.tutorial.seed import PROJECT

LISTEN = "127.118.80.2"


def _blocks() -> list[str]:
    text = (PROJECT / "README.md").read_text()
    return re.findall(r"<!-- executed by [^>]+ -->\n```bash\n(.*?)```", text, re.DOTALL)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> DevelopmentPlatform:
    if shutil.which("bash") is None or shutil.which("awk") is None:
        pytest.skip("no bash or no awk")
    return DevelopmentPlatform(tmp_path_factory.mktemp("readme"), listen=LISTEN, free_ports=False)


def _run(block: str, platform: DevelopmentPlatform) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.replace("localhost", LISTEN)],
        cwd=platform.directory,
        env=platform.environment({"PATH": path, "OF_THE_HOST": "1"}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_commands_for_ones_own_program(platform: DevelopmentPlatform) -> None:
    generated, encrypted = _blocks()
    with platform:
        platform.attest()
        lines = _run(generated, platform).splitlines()
        assert re.fullmatch("[0-9a-f]{64}", lines[0])
        values = dict(line.partition("=")[::2] for line in lines[1:])
        assert len(values["PASSWORD"]) == 24
        assert "OF_THE_HOST" not in values
        lines = _run(encrypted, platform).splitlines()
        assert re.fullmatch("[0-9a-f]{64}", lines[-2])
        assert lines[-1] == "for the program only"
        assert b"program" not in (platform.directory / "image" / "files" / "note").read_bytes()
