"""Run by the image's own interpreter: compiles the files named on standard input.

Reads JSON, a list of [source, target, name], and writes each target: bytecode with a hash of the
source, so that no time is looked at when it is loaded, nor the source unless its one argument is
`checked`. The same list gives the same bytes. A file that does not compile (some of the library's
tests are meant not to) gets none.
Imports nothing of the project, since it runs on another interpreter.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import marshal
import os
import sys
import warnings

external = importlib.import_module("importlib._bootstrap_external")


def main() -> None:
    """Compile everything."""
    warnings.simplefilter("ignore")
    checked = sys.argv[1:] == ["checked"]
    for source, target, name in json.load(sys.stdin):
        with open(source, "rb") as file:
            text = file.read()
        try:
            compiled = compile(text, name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        # Through bytes once: what the compiler still refers to is written in another form.
        code = marshal.loads(marshal.dumps(compiled))
        data = external._code_to_hash_pyc(code, importlib.util.source_hash(text), checked)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "xb") as written:
            written.write(data)


main()
