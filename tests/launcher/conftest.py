from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

LAUNCHER = (sys.executable, "-m", "crannog", "run", "--")

Run = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., AbstractContextManager["subprocess.Popen[str]"]]


def host_environment(**more: str) -> dict[str, str]:
    """What every test's launcher finds; no LAS, no CAS, no patience unless the test says so."""
    return {
        "PATH": "/usr/bin:/bin",
        "CRANNOG_RETRY_SECONDS": "0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith("/src")),
        **more,
    }


@pytest.fixture
def crannog_run() -> Run:
    def run(
        command: Sequence[str], *, stdin: str | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*LAUNCHER, *command],
            env=host_environment(**environment),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def crannog_start() -> Start:
    """As `crannog_run`, for a test that does something meanwhile."""

    @contextmanager
    def start(command: Sequence[str], **environment: str) -> Iterator[subprocess.Popen[str]]:
        with subprocess.Popen(
            [*LAUNCHER, *command],
            env=host_environment(**environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    return start


@pytest.fixture(scope="session")
def compile_c(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Compiles a C program; `static=True` links it statically."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    directory = tmp_path_factory.mktemp("c")

    def build(name: str, source: str, *options: str) -> Path:
        path = directory / name
        path.with_suffix(".c").write_text(source)
        subprocess.run(
            [compiler, "-O1", "-o", str(path), str(path.with_suffix(".c")), *options], check=True
        )
        return path

    return build
