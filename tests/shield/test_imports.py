"""While it serves, the launcher loads none of its own code any more.

By then its files may be another user's to read, and somebody else's to change.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crannog.shield.model import Protection
from tests.shield.harness import ROOT, Shield

DRIVER = """
import json, sys
from pathlib import Path
from crannog.runtime.supervisor.loop import Supervisor
from tests.shield import driver

serve, before = Supervisor.serve, set()

def noting(*arguments):
    serve(*arguments)
    before.update(sys.modules)

Supervisor.serve = noting
status = driver.main(json.loads(Path(sys.argv[1]).read_text()))
print("loaded:", sorted(set(sys.modules) - before), status)
"""


@pytest.mark.parametrize("protection", [Protection.ENCRYPTED, Protection.AUTHENTICATED])
def test_nothing_is_imported_while_it_serves(tmp_path: Path, protection: Protection) -> None:
    shield = Shield(tmp_path)
    shield.protect(
        {"a.txt": b"alpha", "sub/b.txt": b"beta", "run": b"#!/bin/sh\necho ran\n"},
        links={"link": "a.txt", "out": "/etc/hostname"},
        modes={"run": 0o755},
        protection=protection,
    )
    shield.inject(tmp_path / "key", b"key")
    script = (
        f"cd {shield.app}; ls -lR . ..; cat a.txt link out sub/b.txt ../key; ./run; pwd -P;"
        " readlink link; cp -a . ../copy; touch a.txt; mkdir new; mv a.txt c; ln a.txt d;"
        " cat missing; cat /proc/self/fd/../cwd/a.txt; echo x > ../key; chmod 600 ../key"
    )
    specification = shield.command(["/bin/sh", "-c", script])[-1]
    result = subprocess.run(
        [sys.executable, "-c", DRIVER, specification],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "loaded: [] " in result.stdout, result.stdout[-400:] + result.stderr[-400:]
