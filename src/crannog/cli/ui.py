"""How the command line speaks: results on stdout, everything else on stderr.

- A result is what a script would read: a hash, a session, a tag, one JSON value with `--json`.
- Warnings and progress go to stderr, and so do errors, in the reference's form: `Error: …`, then
  a line `Caused by: …` for each cause, innermost last, and `Hint: …` for what to do about it.
- Nothing asks a question when stdin is not a terminal.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping

from crannog.errors import Error, StorageFailed, chain, hints
from crannog.wire import Json, encode_json


class Ui:
    """The two streams; `program` is the name that the user called."""

    def __init__(self) -> None:
        self.program = "crannog"

    def result(self, text: str) -> None:
        """A line of the result, on stdout.

        As it is, for files and scripts; a terminal gets no control characters.

        Raises:
            StorageFailed: it cannot be written; a full disk, say.
            BrokenPipeError: its reader has gone.
        """
        if sys.stdout.isatty():
            text = _printable(text)
        try:
            sys.stdout.write(text if text.endswith("\n") else text + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self.abandon_output()
            raise StorageFailed(f"cannot write the output: {error.strerror}") from error

    def abandon_output(self) -> None:
        """Let what is still in stdout's buffer go nowhere, so that it does not raise at exit."""
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def json(self, value: Mapping[str, Json] | Json) -> None:
        """The result as one line of JSON with sorted keys."""
        self.result(encode_json(value).decode("utf-8"))

    def note(self, text: str) -> None:
        """Something to know, on stderr."""
        print(_printable(text), file=sys.stderr, flush=True)

    def warning(self, text: str) -> None:
        """Something to think about, on stderr."""
        print(f"Warning: {_printable(text)}", file=sys.stderr, flush=True)

    def error(self, error: Error, *, doing: str = "") -> int:
        """Print an error with its causes and hints; its exit status."""
        lines = list(chain(error))
        if doing:
            lines.insert(0, doing)
        print(f"Error: {_printable(lines[0])}", file=sys.stderr)
        for line in lines[1:]:
            print(f"Caused by: {_printable(line)}", file=sys.stderr)
        for hint in hints(error):
            print(f"Hint: {_printable(hint)}", file=sys.stderr)
        sys.stderr.flush()
        return error.exit_code


def _printable(text: str) -> str:
    """Text as it may go to a terminal: what a peer wrote must not move the cursor."""
    return "".join(
        char if char in "\n\t" or char.isprintable() else f"\\x{ord(char):02x}" for char in text
    )


ui = Ui()
