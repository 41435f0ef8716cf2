"""From hostile bytes only our own errors escape, at either end of each exchange."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.errors import Error
from crannog.evidence.claims import Trust
from crannog.evidence.envelope import Envelope, parse_envelope
from crannog.evidence.report import Channel
from crannog.evidence.statement import MEDIA_TYPE, open_statement, parse_statement
from crannog.evidence.verify import verify
from crannog.exchange.attestation import AttestationClient, AttestationServer
from crannog.exchange.configuration import configuration_message, parse_configuration
from crannog.exchange.enrolment import (
    OPENING,
    Enrolment,
    EnrolmentClient,
    EnrolmentServer,
    check_proof,
    is_enrolment,
)
from crannog.exchange.las import LasClient, LasServer
from crannog.exchange.operator import Action, OperatorClient, OperatorServer, Order
from crannog.exchange.refusal import parse_refusal, refusal_message
from crannog.wire import encode_json, frame
from tests.exchange.helpers import CONFIGURATION, EVIDENCE, NONCE, REFUSAL, REQUEST

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=10) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)
_MESSAGES: list[dict[str, Any]] = [
    {"type": "hello", "protocol": "crannog-attestation/1", "config_id": "a/b"},
    {"type": "challenge", "nonce": NONCE.hex()},
    {
        "type": "evidence",
        "envelopes": [{"media_type": MEDIA_TYPE, "data": "e30="}],
        "launcher": "00" * 32,
        "otp": None,
        "service_access_token": None,
    },
    configuration_message(CONFIGURATION),
    refusal_message(REFUSAL),
    {
        "type": "quote",
        "protocol": "crannog-las/2",
        "report_data": "00" * 64,
        "mrenclave": "00" * 32,
        "launcher": "00" * 32,
        "config_id": "a",
        "cas": "b",
        "foreign": "",
        "pins": {"cas_key": "", "session_hash": ""},
    },
    {
        "type": "challenge",
        "protocol": "crannog-operator/1",
        "database": "00" * 16,
        "nonce": NONCE.hex(),
    },
    {
        "type": "order",
        "protocol": "crannog-operator/1",
        "action": "las-add",
        "subject": "00" * 32,
        "note": "",
        "mac": "00" * 32,
    },
    {"type": "done", "head": "1:00", "mac": "00" * 32},
    {"type": "quoted", "envelope": {"media_type": MEDIA_TYPE, "data": ""}},
    {"type": "probe", "protocol": "crannog-las/2"},
    {"type": "enrolment", "public_key": "00" * 32, "token": "a.b.c", "proof": "00" * 64},
    {"type": "enrolled", "expires": 1, "node": "a"},
    {
        "type": "status",
        "public_key": "00" * 32,
        "level": "node",
        "method": "m",
        "reason": "",
        "version": "",
    },
]


@st.composite
def _nearly(draw: st.DrawFn) -> dict[str, Any]:
    """A message with one field replaced, removed or added."""
    message = dict(draw(st.sampled_from(_MESSAGES)))
    field = draw(st.sampled_from(sorted(message)) | st.text(max_size=8))
    if draw(st.booleans()):
        message[field] = draw(_json)
    else:
        message.pop(field, None)
    return message


def _payload(value: object) -> bytes:
    return json.dumps(value).encode()


_payloads = st.binary(max_size=200) | _json.map(_payload) | _nearly().map(_payload)


def _asked() -> AttestationClient:
    client = AttestationClient()
    client.hello("a/b")
    return client


def _answered() -> AttestationClient:
    client = _asked()
    client.receive(frame(encode_json(_MESSAGES[1]), limit=1000))
    client.next_event()
    client.evidence(EVIDENCE)
    return client


def _challenged() -> AttestationServer:
    server = AttestationServer()
    server.receive(AttestationClient().hello("a/b"))
    server.next_event()
    server.challenge(NONCE)
    return server


def _quoting() -> LasClient:
    client = LasClient()
    client.quote(REQUEST)
    return client


def _probing() -> LasClient:
    client = LasClient()
    client.probe()
    return client


def _commanded() -> OperatorServer:
    return OperatorServer(key=bytes(32), database=bytes(16), nonce=NONCE)


def _ordered() -> OperatorClient:
    client = OperatorClient()
    client.receive(_commanded().challenge())
    client.next_event()
    client.order(Order(Action.LAS_ADD, "", ""), key=bytes(32))
    return client


def _enrolling() -> EnrolmentClient:
    client = EnrolmentClient()
    client.enrol()
    return client


def _showing() -> EnrolmentClient:
    client = _enrolling()
    client.receive(frame(encode_json(_MESSAGES[1]), limit=1000))
    client.next_event()
    client.enrolment(Enrolment(bytes(32), "a.b.c", bytes(64)))
    return client


def _nonced() -> EnrolmentServer:
    server = EnrolmentServer()
    server.receive(OPENING)
    assert server.opened()
    server.challenge(NONCE)
    return server


_ENDS: list[Callable[[], Any]] = [
    _commanded,
    OperatorClient,
    _ordered,
    AttestationServer,
    _challenged,
    _asked,
    _answered,
    LasServer,
    _quoting,
    _probing,
    _enrolling,
    _showing,
    _nonced,
]


@settings(max_examples=400)
@given(st.sampled_from(_ENDS), _payloads)
def test_a_hostile_message_raises_nothing_but_our_errors(
    make: Callable[[], Any], payload: bytes
) -> None:
    end = make()
    end.receive(frame(payload, limit=2**20))
    with contextlib.suppress(Error):
        end.next_event()


@given(st.sampled_from(_ENDS), st.lists(st.binary(max_size=60), max_size=6))
def test_hostile_bytes_in_pieces_raise_nothing_but_our_errors(
    make: Callable[[], Any], pieces: list[bytes]
) -> None:
    end = make()
    with contextlib.suppress(Error):
        for piece in pieces:
            end.receive(piece)
            # The server's questions have to be answered; no valid one is among these bytes.
            assert end.next_event() is None


@given(_payloads)
def test_a_hostile_opening_raises_nothing_but_our_errors(payload: bytes) -> None:
    for data in (payload, frame(payload, limit=2**20), OPENING[:20] + payload, OPENING + payload):
        is_enrolment(data)
        server = EnrolmentServer()
        server.receive(data)
        with contextlib.suppress(Error):
            server.opened()


@given(
    st.binary(min_size=32, max_size=32), st.text(max_size=50), st.binary(min_size=64, max_size=64)
)
def test_a_hostile_proof_raises_nothing_but_our_errors(
    key: bytes, token: str, proof: bytes
) -> None:
    channel = Channel(bytes(32), b"", b"")
    for one in (key, bytes(32), b"\1" + bytes(31)):
        with contextlib.suppress(Error):
            check_proof(Enrolment(one, token, proof), nonce=NONCE, channel=channel)


@given(st.binary(max_size=300) | _json.map(_payload))
def test_hostile_evidence_raises_nothing_but_our_errors(data: bytes) -> None:
    for take in (
        open_statement,
        parse_statement,
        lambda data: verify(Envelope(MEDIA_TYPE, data), Trust(), datetime(2026, 1, 1, tzinfo=UTC)),
    ):
        try:
            take(data)
        except Error:
            continue


@given(_json)
def test_hostile_objects_raise_nothing_but_our_errors(value: Any) -> None:
    with contextlib.suppress(Error):
        parse_envelope(value)
    if isinstance(value, dict):
        for take in (parse_configuration, parse_refusal):
            try:
                take(value)
            except Error:
                continue
