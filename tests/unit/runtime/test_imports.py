"""What the launcher imports is start-up time, and what has to be trusted before the evidence."""

from __future__ import annotations

import subprocess
import sys

import pytest

LARGE = {"cryptography", "OpenSSL", "ctypes", "hashlib", "socket", "ssl", "json", "dataclasses"}
NEVER = {"typer", "rich", "pydantic", "yaml", "sqlalchemy", "h11", "werkzeug", "structlog"}


def imported(code: str) -> set[str]:
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    # -I -S: a .pth file of the environment may import what it likes.
    path = "import sys; sys.path[:0] = " + repr([p for p in sys.path if p]) + "\n"
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", path + code], capture_output=True, text=True, check=True
    )
    return set(found.stdout.split())


def test_a_plain_start_imports_almost_nothing() -> None:
    found = imported(
        "import crannog.runtime.command, crannog.runtime.launch, crannog.runtime.spawn"
    )
    assert not found & (LARGE | NEVER)


def test_measuring_imports_no_cryptography() -> None:
    assert not imported("import crannog.measure.program") & {"cryptography", "OpenSSL", "ssl"}


@pytest.mark.parametrize(
    "module", ["crannog.runtime.attest", "crannog.runtime.supervisor.run", "crannog.shield.fspf"]
)
def test_no_part_of_the_launcher_imports_the_servers_libraries(module: str) -> None:
    assert not imported(f"import {module}") & NEVER
