from __future__ import annotations

import pytest

from crannog.errors import FormatError, TooLarge
from crannog.exchange import limits
from crannog.exchange.attestation import (
    AttestationClient,
    AttestationServer,
    Challenge,
    Evidence,
    Hello,
)
from crannog.wire import encode_json, frame
from tests.exchange.helpers import CONFIGURATION, ENVELOPE, EVIDENCE, NONCE, REFUSAL


def _challenged() -> tuple[AttestationClient, AttestationServer]:
    client, server = AttestationClient(), AttestationServer()
    server.receive(client.hello("ns/session/service"))
    assert server.next_event() == Hello("ns/session/service")
    client.receive(server.challenge(NONCE))
    assert client.next_event() == Challenge(NONCE)
    return client, server


def _message(**fields: object) -> bytes:
    return frame(encode_json(fields), limit=2**20)


def test_the_whole_exchange_ends_in_the_same_configuration() -> None:
    client, server = _challenged()
    server.receive(client.evidence(EVIDENCE))
    assert server.next_event() == EVIDENCE
    client.receive(server.configuration(CONFIGURATION))
    assert client.next_event() == CONFIGURATION
    assert server.finished


def test_the_whole_exchange_works_byte_by_byte() -> None:
    client, server = AttestationClient(), AttestationServer()
    seen: list[object] = []

    def to_server(data: bytes) -> None:
        for byte in data:
            assert server.next_event() is None
            server.receive(bytes([byte]))
        seen.append(server.next_event())

    def to_client(data: bytes) -> None:
        for byte in data:
            assert client.next_event() is None
            client.receive(bytes([byte]))
        seen.append(client.next_event())

    to_server(client.hello("a/b"))
    to_client(server.challenge(NONCE))
    to_server(client.evidence(EVIDENCE))
    to_client(server.configuration(CONFIGURATION))
    assert seen == [Hello("a/b"), Challenge(NONCE), EVIDENCE, CONFIGURATION]


def test_a_refusal_takes_the_place_of_the_challenge() -> None:
    client, server = AttestationClient(), AttestationServer()
    server.receive(client.hello("a/b"))
    server.next_event()
    client.receive(server.refusal(REFUSAL))
    assert client.next_event() == REFUSAL


def test_a_refusal_takes_the_place_of_the_configuration() -> None:
    client, server = _challenged()
    server.receive(client.evidence(EVIDENCE))
    server.next_event()
    client.receive(server.refusal(REFUSAL))
    assert client.next_event() == REFUSAL


def test_secrets_travel_and_are_not_shown() -> None:
    client, server = _challenged()
    secret = Evidence((ENVELOPE,), b"L" * 32, "123456", "a token")
    server.receive(client.evidence(secret))
    event = server.next_event()
    assert event == secret
    assert "123456" not in repr(event)
    assert "a token" not in repr(event)
    assert "secret" not in repr(CONFIGURATION)
    assert "hello from" not in repr(CONFIGURATION)
    assert "secret" not in repr(CONFIGURATION.files)
    assert (b"k" * 32).hex() not in repr(CONFIGURATION.fspf)


def test_the_nonce_goes_out_once() -> None:
    _, server = _challenged()
    with pytest.raises(RuntimeError):
        server.challenge(NONCE)


def test_a_second_hello_is_refused() -> None:
    _, server = _challenged()
    server.receive(AttestationClient().hello("a/b"))
    with pytest.raises(FormatError, match="evidence was expected"):
        server.next_event()


def test_evidence_before_the_challenge_is_refused() -> None:
    client, _ = _challenged()
    server = AttestationServer()
    server.receive(client.evidence(EVIDENCE))
    with pytest.raises(FormatError, match="hello was expected"):
        server.next_event()


def test_evidence_behind_the_hello_is_refused() -> None:
    client, _ = _challenged()
    server = AttestationServer()
    server.receive(AttestationClient().hello("a/b") + client.evidence(EVIDENCE))
    with pytest.raises(FormatError, match="more than one message"):
        server.next_event()


def test_a_second_evidence_is_refused_when_it_comes_later() -> None:
    client, server = _challenged()
    sent = client.evidence(EVIDENCE)
    server.receive(sent)
    assert server.next_event() == EVIDENCE
    server.receive(sent)
    with pytest.raises(FormatError, match="one evidence was already given"):
        server.next_event()


def test_a_second_evidence_is_refused_when_it_comes_with_the_first() -> None:
    client, server = _challenged()
    server.receive(client.evidence(EVIDENCE) * 2)
    with pytest.raises(FormatError, match="more than one message"):
        server.next_event()


