"""The launcher's lines on stderr, in the reference's form: `[SCONE|LEVEL] file:line:function(): …`.

Decides form and threshold. What a peer said is bounded and escaped here, whatever the reader of the
exchange did before: terminals obey control characters.
"""

from __future__ import annotations

import os
import sys
from enum import IntEnum


class LogLevel(IntEnum):
    """SCONE_LOG's values; a line is written when its level is at most the chosen one."""

    FATAL = 0
    ERROR = 1
    WARN = 2
    INFO = 3
    DEBUG = 4
    TRACE = 5


_LONGEST = 4000


class Log:
    """Writes lines of the chosen level and worse to a descriptor, whole lines at a time."""

    def __init__(self, level: LogLevel = LogLevel.WARN, descriptor: int = 2) -> None:
        self.level = level
        self.reasons: list[str] = []  # why it failed: the first line and what came after it
        self.notes: list[str] = []  # what an operator who reads of a failure should know as well
        self._descriptor = descriptor

    def fatal(self, message: str) -> None:
        """The program is not started, and this is why."""
        self.reasons.append(message)
        self._write(LogLevel.FATAL, message)

    def error(self, message: str) -> None:
        """Something failed."""
        self.reasons.append(message)
        self._write(LogLevel.ERROR, message)

    def notable(self, message: str) -> None:
        """A warning that may explain a later failure; the same one is written once."""
        if message not in self.notes:
            self.notes.append(message)
            self._write(LogLevel.WARN, message)

    def warn(self, message: str) -> None:
        """Something the operator should know: a level of trust, a value that is not heeded."""
        self._write(LogLevel.WARN, message)

    def info(self, message: str) -> None:
        """What happens."""
        self._write(LogLevel.INFO, message)

    def debug(self, message: str) -> None:
        """How it happens, without secrets."""
        self._write(LogLevel.DEBUG, message)

    def plain(self, line: str) -> None:
        """A line as it is, whatever the level: the rest of a fatal message, SCONE_VERSION's."""
        if self.reasons:
            self.reasons.append(line)
        self._put(printable(line) + "\n")

    def _write(self, level: LogLevel, message: str) -> None:
        if level > self.level:
            return
        frame = sys._getframe(2)
        code = frame.f_code
        where = code.co_filename
        start = where.rfind("crannog/")
        where = where[start:] if start >= 0 else os.path.basename(where)
        self._put(
            f"[SCONE|{level.name}] {where}:{frame.f_lineno}:{code.co_name}(): "
            f"{printable(message)}\n"
        )

    def _put(self, text: str) -> None:
        data = text.encode("utf-8", "backslashreplace")
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError:
            return  # stderr is closed or full; there is nowhere to say so


def printable(text: str) -> str:
    """`text` on one line, of bounded length, with everything a terminal might obey escaped."""
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST:
        return text
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text[:_LONGEST]
    )
    return shown if len(text) <= _LONGEST else f"{shown}… ({len(text)} characters)"
