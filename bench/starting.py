"""Start to exit of a small Python program: plain, under the shield, and attested."""

from __future__ import annotations

import compileall
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import crannog
from bench.report import Row
from bench.tools import LAUNCHER, protect
from crannog.testing.platform import DevelopmentPlatform

ROUNDS = 15
# The distribution's interpreter where there is one: others may import much more at their start.
PYTHON = next(
    path
    for path in ("/usr/bin/python3", getattr(sys, "_base_executable", ""), sys.executable)
    if os.path.exists(path)
)


def starting() -> list[Row]:
    """Medians in milliseconds, the variants interleaved."""
    # As an installer leaves them: without bytecode each start would compile its modules.
    compileall.compile_dir(str(Path(crannog.__file__).parent), quiet=1)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        plain = directory / "plain"
        plain.mkdir()
        (plain / "hello.py").write_text("print('hello')\n")
        shield = protect(plain, directory / "image", "/app")
        with DevelopmentPlatform(directory) as platform:
            platform.attest()
            _create_session(platform, shield)
            variants = {
                "plain": ([PYTHON, str(plain / "hello.py")], platform.environment({})),
                "launcher": (
                    [*LAUNCHER, "run", "--", PYTHON, str(plain / "hello.py")],
                    platform.environment({}),
                ),
                "shield": (
                    [*LAUNCHER, "run", "--", PYTHON, "/app/hello.py"],
                    platform.environment(shield),
                ),
                "attested": (
                    [*LAUNCHER, "run", "--", PYTHON],
                    platform.environment(platform.attested("bench/application")),
                ),
            }
            taken: dict[str, list[float]] = {variant: [] for variant in variants}
            for _ in range(ROUNDS):
                for variant, (command, environment) in variants.items():
                    taken[variant].append(_milliseconds(command, environment))
    median = {variant: statistics.median(times) for variant, times in taken.items()}
    base = median["plain"]

    def row(title: str, variant: str, limit: float) -> Row:
        more = median[variant] - base
        reach = f"≤ {limit:.0f} ms more" if limit else ""
        reached = more <= limit if limit else None
        return Row(title, more, "ms more", "plain", median[variant] / base, reach, reached)

    return [
        Row("Python hello, plain", base, "ms"),
        row("Python hello, launcher only", "launcher", 0),
        row("Python hello, under the shield", "shield", 60),
        row("Python hello, attested and under the shield", "attested", 200),
    ]


def _create_session(platform: DevelopmentPlatform, shield: dict[str, str]) -> None:
    mrenclave = subprocess.run(
        [*LAUNCHER, "run", "--", PYTHON],
        env=platform.environment({"SCONE_HASH": "1"}),
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ).stdout.strip()
    platform.create_session(
        f"""\
name: bench
version: "0.2"
services:
   - name: application
     mrenclaves: [{mrenclave}]
     command: python3 /app/hello.py
     fspf_path: {shield["SCONE_FSPF"]}
     fspf_key: {shield["SCONE_FSPF_KEY"]}
     fspf_tag: {shield["SCONE_FSPF_TAG"]}
"""
    )


def _milliseconds(command: list[str], environment: dict[str, str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    taken = (time.perf_counter() - start) * 1000
    if done.returncode != 0 or done.stdout != b"hello\n":
        raise RuntimeError(f"{command} failed: {done.stderr.decode(errors='replace')}")
    return taken
