from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import Error, FormatError, IntegrityError
from crannog.evidence.envelope import Envelope, envelope_message, parse_envelope
from crannog.evidence.statement import (
    MEDIA_TYPE,
    Statement,
    encode_statement,
    open_statement,
    parse_statement,
    sign_statement,
)
from crannog.evidence.subject import MAX_PIN, Container, Pins
from crannog.levels import Level
from crannog.wire import encode_base64, encode_json, parse_object

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
STATEMENT = Statement(
    Level.SIMULATION, "launcher", b"m" * 32, b"r" * 64, b"l" * 32, "ns/s/svc", "cas:18765", 1
)
_plain = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_pin = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)
_containers = st.builds(
    Container,
    **dict.fromkeys(Container._fields[:1], _plain.map(lambda text: text[:40])),
    **dict.fromkeys(Container._fields[1:-1], _plain),
    hooks=st.lists(_plain, max_size=3).map(tuple),
)
_statements = st.builds(
    Statement,
    level=st.sampled_from(Level),
    method=st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    mrenclave=st.binary(min_size=32, max_size=32),
    report_data=st.binary(min_size=64, max_size=64),
    launcher=st.binary(min_size=32, max_size=32),
    config_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    cas=st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    issued_at=st.integers(0, 2**40),
    reason=_plain,
    pins=st.builds(Pins, cas_key=_pin, session_hash=_pin),
    container=st.none() | _containers,
)


@given(_statements)
def test_what_is_signed_is_what_is_opened(statement: Statement) -> None:
    envelope = sign_statement(statement, KEY)
    assert parse_envelope(envelope_message(envelope)) == envelope
    assert open_statement(envelope.data) == (statement, KEY.public_key().public_bytes_raw())


@given(st.integers(0, len(sign_statement(STATEMENT, KEY).data) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused(position: int, change: int) -> None:
    data = bytearray(sign_statement(STATEMENT, KEY).data)
    data[position] ^= change
    with pytest.raises(Error):
        open_statement(bytes(data))


def test_another_key_over_the_same_signature_is_refused() -> None:
    message = parse_object(sign_statement(STATEMENT, KEY).data, limit=2**16)
    message["public_key"] = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    with pytest.raises(IntegrityError):
        open_statement(encode_json(message))


def test_a_signature_without_our_label_is_refused() -> None:
    payload = encode_statement(STATEMENT)
    data = encode_json(
        {
            "payload": encode_base64(payload),
            "public_key": KEY.public_key().public_bytes_raw().hex(),
            "signature": KEY.sign(payload).hex(),
        }
    )
    with pytest.raises(IntegrityError):
        open_statement(data)


def test_a_payload_that_is_not_canonical_is_refused() -> None:
    with pytest.raises(FormatError, match="canonical"):
        parse_statement(encode_statement(STATEMENT).replace(b",", b", ", 1))


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(FormatError, match="trust level"):
        parse_statement(encode_statement(STATEMENT).replace(b'"simulation"', b'"hw"'))


@pytest.mark.parametrize(
    "media_type", ["", "a", "A/b", "a/b c", "a/" + "b" * 120, "../x", "a/b;c=d"]
)
def test_a_strange_media_type_is_refused(media_type: str) -> None:
    with pytest.raises(Error):
        parse_envelope({"media_type": media_type, "data": ""})


def test_an_oversized_envelope_is_refused() -> None:
    with pytest.raises(Error, match="at most"):
        parse_envelope({"media_type": MEDIA_TYPE, "data": "A" * 44_000})
    with pytest.raises(ValueError, match="not an envelope"):
        envelope_message(Envelope(MEDIA_TYPE, b"a" * 33_000))


def test_a_statement_with_a_certificate_as_pin_fits_an_envelope() -> None:
    pins = Pins("-----BEGIN CERTIFICATE-----\n" + "A\n" * (MAX_PIN // 2 - 14), "0a" * 32)
    envelope = sign_statement(STATEMENT._replace(pins=pins, reason="\N{BANK}" * 1000), KEY)
    assert parse_envelope(envelope_message(envelope)) == envelope
    assert open_statement(envelope.data)[0].pins == pins


@pytest.mark.parametrize("text", ["\0", "\x1b[31m", "n\u00e4me", "a\tb"])
def test_a_pin_with_other_than_printable_characters_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="printable"):
        parse_statement(encode_statement(STATEMENT._replace(pins=Pins(text, ""))))
