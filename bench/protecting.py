"""`crannog fspf addf`: large files, many small ones, and loading what it wrote."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from bench.report import Row
from bench.tools import memory_directory, run_fspf

LARGE_FILES = 4
LARGE_BYTES = 256 << 20
SMALL_FILES = 100_000


def large() -> list[Row]:
    """Bytes per second over files of 256 MiB, start-up of the command included."""
    with tempfile.TemporaryDirectory(dir=memory_directory()) as name:
        directory = Path(name)
        plain = directory / "plain"
        plain.mkdir()
        block = os.urandom(LARGE_BYTES)
        for number in range(LARGE_FILES):
            (plain / str(number)).write_bytes(block)
        # The first does not count: the host of a virtual machine has to find memory for it.
        taken = []
        for _ in range(4):
            seconds, fspf = _addf(directory, plain)
            taken.append(seconds)
            fspf.unlink()
            shutil.rmtree(directory / "files")
        seconds = statistics.median(taken[1:])
    rate = LARGE_FILES * LARGE_BYTES / seconds / 1e6
    return [Row("addf, 4 files of 256 MiB", rate, "MB/s", "", 0.0, "≥ 500", rate >= 500)]


def small() -> list[Row]:
    """100,000 files of 1 KiB: adding them, and loading the sealed fspf."""
    from crannog.shield.fspf import open_fspf

    with tempfile.TemporaryDirectory(dir=memory_directory()) as name:
        directory = Path(name)
        plain = directory / "plain"
        for group in range(100):
            (plain / str(group)).mkdir(parents=True)
            for number in range(SMALL_FILES // 100):
                (plain / str(group) / str(number)).write_bytes(os.urandom(1024))
        seconds, fspf = _addf(directory, plain)
        fields = run_fspf("encrypt", str(fspf)).split()
        data = fspf.read_bytes()
        start = time.perf_counter()
        loaded = open_fspf(data, key=bytes.fromhex(fields[10]), tag=bytes.fromhex(fields[8]))
        found = loaded.lookup(b"/bench/99/99")
        load = time.perf_counter() - start
    if found is None:
        raise RuntimeError("the loaded fspf does not know its own file")
    return [
        Row("addf, 100,000 files of 1 KiB", seconds, "s", "", 0.0, "≤ 60 s", seconds <= 60),
        Row("loading that fspf", load * 1000, "ms", "", 0.0, "≤ 1 s", load <= 1),
    ]


def _addf(directory: Path, plain: Path) -> tuple[float, Path]:
    output = directory / "files"
    output.mkdir()
    fspf = directory / "fspf.pb"
    run_fspf("create", str(fspf))
    run_fspf("addr", str(fspf), "/bench", "--encrypted", "--kernel", str(output))
    start = time.perf_counter()
    run_fspf("addf", str(fspf), "/bench", str(plain), str(output))
    return time.perf_counter() - start, fspf
