"""A world on a temporary directory, and programs run in it; used by all tests of the shield."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pytest

from crannog.shield.model import Protection, Region
from crannog.testing.protection import Protected, protect

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = Path(__file__).parent / "programs"
NOBODY = 65534

Result = subprocess.CompletedProcess[str]


class Shield:
    """One world: a protected region `app` and injected files, below a directory of its own.

    Attributes:
        base: the directory; `app` in it is the region's embed point.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.app = base / "app"
        self.fspf: Protected | None = None
        self.injected: list[tuple[str, bytes, int]] = []
        self.user: int | None = None
        self.base_fspf: bytes | None = None

    def protect(
        self,
        files: Mapping[str, bytes],
        *,
        links: Mapping[str, str] | None = None,
        directories: Iterable[str] = (),
        modes: Mapping[str, int] | None = None,
        protection: Protection = Protection.ENCRYPTED,
        owner: tuple[int, int] | None = None,
        regions: Iterable[Region] | None = None,
    ) -> None:
        """Make the fspf, and the ciphertext on disk as `fspf addf` does. Paths are below app."""
        app = os.fsencode(self.app)

        def whole(path: str) -> bytes:
            return app + b"/" + os.fsencode(path) if path else app

        self.fspf = protect(
            {whole(path): content for path, content in files.items()},
            links={whole(path): os.fsencode(to) for path, to in (links or {}).items()},
            directories=[whole(path) for path in directories],
            modes={whole(path): mode for path, mode in (modes or {}).items()},
            regions=regions
            or (
                Region(b"/", Protection.NOT_PROTECTED, b"/", 0),
                Region(app, protection, app),
            ),
            owner=owner or (os.getuid(), os.getgid()),
        )
        self.app.mkdir(exist_ok=True)
        for path in directories:
            (self.app / path).mkdir(parents=True, exist_ok=True)
        for on_disk, data in self.fspf.disk.items():
            place = Path(os.fsdecode(on_disk))
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        for name, to in (links or {}).items():
            place = self.app / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(to)

    def inject(self, path: str | Path, content: bytes, mode: int = 0o644) -> None:
        self.injected.append((str(path), content, mode))

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        pwd: str | Path = "/",
        environment: Mapping[str, str] | None = None,
        allow_dlopen: int = 2,
        timeout: float = 60,
        input: str | None = None,  # noqa: A002
    ) -> Result:
        return subprocess.run(
            self.command(argv, pwd=pwd, environment=environment, allow_dlopen=allow_dlopen),
            cwd=ROOT,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            input=input,
        )

    def command(
        self,
        argv: Sequence[str | Path],
        *,
        pwd: str | Path = "/",
        environment: Mapping[str, str] | None = None,
        allow_dlopen: int = 2,
    ) -> list[str]:
        """The command line of the driver that runs `argv`; the executable is looked up here."""
        words = [str(word) for word in argv]
        if "/" not in words[0]:
            words[0] = shutil.which(words[0]) or pytest.skip(f"{words[0]} is not installed")
        specification: dict[str, object] = {
            "argv": words,
            "pwd": str(pwd),
            "environment": {"PATH": "/usr/bin:/bin", "LC_ALL": "C", **(environment or {})},
            "files": [
                (path, base64.b64encode(content).decode(), mode)
                for path, content, mode in self.injected
            ],
            "allow_dlopen": allow_dlopen,
        }
        if self.fspf is not None:
            sealed = self.base / "sealed.fspf"
            sealed.write_bytes(self.fspf.sealed)
            specification |= {
                "fspf": str(sealed),
                "key": self.fspf.key.hex(),
                "tag": self.fspf.tag.hex(),
            }
        if self.base_fspf is not None:
            plain = self.base / "base.fspf"
            plain.write_bytes(self.base_fspf)
            specification["base"] = str(plain)
        if self.user is not None:
            specification["user"] = self.user
        path = self.base / "specification.json"
        path.write_text(json.dumps(specification))
        return [sys.executable, "-m", "tests.shield.driver", str(path)]


def compile_program(name: str, into: Path, *, static: bool = True) -> Path:
    """Compile `programs/NAME.c`; static and with threads unless told otherwise."""
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed")
    built = into / name
    subprocess.run(
        [
            *("gcc", "-O1", "-Wall", "-pthread", *(["-static"] if static else [])),
            *("-o", str(built), str(PROGRAMS / f"{name}.c")),
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    return built
