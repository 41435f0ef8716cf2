"""What is wrong with a document, all of it at once, and how it is said.

A `Problem` names the place (path, line, column), what was found there, what was expected, and a
suggestion where one is known. `found` never repeats a value that may be a secret: who makes a
problem about a key, a token or a value describes its shape.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, NoReturn

from crannog.errors import Error

MAX_PROBLEMS = 100
_SHOWN = 80


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, or (as a warning) one thing worth knowing.

    Attributes:
        path: `services[0].mrenclaves[1]`; empty for the document as a whole.
        line: from 1; 0 where the document as a whole is meant.
        column: from 1; 0 likewise.
        message: what is wrong, with what was found and what was expected in it.
        found: what stands there, shortened; a description where it may be secret.
        expected: what would be right.
        suggestion: what to write or do instead.
    """

    path: str
    line: int
    column: int
    message: str
    found: str = ""
    expected: str = ""
    suggestion: str = ""

    def __str__(self) -> str:
        """One line: place, what is wrong, what to do."""
        place = f"line {self.line}: " if self.line else ""
        path = f"{self.path}: " if self.path else ""
        text = self.message
        if self.found:
            text += f", found {self.found}" if text else f"found {self.found}"
        if self.expected:
            text += f", expected {self.expected}"
        if self.suggestion:
            text += f"; {self.suggestion}"
        return place + path + text


class SessionInvalid(Error):
    """The document is not a session that can be accepted. `problems` holds all of them."""

    code: ClassVar[str] = "session-invalid"

    def __init__(self, problems: Iterable[Problem], *, name: str = "") -> None:
        self.problems = tuple(problems)
        self.details = tuple(str(problem) for problem in self.problems)
        count = f"{len(self.problems)} problem{'s' if len(self.problems) != 1 else ''}"
        what = f"session {name!r}" if name else "session"
        super().__init__(f"{what} is not valid: {count}")


class Collector:
    """Gathers problems and warnings while a document is walked.

    Stops the walk at `MAX_PROBLEMS`: a hostile document is not worth a megabyte of complaints.
    """

    def __init__(self) -> None:
        self.name = ""
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    def add(self, problem: Problem) -> None:
        """Note a problem; raises `SessionInvalid` when there are too many to go on."""
        self._problems.append(problem)
        if len(self._problems) >= MAX_PROBLEMS:
            self.fail()

    def warn(self, warning: Problem) -> None:
        """Note a warning; beyond `MAX_PROBLEMS` they are dropped."""
        if len(self._warnings) < MAX_PROBLEMS:
            self._warnings.append(warning)

    def fail(self) -> NoReturn:
        """Raise what was gathered, in the order of the document."""
        raise SessionInvalid(
            sorted(self._problems, key=lambda p: (p.line, p.column, p.path)), name=self.name
        )

    @property
    def failed(self) -> bool:
        """Whether there is any problem."""
        return bool(self._problems)

    @property
    def warnings(self) -> tuple[Problem, ...]:
        """The warnings, in the order of the document."""
        return tuple(sorted(self._warnings, key=lambda p: (p.line, p.column, p.path)))


def quoted(text: str) -> str:
    """`text` in quotes, shortened, control characters escaped: safe to print in an error."""
    shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
    return '"' + "".join(c if c.isprintable() else ascii(c)[1:-1] for c in shown) + '"'


def did_you_mean(text: str, known: Iterable[str]) -> str:
    """`did you mean "x"?` for the nearest of `known`, or nothing."""
    candidates = tuple(known)
    if len(text) > 2 * _SHOWN or len(candidates) > 200:
        return ""  # the comparison is quadratic, and such a key is no slip of the finger
    lowered = {name.lower(): name for name in candidates}
    near = difflib.get_close_matches(text.lower().replace("-", "_"), lowered, n=1, cutoff=0.7)
    near = near or difflib.get_close_matches(text.lower(), lowered, n=1, cutoff=0.7)
    return f'did you mean "{lowered[near[0]]}"?' if near else ""
