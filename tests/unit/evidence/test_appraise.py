from __future__ import annotations

import pytest

from crannog.errors import EvidenceRejected
from crannog.evidence.appraise import CONTAINER_FIELDS, Requirements, appraise
from crannog.evidence.claims import Claims
from crannog.evidence.subject import Container, Pins
from crannog.levels import Level
from crannog.session.document import CLAIM_NAMES

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
    others = frozenset({OTHER})
    required = Requirements(
        (OTHER,), Level.HARDWARE, others, others, ((("pod", "p"),),), str.isspace, "ab" * 32
    )
    error = _rejected(CLAIMS._replace(pins=Pins("x", "y")), required)
    assert len(error.mismatches) == 7
    assert error.hint.count("; ") >= 5


# --- the container --------------------------------------------------------------------------------

WHERE = Container("docker", "c" * 64, name="web", image="shop:1", image_id="sha256:0")
WITNESSED = CLAIMS._replace(container=WHERE)


def _requires(*containers: dict[str, str]) -> Requirements:
    return Requirements(
        (ONE,), Level.NODE, containers=tuple(tuple(one.items()) for one in containers)
    )


def test_the_required_container_is_accepted() -> None:
    appraise(WITNESSED, _requires({"image": "shop:1", "container": "web", "engine": "docker"}))


def test_one_of_the_required_containers_is_enough() -> None:
    appraise(WITNESSED, _requires({"image": "other"}, {"image_id": "sha256:0"}))


def test_the_parts_of_two_containers_do_not_make_one() -> None:
    required = _requires({"image": "shop:1", "container": "x"}, {"image": "y", "container": "web"})
    assert len(_rejected(WITNESSED, required).mismatches) == 2


def test_each_difference_has_a_line() -> None:
    error = _rejected(WITNESSED, _requires({"image": "shop:2", "pod": "p", "engine": "docker"}))
    assert error.mismatches == (
        "Unexpected container: image 'shop:1' - Expected 'shop:2'",
        "Unexpected container: pod is not known - Expected 'p'",
    )
    assert "the audit log has what the LAS found" in error.hint


def test_a_container_s_name_cannot_forge_a_line() -> None:
    claims = CLAIMS._replace(container=WHERE._replace(name="x\n\x1b[2J"))
    error = _rejected(claims, _requires({"container": "web"}))
    assert error.mismatches == (r"Unexpected container: container 'x\n\x1b[2J' - Expected 'web'",)


def test_without_a_container_no_claim_is_met() -> None:
    error = _rejected(CLAIMS, _requires({"engine": "docker"}))
    assert error.mismatches == (
        "No container is vouched for at level node - Expected one of the session's",
    )


@pytest.mark.parametrize("name", CONTAINER_FIELDS)
def test_every_word_of_the_language_is_compared(name: str) -> None:
    known = WHERE._replace(namespace="n", pod="p")
    claims = CLAIMS._replace(container=known)
    appraise(claims, _requires({name: getattr(known, CONTAINER_FIELDS[name])}))
    _rejected(claims, _requires({name: "other"}))


def test_the_words_are_those_of_the_session_language() -> None:
    assert tuple(CONTAINER_FIELDS) == CLAIM_NAMES


# --- pins and launchers ---------------------------------------------------------------------------


def _pinned(key: str = "", version: str = "") -> Claims:
    return CLAIMS._replace(pins=Pins(key, version))


OURS = Requirements((ONE,), Level.SIMULATION, own_key="ours".__eq__, session_hash="ab" * 32)


def test_a_program_that_pins_this_cas_and_version_is_accepted() -> None:
    appraise(_pinned("ours", "ab" * 32), OURS)
    appraise(_pinned(), OURS)


def test_a_program_that_pins_another_cas_is_refused() -> None:
    error = _rejected(_pinned("theirs"), OURS)
    assert error.mismatches == (
        "The program insists on the CAS of key 'theirs' - Expected this one",
    )
    assert "CRANNOG_CAS_KEY" in error.hint


def test_a_program_that_pins_another_version_is_refused() -> None:
    error = _rejected(_pinned("ours", "cd" * 32), OURS)
    assert error.mismatches == (
        f"The program insists on session version {'cd' * 32!r} - Expected {'ab' * 32}",
    )


def test_a_long_pin_is_shortened() -> None:
    (line,) = _rejected(_pinned("x" * 1000), OURS).mismatches
    assert len(line) < 200


def test_a_launcher_s_own_word_at_level_simulation_is_not_looked_at() -> None:
    claims = CLAIMS._replace(level=Level.SIMULATION)
    appraise(claims, Requirements((ONE,), Level.SIMULATION, launchers=frozenset({OTHER})))
