"""The root file system that the tests' base image is made from: Debian 12 with Python 3.11.

CRANNOG_TEST_BASE names another one: a directory, or an image that each engine has.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGES = ("python3", "python3-venv", "ca-certificates")
SUITE = "bookworm"


def chosen() -> str:
    """What CRANNOG_TEST_BASE says, "" where it does not."""
    return os.environ.get("CRANNOG_TEST_BASE", "")


def is_image() -> bool:
    """Whether CRANNOG_TEST_BASE names an image rather than a directory."""
    return bool(chosen()) and not Path(chosen()).is_dir()


def root_file_system() -> Path:
    """The directory; made by debootstrap the first time and kept in the user's cache.

    The test is skipped, with the reason, where it cannot be made.
    """
    if chosen():
        return Path(chosen())
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "crannog-tests"
    directory = cache / f"{SUITE}-{'-'.join(PACKAGES)}"
    if directory.is_dir():
        return directory
    if shutil.which("debootstrap") is None:
        pytest.skip("no debootstrap to make the base image with, and no CRANNOG_TEST_BASE")
    if os.geteuid() != 0:
        pytest.skip("debootstrap makes the base image as root only, and no CRANNOG_TEST_BASE")
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.is_dir():
            _debootstrap(directory)
    return directory


def _debootstrap(directory: Path) -> None:
    making = directory.with_suffix(".making")
    shutil.rmtree(making, ignore_errors=True)
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={','.join(PACKAGES)}", SUITE, str(making)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
        check=False,
    )
    if done.returncode != 0:
        shutil.rmtree(making, ignore_errors=True)
        pytest.skip(f"debootstrap: {(done.stdout.strip().splitlines() or ['failed'])[-1]}")
    for left in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(making / left)
        (making / left).mkdir()
    making.rename(directory)
