"""Runs one program under the shield in a process of its own; what a test calls.

`python -m tests.shield.driver SPECIFICATION`, a JSON document: the launcher has to be a process
with one thread and without other children, which pytest is not.
"""

from __future__ import annotations

import base64
import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

from crannog.errors import Error, chain, hints
from crannog.linux.process import forbid_core_dumps
from crannog.runtime.init import hold_signals
from crannog.runtime.supervisor.run import run_shielded
from crannog.runtime.supervisor.world import InjectedFile, World
from crannog.shield.fspf import open_fspf, open_plain


def main(specification: dict[str, Any]) -> int:
    fspf = None
    if "fspf" in specification:
        fspf = open_fspf(
            Path(specification["fspf"]).read_bytes(),
            key=bytes.fromhex(specification["key"]),
            tag=bytes.fromhex(specification["tag"]),
        )
    world = World(
        fspf=fspf,
        files=tuple(
            InjectedFile(os.fsencode(path), base64.b64decode(content), mode)
            for path, content, mode in specification["files"]
        ),
        allow_dlopen=specification.get("allow_dlopen", 2),
        base=open_plain(Path(specification["base"]).read_bytes())
        if "base" in specification
        else None,
    )
    if "user" in specification:
        user = specification["user"]
        # What a start loads only sometimes: the tests' interpreter may lie where that user cannot
        # read. A real launcher is that user from the beginning.
        importlib.import_module("hashlib")
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    forbid_core_dumps()
    hold_signals()
    try:
        return run_shielded(
            executable=specification["argv"][0],
            argv=specification["argv"],
            environment=specification["environment"],
            pwd=specification["pwd"],
            world=world,
        )
    except Error as error:
        for line in chain(error):
            print(f"error: {line}", file=sys.stderr)
        for line in hints(error):
            print(f"hint: {line}", file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_text())))
