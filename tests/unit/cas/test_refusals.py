from __future__ import annotations

import pytest

from crannog.cas.refusals import public_refusal
from crannog.errors import (
    Denied,
    Error,
    EvidenceRejected,
    IntegrityError,
    NotFound,
    StorageFailed,
    Unavailable,
)
from crannog.evidence.claims import Claims
from crannog.levels import Level
from tests.unit.cas.support import claims

REJECTED = EvidenceRejected("not trustworthy", ["Expected abc"], hint="register it")
PROVEN = claims(level=Level.NODE)
UNPROVEN = claims(level=Level.SIMULATION)


def refusal(error: Error, minimum: Level, evidence: Claims | None) -> tuple[str, ...]:
    found = public_refusal(error, minimum=minimum, claims=evidence, request_id="r-17")
    return (*found.messages, found.hint)


@pytest.mark.parametrize("evidence", [None, UNPROVEN, PROVEN])
def test_in_simulation_everybody_hears_everything(evidence: Claims | None) -> None:
    assert refusal(REJECTED, Level.SIMULATION, evidence) == (
        "not trustworthy",
        "Expected abc",
        "register it",
    )


@pytest.mark.parametrize("minimum", [Level.NODE, Level.HARDWARE])
def test_a_program_with_authentic_evidence_hears_everything(minimum: Level) -> None:
    assert "Expected abc" in refusal(REJECTED, minimum, PROVEN)


@pytest.mark.parametrize("minimum", [Level.NODE, Level.HARDWARE])
@pytest.mark.parametrize("evidence", [None, UNPROVEN])
@pytest.mark.parametrize("error", [REJECTED, NotFound("abc"), Denied("abc"), IntegrityError("abc")])
def test_an_unproven_peer_hears_the_check_and_a_request_id(
    minimum: Level, evidence: Claims | None, error: Error
) -> None:
    told = refusal(error, minimum, evidence)
    assert told[0] == f"refused by check {error.code}, request id r-17"
    assert "abc" not in " ".join(told)
    assert "register" not in " ".join(told)


@pytest.mark.parametrize("minimum", list(Level))
def test_nobody_hears_about_the_disk(minimum: Level) -> None:
    error = StorageFailed("database /var/lib/cas.db: the disk is full", hint="/var")
    assert "/var" not in " ".join(refusal(error, minimum, PROVEN))


@pytest.mark.parametrize(
    ("error", "retry"), [(REJECTED, False), (Unavailable("x"), True), (StorageFailed("x"), True)]
)
def test_whether_to_try_again_is_said(error: Error, retry: bool) -> None:
    found = public_refusal(error, minimum=Level.HARDWARE, claims=None, request_id="r")
    assert found.retry is retry
    assert found.code == error.code
