"""Small documents and what loading them says."""

from __future__ import annotations

import pytest

from crannog.session.document import Session
from crannog.session.load import load_session
from crannog.session.problems import Problem, SessionInvalid

M = "ab" * 32


def load(text: str) -> Session:
    """The session of `text`."""
    return load_session(text.encode()).session


def refused(text: str) -> tuple[Problem, ...]:
    """The problems of `text`, which has to be refused."""
    with pytest.raises(SessionInvalid) as caught:
        load_session(text.encode())
    return caught.value.problems


def said(text: str) -> str:
    """The one line that is said about `text`."""
    (problem,) = refused(text)
    return str(problem)


def warned(text: str) -> list[str]:
    """The warnings of `text`, a line each."""
    return [str(warning) for warning in load_session(text.encode()).warnings]


def service(rest: str = "", *, version: str = "0.3", head: str | None = None) -> str:
    """A document with one service; `rest` is one key a line."""
    lines = (head or f"name: app\ncommand: run\nmrenclaves: [{M}]").split("\n")
    lines += rest.split("\n") if rest else []
    body = "\n".join(("  - " if i == 0 else "    ") + line for i, line in enumerate(lines))
    return f'name: s\nversion: "{version}"\nservices:\n{body}\n'
