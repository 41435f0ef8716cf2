"""What the demo prints, and its memory of what was not as it should be."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Narrator:
    """Tells the story on stdout and counts the checks."""

    def __init__(self) -> None:
        self._failed: list[str] = []
        self._passed = 0
        self._started = time.monotonic()
        self._bold, self._dim, self._end = (
            ("\033[1m", "\033[2m", "\033[0m") if sys.stdout.isatty() else ("", "", "")
        )

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        print(f"\n{self._bold}== {title}{self._end}", flush=True)

    def say(self, text: str) -> None:
        """A line of the story."""
        print(text, flush=True)

    def command(self, text: str) -> None:
        """A command as the user would type it."""
        print(f"{self._bold}$ {text}{self._end}", flush=True)

    def output(self, text: str) -> None:
        """What a command or a server said."""
        for line in text.rstrip("\n").splitlines():
            print(f"{self._dim}  | {self._end}{line}", flush=True)

    def check(self, what: str, found: T, good: Callable[[T], bool], expected: str) -> None:
        """Record whether `found` is as it should be, and say so."""
        if good(found):
            self._passed += 1
            print(f"  ok: {what}", flush=True)
        else:
            self._failed.append(what)
            print(
                f"  NOT OK: {what}\n    found:    {found!r}\n    expected: {expected}", flush=True
            )

    def summarise(self) -> int:
        """The last lines; the demo's exit status."""
        seconds = time.monotonic() - self._started
        print()
        for what in self._failed:
            print(f"failed: {what}")
        print(f"{self._passed} checks passed, {len(self._failed)} failed, in {seconds:.1f} s")
        return 1 if self._failed else 0
