"""What the measurements share: compiled programs, protected trees, the launcher, gocryptfs."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = Path(__file__).parent / "programs"
CRANNOG = [sys.executable, "-m", "crannog"]
LAUNCHER = [str(Path(sys.executable).with_name("crannog"))]
"""The installed command, as users start it; quicker than `python -m`."""


class CannotMeasure(Exception):
    """This machine lacks something; the text says what."""


def compile_program(name: str, directory: Path) -> Path:
    """The static executable of bench/programs/NAME.c."""
    if shutil.which("gcc") is None:
        raise CannotMeasure("no gcc")
    target = directory / name
    subprocess.run(["gcc", "-O2", "-static", "-o", target, PROGRAMS / f"{name}.c"], check=True)
    return target


def memory_directory() -> Path:
    """A directory on tmpfs, so that no disk is measured."""
    path = Path("/dev/shm")
    if not os.access(path, os.W_OK):
        raise CannotMeasure("/dev/shm is not writable")
    return path


def protect(plain: Path, image: Path, region: str = "/bench") -> dict[str, str]:
    """Encrypt `plain` as `region`; the environment that makes the launcher serve it."""
    image.mkdir()
    (image / "files").mkdir()
    fspf = str(image / "fspf.pb")
    run_fspf("create", fspf)
    run_fspf("addr", fspf, "/", "--not-protected", "--kernel", "/")
    run_fspf("addr", fspf, region, "--encrypted", "--kernel", str(image / "files"))
    run_fspf("addf", fspf, region, str(plain), str(image / "files"))
    fields = run_fspf("encrypt", fspf).split()
    return {"SCONE_FSPF": fspf, "SCONE_FSPF_KEY": fields[10], "SCONE_FSPF_TAG": fields[8]}


def run_fspf(*arguments: str) -> str:
    """`crannog fspf …`; its stdout."""
    return subprocess.run(
        [*CRANNOG, "fspf", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def shielded(
    program: Path, *arguments: str, environment: dict[str, str], cpu: int | None = None
) -> str:
    """The stdout of a program under the launcher; `cpu` pins launcher and program to one core."""
    pinned = [] if cpu is None else ["taskset", "-c", str(cpu)]
    done = subprocess.run(
        [*pinned, *LAUNCHER, "run", "--", str(program), *arguments],
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"SCONE_MODE": "sim", "SCONE_LOG": "FATAL"} | environment,
    )
    return done.stdout


@contextlib.contextmanager
def gocryptfs(directory: Path, plain: Path) -> Iterator[Path]:
    """The files of `plain` in a mounted gocryptfs."""
    if shutil.which("gocryptfs") is None:
        raise CannotMeasure("no gocryptfs (Debian package gocryptfs)")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise CannotMeasure("no access to /dev/fuse")
    cipher, mount, password = directory / "cipher", directory / "mount", directory / "password"
    cipher.mkdir()
    mount.mkdir()
    password.write_text("benchmark\n")
    command = ["gocryptfs", "-q", "-passfile", str(password)]
    subprocess.run([*command, "-init", "-scryptn", "10", cipher], check=True)
    subprocess.run([*command, cipher, mount], check=True)
    try:
        shutil.copytree(plain, mount / "files")
        yield mount / "files"
    finally:
        subprocess.run(["fusermount3", "-u", mount], check=False)
