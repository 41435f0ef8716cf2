"""A development platform for all tests of the command line, and a way to run commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from crannog.testing.platform import DevelopmentPlatform


@dataclass(frozen=True)
class Result:
    """What a command did."""

    status: int
    stdout: str
    stderr: str


class Commands:
    """Runs `crannog` with a home of its own, whose default CAS is the platform's."""

    def __init__(self, platform: DevelopmentPlatform, home: Path) -> None:
        self.platform = platform
        self.home = home

    def __call__(
        self,
        *arguments: str,
        program: str = "crannog",
        stdin: str = "",
        more: Mapping[str, str] | None = None,
    ) -> Result:
        executable = str(Path(sys.executable).parent / program)
        done = subprocess.run(
            [executable, *arguments],
            cwd=self.home,
            env=self.platform.environment({"HOME": str(self.home), **(more or {})}),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Result(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, stdin: str = "") -> str:
        """The stdout of a command that has to succeed."""
        result = self(*arguments, stdin=stdin)
        assert result.status == 0, result.stderr
        return result.stdout


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevelopmentPlatform]:
    """CAS and LAS of a module's tests."""
    with DevelopmentPlatform(tmp_path_factory.mktemp("platform")) as running:
        yield running


@pytest.fixture
def stranger(platform: DevelopmentPlatform, tmp_path: Path) -> Commands:
    """A user who has attested no CAS yet."""
    return Commands(platform, tmp_path)


@pytest.fixture
def crannog(stranger: Commands) -> Commands:
    """A user whose default CAS is the platform's."""
    stranger.ok("cas", "attest", stranger.platform.cas_client, "-c", stranger.platform.cas_key_hash)
    return stranger
