"""How the command line speaks: results on stdout, everything else on stderr.

- A result is what a script would read: a hash, a session, a tag, one JSON value with `--json`.
- Warnings, progress and errors go to stderr; errors as `PROGRAM: error: …`, their causes as
  `caused by: …`, and what to do about it as `PROGRAM: hint: …`.
- Nothing asks a question when stdin is not a terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from crannog.errors import Error, chain, hints
from crannog.wire import Json, encode_json


class Ui:
    """The two streams under one program name; `output` replaces stdout where `-o FILE` is given."""

    def __init__(self) -> None:
        self.program = "crannog"

    def result(self, text: str) -> None:
        """A line of the result, on stdout."""
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()

    def json(self, value: Mapping[str, Json] | Json) -> None:
        """The result as one line of JSON with sorted keys."""
        self.result(encode_json(value).decode("utf-8"))

    def note(self, text: str) -> None:
        """Something to know, on stderr."""
        print(f"{self.program}: {_printable(text)}", file=sys.stderr, flush=True)

    def warning(self, text: str) -> None:
        """Something to think about, on stderr."""
        print(f"{self.program}: warning: {_printable(text)}", file=sys.stderr, flush=True)

    def error(self, error: Error, *, doing: str = "") -> int:
        """Print an error with its causes and hints; its exit status."""
        lines = list(chain(error))
        if doing:
            lines.insert(0, doing)
        print(f"{self.program}: error: {_printable(lines[0])}", file=sys.stderr)
        for line in lines[1:]:
            print(f"  caused by: {_printable(line)}", file=sys.stderr)
        for hint in hints(error):
            print(f"{self.program}: hint: {_printable(hint)}", file=sys.stderr)
        sys.stderr.flush()
        return error.exit_code


def _printable(text: str) -> str:
    """Text as it may go to a terminal: what a peer wrote must not move the cursor."""
    return "".join(
        char if char in "\n\t" or char.isprintable() else f"\\x{ord(char):02x}" for char in text
    )


ui = Ui()
