"""What the images are made of, made once in a run of the tests, by the first who asks.

CRANNOG_TEST_ARTIFACTS names some that are made already.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import pytest
from images.build import make_from_base
from images.build_engine import find_engine

from tests.containers import base
from tests.containers.rig import LABEL, RUN, Engine, available_engines, why_not


@cache
def artifacts() -> Path:
    """A directory with the launcher, services and front for the base image."""
    made = os.environ.get("CRANNOG_TEST_ARTIFACTS")
    if made:
        return Path(made)
    out = Path(tempfile.mkdtemp(prefix=f"{RUN}-artifacts-"))
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    if base.is_image():
        found = available_engines()
        if not found:
            pytest.skip("no engine that has the base image: " + why_not("docker"))
        make_from_base(find_engine(found[0].name), base.chosen(), out)
    else:
        from images.artifacts import make_artifacts  # needs a compiler and the locked wheels

        make_artifacts(base.root_file_system(), out)
    return out


def import_base(engine: Engine, name: str) -> str:
    """Have the base image in an engine by this name; what is built from it carries the label."""
    if base.is_image():
        return engine.build_text(name, f"FROM {base.chosen()}\n")
    with subprocess.Popen(
        ["tar", "--create", "--numeric-owner", "--directory", base.root_file_system(), "."],
        stdout=subprocess.PIPE,
    ) as archive:
        change = (f"--change=LABEL {LABEL}={RUN}", '--change=CMD ["sh"]')
        done = subprocess.run(
            [engine.name, "import", *change, "-", name],
            stdin=archive.stdout,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert (archive.returncode, done.returncode) == (0, 0), done.stderr
    return name
