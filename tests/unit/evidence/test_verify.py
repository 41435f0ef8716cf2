from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import FormatError, IntegrityError
from crannog.evidence.claims import Claims, Trust
from crannog.evidence.envelope import Envelope
from crannog.evidence.report import Channel, report_data
from crannog.evidence.statement import Statement, sign_statement
from crannog.evidence.subject import Container, Pins
from crannog.evidence.verify import Expected, verify, verify_bound
from crannog.levels import Level

NOW = datetime(2026, 11, 23, tzinfo=UTC)
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
ENROLLED = Trust(frozenset({PUBLIC}))
NOBODY = Trust()
CHANNEL = Channel(b"e" * 32, b"client key", b"server key")
NONCE = b"n" * 32
BOUND = report_data(role=b"service", nonce=NONCE, channel=CHANNEL, config_id="s/a")
EXPECTED = Expected(BOUND, "s/a", b"l" * 32)


def _envelope(
    level: Level = Level.SIMULATION,
    *,
    mrenclave: bytes = b"m" * 32,
    bound: bytes = BOUND,
    launcher: bytes = b"l" * 32,
    config_id: str = "s/a",
    method: str = "las/witness",
) -> Envelope:
    return sign_statement(
        Statement(level, method, mrenclave, bound, launcher, config_id, "cas", 1), KEY
    )


def _claims(level: Level, trust: Trust) -> Claims:
    return verify(_envelope(level), trust, NOW)


@pytest.mark.parametrize("claimed", Level)
def test_an_unknown_key_is_worth_simulation_whatever_it_says(claimed: Level) -> None:
    claims = _claims(claimed, NOBODY)
    assert claims.level is Level.SIMULATION
    assert "not enrolled" in claims.reason


def test_an_enrolled_key_that_says_simulation_is_worth_simulation() -> None:
    assert _claims(Level.SIMULATION, ENROLLED).level is Level.SIMULATION


def test_an_enrolled_key_that_says_node_is_worth_node() -> None:
    assert _claims(Level.NODE, ENROLLED).level is Level.NODE


@pytest.mark.parametrize("method", ["las/tcp", "las/unix", "launcher", "", "las/witness2"])
def test_an_enrolled_key_that_did_not_look_is_worth_simulation(method: str) -> None:
    claims = verify(_envelope(Level.NODE, method=method), ENROLLED, NOW)
    assert claims.level is Level.SIMULATION


def test_a_statement_is_never_worth_hardware() -> None:
    assert _claims(Level.HARDWARE, ENROLLED).level is Level.NODE


CONTAINER = Container("docker", "c" * 64, image="shop:1")
PINS = Pins("key", "version")


def _told(level: Level, trust: Trust, *, method: str = "las/witness", reason: str = "") -> Claims:
    statement = Statement(
        level, method, b"m" * 32, BOUND, b"l" * 32, "s/a", "cas", 1, reason, PINS, CONTAINER
    )
    return verify(sign_statement(statement, KEY), trust, NOW)


def test_pins_and_container_are_claims_at_level_node() -> None:
    claims = _told(Level.NODE, ENROLLED)
    assert (claims.pins, claims.container, claims.reason) == (PINS, CONTAINER, "")


@pytest.mark.parametrize(
    ("level", "trust", "method"),
    [
        (Level.NODE, NOBODY, "las/witness"),
        (Level.NODE, ENROLLED, "las/unix"),
        (Level.NODE, ENROLLED, "las/tcp"),
        (Level.SIMULATION, ENROLLED, "las/witness"),
    ],
)
def test_below_node_they_are_anybody_s_word_and_dropped(
    level: Level, trust: Trust, method: str
) -> None:
    claims = _told(level, trust, method=method)
    assert claims.level is Level.SIMULATION
    assert (claims.pins, claims.container) == (Pins(), None)


def test_an_enrolled_las_says_why() -> None:
    claims = _told(Level.SIMULATION, ENROLLED, method="las/unix", reason="args[0] is\nsh")
    assert claims.reason == "the LAS: args[0] is?sh"


def test_an_enrolled_las_that_does_not_say_why_is_named_by_its_method() -> None:
    assert _told(Level.NODE, ENROLLED, method="las/\x1b").reason == "the LAS: its method is las/?"


def test_a_stranger_s_reason_is_not_taken() -> None:
    claims = _told(Level.SIMULATION, NOBODY, reason="enrol me")
    assert claims.reason == f"the key that signed, {PUBLIC.hex()}, is not enrolled at this CAS"


def test_the_signer_is_in_the_claims() -> None:
    assert _claims(Level.NODE, ENROLLED).signer == PUBLIC


def test_an_unknown_media_type_is_refused_by_name() -> None:
    with pytest.raises(FormatError, match="application/x-new"):
        verify(Envelope("application/x-new", b""), NOBODY, NOW)


def test_evidence_for_this_connection_is_accepted() -> None:
    claims = verify_bound([_envelope()], EXPECTED, trust=NOBODY, now=NOW)
    assert claims.mrenclave == b"m" * 32


def _refused(*envelopes: Envelope, expected: Expected = EXPECTED) -> str:
    with pytest.raises(IntegrityError) as caught:
        verify_bound(envelopes, expected, trust=ENROLLED, now=NOW)
    return str(caught.value)


def test_evidence_for_another_nonce_is_refused() -> None:
    bound = report_data(role=b"service", nonce=b"N" * 32, channel=CHANNEL, config_id="s/a")
    assert "another connection" in _refused(_envelope(bound=bound))


@pytest.mark.parametrize("field", ["exporter", "client_key", "server_key"])
def test_evidence_for_another_channel_is_refused(field: str) -> None:
    channel = CHANNEL._replace(**{field: b"x" * 32})
    bound = report_data(role=b"service", nonce=NONCE, channel=channel, config_id="s/a")
    assert "another connection" in _refused(_envelope(bound=bound))


def test_evidence_for_another_role_is_refused() -> None:
    bound = report_data(role=b"las", nonce=NONCE, channel=CHANNEL, config_id="s/a")
    assert "another connection" in _refused(_envelope(bound=bound))


def test_evidence_for_another_configuration_is_refused() -> None:
    assert "configuration id" in _refused(_envelope(config_id="s/b"))


def test_evidence_that_names_another_launcher_is_refused() -> None:
    assert "launcher" in _refused(_envelope(launcher=b"x" * 32))


def test_one_bad_envelope_among_good_ones_is_refused() -> None:
    assert "another connection" in _refused(_envelope(), _envelope(bound=b"x" * 64))


def test_envelopes_about_different_programs_are_refused() -> None:
    assert "different programs" in _refused(_envelope(), _envelope(mrenclave=b"M" * 32))


def test_no_envelope_is_refused() -> None:
    with pytest.raises(FormatError):
        verify_bound([], EXPECTED, trust=NOBODY, now=NOW)


def test_the_strongest_envelope_counts() -> None:
    envelopes = [_envelope(Level.SIMULATION), _envelope(Level.NODE)]
    assert verify_bound(envelopes, EXPECTED, trust=ENROLLED, now=NOW).level is Level.NODE


def test_parts_of_the_report_data_cannot_be_shifted() -> None:
    one = Channel(b"e" * 32, b"ab", b"c")
    other = Channel(b"e" * 32, b"a", b"bc")
    assert report_data(role=b"r", nonce=NONCE, channel=one, config_id="x") != report_data(
        role=b"r", nonce=NONCE, channel=other, config_id="x"
    )
