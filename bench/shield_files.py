"""Files through the shield, against gocryptfs and plain tmpfs in the same run."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path

from bench.report import Row
from bench.tools import compile_program, gocryptfs, memory_directory, protect, shielded

FILES = 200
SECONDS = "2"
ROUNDS = 3
LARGE_BYTES = 1 << 30
READS = "6"


def small_files() -> list[Row]:
    """Open, read and close of 1 KiB files per second."""
    with tempfile.TemporaryDirectory(dir=memory_directory()) as name:
        directory = Path(name)
        program = compile_program("small_files", directory)
        plain = directory / "plain"
        plain.mkdir()
        for number in range(FILES):
            (plain / str(number)).write_bytes(os.urandom(1024))
        environment = protect(plain, directory / "image")
        arguments = ("/bench", str(FILES), SECONDS)

        def through_shield(cpu: int | None) -> float:
            return float(shielded(program, *arguments, environment=environment, cpu=cpu).split()[0])

        cpu = max(os.sched_getaffinity(0))
        with gocryptfs(directory, plain) as mounted:
            fuse, one_core, two_cores, native = [], [], [], []
            for _ in range(ROUNDS):  # interleaved, so that a busy moment hits all alike
                fuse.append(_directly(program, mounted))
                one_core.append(through_shield(cpu))
                two_cores.append(through_shield(None))
                native.append(_directly(program, plain))
        base = statistics.median(fuse)
        one, two = statistics.median(one_core), statistics.median(two_cores)
    return [
        Row("1 KiB files, plain tmpfs", statistics.median(native), "/s"),
        Row("1 KiB files, gocryptfs", base, "/s"),
        Row(
            "1 KiB files, shield, program and supervisor on one core",
            one,
            "/s",
            "gocryptfs",
            one / base,
            "≥ 25,000 and ≥ 5 ×",
            one >= 25_000 and one >= 5 * base,
        ),
        Row(
            "1 KiB files, shield, as it runs by default",
            two,
            "/s",
            "gocryptfs",
            two / base,
            "≥ 2 ×",
            two >= 2 * base,
        ),
    ]


def large_file() -> list[Row]:
    """One file of 1 GiB, read whole: the first time, and later.

    Each first read is one of a new launcher. Memory that a virtual machine touches for the first
    time has to be found by its host, which is slower than anything measured here; so a start that
    does not count comes before each one that does.
    """
    with tempfile.TemporaryDirectory(dir=memory_directory()) as name:
        directory = Path(name)
        program = compile_program("large_file", directory)
        plain = directory / "plain"
        plain.mkdir()
        with (plain / "large").open("wb") as file:
            block = os.urandom(1 << 20)
            for _ in range(LARGE_BYTES >> 20):
                file.write(block)
        environment = protect(plain, directory / "image")
        native: list[float] = []
        first: list[float] = []
        later: list[float] = []
        fuse: list[float] = []
        for number in range(ROUNDS):  # interleaved, so that a busy moment hits all alike
            native += _rounds(_output(program, plain / "large"))[1:]
            fuse += _through_gocryptfs(program, directory / f"round-{number}", plain)
            shielded(program, "/bench/large", "1", environment=environment)
            through = _rounds(shielded(program, "/bench/large", READS, environment=environment))
            first.append(through[0])
            later += through[1:]
    tmpfs, base = statistics.median(native), statistics.median(fuse)
    one, more = statistics.median(first), statistics.median(later)
    return [
        Row("1 GiB file, plain tmpfs", tmpfs / 1e6, "MB/s"),
        Row("1 GiB file, gocryptfs", base / 1e6, "MB/s"),
        Row(
            "1 GiB file, shield, first read",
            one / 1e6,
            "MB/s",
            "gocryptfs",
            one / base,
            "≥ 1.2 ×",
            one >= 1.2 * base,
        ),
        Row(
            "1 GiB file, shield, later reads",
            more / 1e6,
            "MB/s",
            "plain tmpfs",
            more / tmpfs,
            "≥ 0.95 ×",
            more >= 0.95 * tmpfs,
        ),
    ]


def _through_gocryptfs(program: Path, directory: Path, plain: Path) -> list[float]:
    """Its rounds. It is unmounted afterwards, so that its cache holds no memory of the others."""
    directory.mkdir()
    with gocryptfs(directory, plain) as mounted:
        rates = _rounds(_output(program, mounted / "large"))
    shutil.rmtree(directory)
    return rates


def _output(program: Path, file: Path) -> str:
    return subprocess.check_output([program, file, READS], text=True)


def _directly(program: Path, directory: Path) -> float:
    output = subprocess.check_output([program, directory, str(FILES), SECONDS], text=True)
    return float(output.split()[0])


def _rounds(output: str) -> list[float]:
    return [float(line) for line in output.split()]
