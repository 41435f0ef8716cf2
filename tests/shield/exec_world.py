"""Runs programs under the shield for the tests of execution, listings and loading.

As a module it is the launcher of one program: `python -m tests.shield.exec_world FILE`, where FILE
is JSON of `Run`'s making. Run so, since the launcher has to have one thread and no other children.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"


class Result(NamedTuple):
    """What a run left."""

    status: int
    out: str
    err: str


class World:
    """A region `app` under a temporary directory, its plain source beside it."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.plain = base / "plain"
        self.app = base / "app"
        self.fspf = base / "fspf.pb"
        self.plain.mkdir()
        self.injected: list[tuple[str, bytes, int]] = []

    def add(self, name: str, content: bytes | str, mode: int = 0o644) -> None:
        path = self.plain / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        path.chmod(mode)

    def link(self, name: str, target: str) -> None:
        path = self.plain / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)

    def compile(self, source: str, name: str, *options: str) -> None:
        compile_program(source, self.plain / name, *options)

    def inject(self, path: Path, content: bytes | str, mode: int = 0o644) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.injected.append((str(path), data, mode))

    def protect(self, protection: str = "ENCRYPTED") -> None:
        from crannog.protect import edit
        from crannog.shield.model import Protection

        fspf, app = os.fsencode(self.fspf), os.fsencode(self.app)
        self.app.mkdir(exist_ok=True)
        edit.create(fspf)
        edit.add_region(fspf, app, Protection[protection], app)
        edit.add_files(fspf, app, os.fsencode(self.plain), app)
        self.fspf.chmod(0o644)

    def run(
        self,
        *argv: str | Path,
        executable: str | Path | None = None,
        environment: Mapping[str, str] | None = None,
        pwd: str = "/",
        allow_dlopen: int = 2,
        measured: Sequence[str] = (),
        user: int | None = None,
        one_core: bool = False,
        timeout: float = 120,
    ) -> Result:
        job = {
            "argv": [str(word) for word in argv],
            "executable": str(executable or argv[0]),
            "environment": {"PATH": "/usr/bin:/bin", **(environment or {})},
            "pwd": pwd,
            "fspf": str(self.fspf) if self.fspf.exists() else "",
            "files": [
                (path, base64.b64encode(data).decode(), mode) for path, data, mode in self.injected
            ],
            "allow_dlopen": allow_dlopen,
            "measured": list(measured),
        }
        file = self.base / "job.json"
        file.write_text(json.dumps(job))
        command = [sys.executable, "-m", "tests.shield.exec_world", str(file)]
        if user is not None:
            command = [*without_rights(user), *command]
        if one_core:
            command = ["taskset", "-c", "0", *command]
        done = subprocess.run(
            command,
            cwd=ROOT,
            capture_output=True,
            timeout=timeout,
            check=False,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        )
        return Result(
            done.returncode,
            done.stdout.decode(errors="replace"),
            done.stderr.decode(errors="replace"),
        )


def without_rights(user: int) -> list[str]:
    """What runs a command as another user, with no capability left and no_new_privs set."""
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    return [
        "setpriv",
        f"--reuid={user}",
        f"--regid={user}",
        "--clear-groups",
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--no-new-privs",
    ]


def compile_program(source: str, target: Path, *options: str) -> None:
    """Compile one of the programs beside this file; skips without a compiler."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            ["cc", "-O1", "-pthread", "-o", target, PROGRAMS / source, *options],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("no C compiler")


def main(path: str) -> int:
    from crannog.errors import Error
    from crannog.linux.process import forbid_core_dumps
    from crannog.runtime.init import hold_signals
    from crannog.runtime.supervisor.run import run_shielded
    from crannog.runtime.supervisor.world import InjectedFile
    from crannog.runtime.supervisor.world import World as Seen
    from crannog.shield.fspf import open_plain

    job = json.loads(Path(path).read_text())
    world = Seen(
        fspf=open_plain(Path(job["fspf"]).read_bytes()) if job["fspf"] else None,
        files=tuple(
            InjectedFile(os.fsencode(path), base64.b64decode(data), mode)
            for path, data, mode in job["files"]
        ),
        allow_dlopen=job["allow_dlopen"],
        measured=tuple(_measured(path) for path in job["measured"]),
    )
    forbid_core_dumps()  # as the launcher does: it is unreadable then, to others and by path
    hold_signals()
    try:
        return run_shielded(
            executable=job["executable"],
            argv=job["argv"],
            environment=job["environment"],
            pwd=job["pwd"],
            world=world,
        )
    except Error as error:
        print(f"{error.code}: {error.message}", file=sys.stderr)
        return error.exit_code


def _measured(path: str):  # type: ignore[no-untyped-def]
    from crannog.measure.program import MeasuredFile
    from crannog.measure.root import FileIdentity

    status = os.stat(path)
    return MeasuredFile(
        path,
        FileIdentity(
            status.st_dev,
            status.st_ino,
            status.st_size,
            status.st_mtime_ns,
            status.st_ctime_ns,
        ),
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