def test_a_failed_exchange_stays_failed() -> None:
    client, server = _challenged()
    server.receive(_message(type="nonsense"))
    with pytest.raises(FormatError):
        server.next_event()
    server.receive(client.evidence(EVIDENCE))
    with pytest.raises(FormatError, match="failed"):
        server.next_event()
    with pytest.raises(RuntimeError):
        server.configuration(CONFIGURATION)


def test_a_failed_exchange_can_still_be_refused_once() -> None:
    client, server = _challenged()
    server.receive(b"\0\0\0\x02{}")
    with pytest.raises(FormatError):
        server.next_event()
    client.evidence(EVIDENCE)
    client.receive(server.refusal(REFUSAL))
    assert client.next_event() == REFUSAL
    with pytest.raises(RuntimeError):
        server.refusal(REFUSAL)


def test_no_configuration_without_evidence() -> None:
    _, server = _challenged()
    with pytest.raises(RuntimeError):
        server.configuration(CONFIGURATION)


def test_the_client_takes_no_configuration_before_its_evidence() -> None:
    client, server = _challenged()
    other = AttestationServer()
    other.receive(AttestationClient().hello("a/b"))
    other.next_event()
    helper, _ = _challenged()
    other.challenge(NONCE)
    other.receive(helper.evidence(EVIDENCE))
    other.next_event()
    client.receive(other.configuration(CONFIGURATION))
    with pytest.raises(FormatError, match="before there was evidence"):
        client.evidence(EVIDENCE)
    del server


def test_the_client_refuses_a_configuration_in_place_of_the_challenge() -> None:
    client = AttestationClient()
    client.hello("a/b")
    client.receive(_message(type="configuration"))
    with pytest.raises(FormatError, match="challenge or refusal was expected"):
        client.next_event()


def test_the_client_refuses_a_second_challenge() -> None:
    client, _ = _challenged()
    client.evidence(EVIDENCE)
    client.receive(_message(type="challenge", nonce=NONCE.hex()))
    with pytest.raises(FormatError, match="configuration or refusal was expected"):
        client.next_event()


def test_a_frame_that_is_too_large_is_refused_from_its_header() -> None:
    server = AttestationServer()
    server.receive((limits.ATTESTATION_TO_SERVER + 1).to_bytes(4, "big"))
    with pytest.raises(TooLarge):
        server.next_event()


def test_another_protocol_version_is_refused_by_name() -> None:
    server = AttestationServer()
    server.receive(_message(type="hello", protocol="crannog-attestation/2", config_id="a/b"))
    with pytest.raises(FormatError, match="crannog-attestation/1"):
        server.next_event()


def test_a_one_time_password_in_the_configuration_id_is_refused_and_not_repeated() -> None:
    client, server = AttestationClient(), AttestationServer()
    server.receive(client.hello("session/service@123456"))
    with pytest.raises(FormatError, match="holds an @") as caught:
        server.next_event()
    assert "123456" not in str(caught.value)


def test_an_unknown_field_is_refused() -> None:
    server = AttestationServer()
    server.receive(
        _message(type="hello", protocol="crannog-attestation/1", config_id="a/b", more=1)
    )
    with pytest.raises(FormatError, match="unknown fields"):
        server.next_event()


def test_evidence_without_an_envelope_is_refused() -> None:
    _, server = _challenged()
    server.receive(
        _message(
            type="evidence",
            envelopes=[],
            launcher="00" * 32,
            otp=None,
            service_access_token=None,
        )
    )
    with pytest.raises(FormatError, match="envelopes is empty"):
        server.next_event()


def test_evidence_with_too_many_envelopes_is_refused() -> None:
    _, server = _challenged()
    client, _ = _challenged()
    server.receive(client.evidence(EVIDENCE._replace(envelopes=(ENVELOPE,) * 5)))
    with pytest.raises(TooLarge):
        server.next_event()


def test_a_short_nonce_is_refused() -> None:
    client = AttestationClient()
    client.hello("a/b")
    client.receive(_message(type="challenge", nonce="00" * 31))
    with pytest.raises(FormatError, match="64 hex digits"):
        client.next_event()


def test_what_a_refusal_says_reaches_no_terminal_as_control_characters() -> None:
    client = AttestationClient()
    client.hello("a/b")
    client.receive(
        _message(
            type="refusal",
            code="x",
            messages=["\x1b[31mred\n"],
            hint="",
            request_id="",
            retry=False,
        )
    )
    event = client.next_event()
    assert event is not None
    assert "\x1b" not in repr(event)
    assert "?[31mred?" in repr(event)
