from __future__ import annotations

import pytest

from crannog.errors import EvidenceRejected
from crannog.evidence.appraise import Requirements, appraise
from crannog.evidence.claims import Claims
from crannog.levels import Level

ONE, TWO, OTHER = b"\x01" * 32, b"\x02" * 32, b"\x03" * 32
CLAIMS = Claims(
    level=Level.NODE,
    method="las/unix",
    mrenclave=ONE,
    report_data=b"r" * 64,
    launcher=b"l" * 32,
    config_id="s/a",
    cas="cas",
    signer=b"k" * 32,
    issued_at=1,
    reason="",
)


def _rejected(claims: Claims, requirements: Requirements) -> EvidenceRejected:
    with pytest.raises(EvidenceRejected) as caught:
        appraise(claims, requirements)
    return caught.value


def test_a_listed_measurement_is_accepted() -> None:
    appraise(CLAIMS, Requirements((TWO, ONE), Level.NODE))


def test_a_wrong_measurement_has_the_reference_s_text() -> None:
    error = _rejected(CLAIMS, Requirements((OTHER,), Level.SIMULATION))
    assert error.message == "None of the required enclave properties are met by the enclave"
    assert error.mismatches == (
        f"Unexpected enclave measurement (MRENCLAVE, {ONE.hex()}) - Expected {OTHER.hex()}",
    )
    assert "SCONE_HASH=1" in error.hint


def test_several_wrong_measurements_are_numbered() -> None:
    error = _rejected(CLAIMS, Requirements((TWO, OTHER), Level.SIMULATION))
    assert [line[:14] for line in error.mismatches] == ["Error 1 of 2: ", "Error 2 of 2: "]
    assert error.mismatches[1].endswith(f"(MRENCLAVE, {ONE.hex()}) - Expected {OTHER.hex()}")


def test_no_accepted_measurement_accepts_none() -> None:
    _rejected(CLAIMS, Requirements((), Level.SIMULATION))


def test_a_level_that_is_too_low_is_refused_with_its_reason() -> None:
    claims = CLAIMS._replace(level=Level.SIMULATION, reason="not enrolled")
    error = _rejected(claims, Requirements((ONE,), Level.NODE))
    assert error.message == "Not all of the required enclave properties are met by the enclave"
    assert error.mismatches == (
        "Trust level is simulation (not enrolled) - Expected at least node",
    )


def test_a_stronger_level_than_asked_for_is_accepted() -> None:
    appraise(CLAIMS._replace(level=Level.HARDWARE), Requirements((ONE,), Level.NODE))


def test_an_unknown_launcher_is_refused() -> None:
    error = _rejected(CLAIMS, Requirements((ONE,), Level.NODE, launchers=frozenset({OTHER})))
    assert "launcher" in error.mismatches[0]


def test_an_unlisted_platform_is_refused() -> None:
    error = _rejected(CLAIMS, Requirements((ONE,), Level.NODE, platforms=frozenset({OTHER})))
    assert "platform" in error.mismatches[0]


def test_an_empty_list_of_launchers_accepts_none() -> None:
    _rejected(CLAIMS, Requirements((ONE,), Level.NODE, launchers=frozenset()))


def test_every_mismatch_is_listed() -> None:
    error = _rejected(
        CLAIMS, Requirements((OTHER,), Level.HARDWARE, frozenset({OTHER}), frozenset({OTHER}))
    )
    assert len(error.mismatches) == 4
