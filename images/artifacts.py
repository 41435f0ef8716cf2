"""Make the launcher directory, the services directory and the front from a root with a Python.

    python -m images.artifacts --root ROOT --out OUT

docs/formats/launcher.md describes the result. Leaves images to `images.build`. The same root,
sources, lock file and compiler give the same bytes.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from crannog.errors import Error, Misconfigured, hints
from crannog.measure.launcher import DIGEST
from crannog.measure.root import Root
from images.artifacts_maker import Maker
from images.artifacts_tree import size

# What tells a directory that was made here from one that only has the name.
_MARKS = {
    "launcher": DIGEST,
    "services": "start.py",
    "kubernetes": "site/grpc/__init__.pyc",
    "front": "",
}


class Artifacts(NamedTuple):
    """What was made.

    Attributes:
        launcher: the launcher directory, `/crannog` in images.
        services: the services directory, `/opt/crannog` in images.
        kubernetes: what the device plugin's image has besides in `/opt/crannog`.
        front: the program that takes the place of an image's python3.
        digest: the launcher directory's, 64 hex digits.
        python: the version of Python in it, such as `3.11`.
    """

    launcher: Path
    services: Path
    kubernetes: Path
    front: Path
    digest: str
    python: str


def make_artifacts(root: Path, out: Path) -> Artifacts:
    """Make everything below `out`, replacing what an earlier call left there.

    Args:
        root: a directory with Python and its libraries, such as an exported base image.
        out: becomes `launcher`, `services`, `kubernetes` and `front`.

    Raises:
        Misconfigured, Unsupported: the root has not what is needed.
        Unavailable: a compiler or a package index refuses.
    """
    out.mkdir(parents=True, exist_ok=True)
    for name, mark in _MARKS.items():
        there = out / name
        if there.exists() and not (there / mark if mark else there).is_file():
            raise Misconfigured(
                f"{there} is there and was not made by this", hint="choose another --out"
            )
    with (
        tempfile.TemporaryDirectory(prefix="crannog-artifacts-") as scratch,
        tempfile.TemporaryDirectory(prefix=".making-", dir=out) as making,
        Root(str(root)) as at,
    ):
        maker = Maker(at, root, Path(making), Path(scratch))
        maker.launcher()
        maker.services()
        maker.kubernetes()
        digest = maker.finish()
        maker.try_it()
        for name in _MARKS:
            if (out / name).is_dir():
                shutil.rmtree(out / name)
            (Path(making) / name).replace(out / name)
    return Artifacts(
        out / "launcher",
        out / "services",
        out / "kubernetes",
        out / "front",
        digest,
        maker.python.version,
    )


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m images.artifacts", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path("/"), help="default: /")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args(arguments)
    try:
        made = make_artifacts(given.root, given.out)
    except OSError as error:
        print(f"artifacts: error: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except Error as error:
        print(f"artifacts: error: {error.message}", file=sys.stderr)
        for hint in hints(error):
            print(f"artifacts: hint: {hint}", file=sys.stderr)
        return 1
    print(f"launcher  {made.launcher}  {size(made.launcher) / 1e6:.1f} MB  {made.digest}")
    print(f"services  {made.services}  {size(made.services) / 1e6:.1f} MB")
    print(f"kubernetes {made.kubernetes}  {size(made.kubernetes) / 1e6:.1f} MB")
    print(f"front     {made.front}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
