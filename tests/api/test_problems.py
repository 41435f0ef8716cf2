"""The table of statuses is whole: every error that exists has its status on purpose."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path

import pytest

import crannog.cas
import crannog.session
from crannog.cas.api.problems import STATUSES, is_internal, problem, status_of
from crannog.cas.api.routes import ACCESS, Operation
from crannog.errors import (
    Error,
    EvidenceRejected,
    FormatError,
    Misconfigured,
    NotFound,
    StorageFailed,
)
from crannog.session.problems import Problem, SessionInvalid

EXPECTED = {
    "error": 500,
    "malformed": 400,
    "already-exists": 400,
    "unauthenticated": 401,
    "denied": 403,
    "evidence-rejected": 403,
    "not-authentic": 500,
    "refused": 403,
    "not-found": 404,
    "method-not-allowed": 405,
    "timed-out": 408,
    "conflict": 409,
    "too-large": 413,
    "session-invalid": 422,
    "substitution-failed": 422,
    "not-supported-yet": 422,
    "misconfigured": 500,
    "evidence-unverifiable": 503,
    "storage-failed": 503,
    "unavailable": 503,
}


def _reachable() -> list[type[Error]]:
    """Every error class of what the CAS loads."""
    for package in (crannog.cas, crannog.session):
        for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if ".store.versions" not in module.name:
                importlib.import_module(module.name)
    found: list[type[Error]] = []
    todo: list[type[Error]] = [Error]
    while todo:
        one = todo.pop()
        if one.__module__.startswith(
            ("crannog.errors", "crannog.cas", "crannog.session", "crannog.transport")
        ):
            found.append(one)
        todo += one.__subclasses__()
    return found


def test_each_error_class_has_its_status_in_the_table() -> None:
    # Command-line templates never reach the CAS. Who has no code of his own has his parent's
    # status too.
    own = [one for one in _reachable() if "code" in vars(one) and one.code in EXPECTED]
    assert [one for one in own if one not in STATUSES] == []
    assert {one.code: STATUSES[one].value for one in STATUSES} == EXPECTED


def test_a_subclass_takes_the_status_of_its_nearest_class() -> None:
    class Special(NotFound):
        code = "special"

    assert status_of(Special("x")) == 404


def test_every_code_and_status_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    rows = re.findall(r"^\| (`[^|]+`) \| (\d+) \|", text, re.MULTILINE)
    documented = {
        code: int(status) for codes, status in rows for code in re.findall(r"`([^`]+)`", codes)
    }
    assert documented == EXPECTED


def test_every_operation_has_its_access() -> None:
    assert set(ACCESS) == set(Operation)


def test_a_cause_chain_is_msg_outermost_first() -> None:
    error = NotFound("outermost")
    error.__cause__ = EvidenceRejected("middle", ["one", "two"], hint="do this")
    body = json.loads(problem(error, "0123").body)
    assert body["msg"] == ["outermost", "middle", "one", "two"]
    assert body["hint"] == "do this"
    assert body["request_id"] == "0123"
    assert body["code"] == "not-found"
    assert body["version"]


def test_the_problems_of_a_session_are_listed_once_and_in_full() -> None:
    error = SessionInvalid([Problem("services[0]", 3, 5, "unknown key", "comand", "command", "x")])
    body = json.loads(problem(error, "").body)
    assert len(body["msg"]) == 2
    assert body["problems"][0]["line"] == 3
    assert body["problems"][0]["suggestion"] == "x"


@pytest.mark.parametrize("kind", [StorageFailed, Misconfigured, Error])
def test_the_operator_s_secrets_stay_with_the_operator(kind: type[Error]) -> None:
    error = kind("/var/lib/crannog/cas.db: no space", hint="df /var", internal="key abc")
    assert is_internal(error)
    text = problem(error, "0123").body.decode()
    assert "/var" not in text
    assert "abc" not in text
    assert "0123" in text


def test_what_is_internal_to_an_error_is_never_sent() -> None:
    error = FormatError("public", internal="only for the log")
    assert b"only for the log" not in problem(error, "").body


def test_503_says_when_to_come_back_and_405_what_is_allowed() -> None:
    assert ("Retry-After", "1") in problem(StorageFailed("x"), "").headers
