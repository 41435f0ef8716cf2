"""Log lines of the servers: `LEVEL event key=value … time=…`, one line each, no secret in any.

The level comes first and the time last, so that the field numbers on which scripts around the LAS
rely stay what they are (reference: the public key is field 8). Values that peers chose are quoted.
"""

from __future__ import annotations

import re
import sys
import threading
import time
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

import structlog

_BARE = re.compile(r'[^ "=]+\Z')


class Log(Protocol):
    """What the servers use of structlog."""

    def info(self, event: str, **values: object) -> None:
        """Something that an operator wants to see."""

    def warning(self, event: str, **values: object) -> None:
        """Something that an operator may have to act on."""

    def error(self, event: str, **values: object) -> None:
        """Something that is our fault or the machine's."""


class _Writer:
    """Writes to what is standard error now, so that redirection holds; a broken pipe is ignored."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file
        self._lock = threading.Lock()

    def msg(self, line: str) -> None:
        file = self._file or sys.stderr
        with self._lock:
            try:
                file.write(line + "\n")
                file.flush()
            except (OSError, ValueError):
                return

    info = warning = error = debug = critical = msg


def server_log(file: TextIO | None = None, *, now: Callable[[], datetime] | None = None) -> Log:
    """A logger that writes lines to `file`, or to standard error."""
    clock = now or (lambda: datetime.now(UTC))

    def render(_logger: Any, method: str, values: MutableMapping[str, Any]) -> str:
        event = _plain(str(values.pop("event")))
        parts = [f"{key}={quoted(value)}" for key, value in values.items()]
        return " ".join([method.upper(), event, *parts, f"time={clock():%Y-%m-%dT%H:%M:%SZ}"])

    log: Log = structlog.wrap_logger(
        _Writer(file), processors=[render], wrapper_class=structlog.BoundLogger
    )
    return log


class Sparse:
    """Lets a few lines per second through and counts the rest: what strangers cause."""

    def __init__(self, per_second: int = 5) -> None:
        self._limit = per_second
        self._lock = threading.Lock()
        self._second = 0
        self._passed = 0
        self._dropped = 0

    def take(self) -> int | None:
        """None when the line is to be dropped, else how many were dropped before it."""
        with self._lock:
            second = int(time.monotonic())
            if second != self._second:
                self._second, self._passed = second, 0
            if self._passed >= self._limit:
                self._dropped += 1
                return None
            self._passed += 1
            dropped, self._dropped = self._dropped, 0
            return dropped


def _plain(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else "?" for c in text)


def quoted(value: object) -> str:
    """`value` as it may stand in a line: as it is, or in quotes where it could look like more."""
    text = _plain(str(value))[:500]
    if _BARE.match(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
