"""Run by the Python of a launcher directory: compiles sources given on standard input.

Reads JSON, a list of [source, target, name], and writes each target: bytecode with an unchecked
hash, so that no time and no source is compared when it is loaded, and with `name` as its file. The
list is sorted by its maker: the same list gives the same bytes. Imports nothing of the project,
since it runs on another interpreter.
"""

from __future__ import annotations

import importlib._bootstrap_external as external
import importlib.util
import json
import marshal
import os
import sys


def main() -> None:
    """Compile everything; a file that does not compile ends it."""
    for source, target, name in json.load(sys.stdin):
        with open(source, "rb") as file:
            text = file.read()
        # Through bytes once: what the compiler still refers to is written in another form.
        code = marshal.loads(marshal.dumps(compile(text, name, "exec", dont_inherit=True)))
        data = external._code_to_hash_pyc(  # type: ignore[attr-defined]
            code, importlib.util.source_hash(text), False
        )
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o644)


main()
