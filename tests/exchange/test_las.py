from __future__ import annotations

import pytest

from crannog.errors import FormatError, TooLarge
from crannog.exchange.las import (
    Configured,
    LasClient,
    LasServer,
    Noted,
    Probe,
    Quoted,
    Status,
)
from crannog.levels import Level
from crannog.wire import encode_json, frame
from tests.exchange.helpers import ENVELOPE, REFUSAL, REQUEST

STATUS = Status(b"p" * 32, Level.SIMULATION, "las/tcp", "because", "0.1.0")


def _message(**fields: object) -> bytes:
    return frame(encode_json(fields), limit=2**20)


def test_quote_configured_and_probe_on_one_connection_byte_by_byte() -> None:
    client, server = LasClient(), LasServer()

    def ask(data: bytes) -> object:
        for byte in data:
            assert server.next_event() is None
            server.receive(bytes([byte]))
        return server.next_event()

    def reply(data: bytes) -> object:
        for byte in data:
            assert client.next_event() is None
            client.receive(bytes([byte]))
        return client.next_event()

    assert ask(client.quote(REQUEST)) == REQUEST
    assert reply(server.quoted(ENVELOPE)) == Quoted(ENVELOPE)
    assert ask(client.configured()) == Configured()
    assert reply(server.noted()) == Noted()
    assert ask(client.probe()) == Probe()
    assert reply(server.status(STATUS)) == STATUS


@pytest.mark.parametrize("number", range(3))
def test_a_refusal_answers_any_question(number: int) -> None:
    client, server = LasClient(), LasServer()
    questions = (lambda: client.quote(REQUEST), client.configured, client.probe)
    server.receive(questions[number]())
    server.next_event()
    client.receive(server.refusal(REFUSAL))
    assert client.next_event() == REFUSAL


def test_questions_that_come_together_are_answered_in_order() -> None:
    server = LasServer()
    server.receive(LasClient().probe() + LasClient().configured())
    assert server.next_event() == Probe()
    with pytest.raises(RuntimeError):
        server.next_event()
    server.status(STATUS)
    assert server.next_event() == Configured()


def test_the_client_refuses_an_answer_to_another_question() -> None:
    client, server = LasClient(), LasServer()
    client.probe()
    server.receive(LasClient().quote(REQUEST))
    server.next_event()
    client.receive(server.quoted(ENVELOPE))
    with pytest.raises(FormatError, match="expected status"):
        client.next_event()


def test_the_client_refuses_an_answer_that_nobody_asked_for() -> None:
    client = LasClient()
    client.receive(_message(type="noted"))
    with pytest.raises(FormatError, match="expected nothing"):
        client.next_event()


def test_the_server_refuses_an_unknown_type() -> None:
    server = LasServer()
    server.receive(_message(type="exec", protocol="crannog-las/2"))
    with pytest.raises(FormatError, match="expected quote, configured or probe"):
        server.next_event()


def test_the_server_refuses_another_protocol() -> None:
    server = LasServer()
    server.receive(_message(type="probe", protocol="crannog-las/9"))
    with pytest.raises(FormatError, match="crannog-las/2"):
        server.next_event()


def test_the_server_refuses_a_short_measurement() -> None:
    server = LasServer()
    server.receive(
        _message(
            type="quote",
            protocol="crannog-las/2",
            report_data="00" * 64,
            mrenclave="00" * 31,
            launcher="00" * 32,
            config_id="a/b",
            cas="cas",
        )
    )
    with pytest.raises(FormatError, match="mrenclave"):
        server.next_event()


def test_an_oversized_frame_is_refused_from_its_header() -> None:
    for end in (LasServer(), LasClient()):
        end.receive(b"\0\x01\0\x01")
        with pytest.raises(TooLarge):
            end.next_event()


def test_one_question_at_a_time() -> None:
    client = LasClient()
    client.probe()
    with pytest.raises(RuntimeError):
        client.probe()
