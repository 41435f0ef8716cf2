from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import FormatError, IntegrityError, TooLarge
from crannog.evidence.report import ROLE_SERVICE, Channel, report_data
from crannog.exchange.attestation import AttestationClient
from crannog.exchange.enrolment import (
    OPENING,
    Challenge,
    Enrolled,
    Enrolment,
    EnrolmentClient,
    EnrolmentServer,
    check_proof,
    is_enrolment,
    prove,
)
from crannog.wire import encode_json, frame
from tests.exchange.helpers import NONCE, REFUSAL

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
CHANNEL = Channel(b"e" * 32, b"client key", b"server key")
TOKEN = "header.claims.signature"
PROVED = prove(KEY, TOKEN, nonce=NONCE, channel=CHANNEL)
DONE = Enrolled(1_800_003_600, "node1")


def message(**fields: object) -> bytes:
    return frame(encode_json(fields), limit=2**20)


def proved(**changes: object) -> bytes:
    fields: dict[str, object] = {
        "type": "enrolment",
        "public_key": PROVED.public_key.hex(),
        "token": TOKEN,
        "proof": PROVED.proof.hex(),
    }
    return message(**(fields | changes))


def challenged() -> EnrolmentServer:
    server = EnrolmentServer()
    server.receive(OPENING)
    assert server.opened()
    server.challenge(NONCE)
    return server


def asked() -> EnrolmentClient:
    client = EnrolmentClient()
    client.enrol()
    return client


def shown() -> EnrolmentClient:
    client = asked()
    client.receive(message(type="challenge", nonce=NONCE.hex()))
    assert client.next_event() == Challenge(NONCE)
    client.enrolment(PROVED)
    return client


# --- both ends ------------------------------------------------------------------------------------


def test_an_enrolment_byte_by_byte() -> None:
    client, server = EnrolmentClient(), EnrolmentServer()

    def to_server(data: bytes, event: Callable[[], object]) -> object:
        for byte in data:
            assert not event()
            server.receive(bytes([byte]))
        return event()

    def to_client(data: bytes) -> object:
        for byte in data:
            assert client.next_event() is None
            client.receive(bytes([byte]))
        return client.next_event()

    assert to_server(client.enrol(), server.opened)
    assert to_client(server.challenge(NONCE)) == Challenge(NONCE)
    assert to_server(client.enrolment(PROVED), server.next_event) == PROVED
    assert to_client(server.enrolled(DONE)) == DONE


def test_a_key_that_is_enrolled_by_hand_has_no_expiry() -> None:
    client = shown()
    server = challenged()
    server.receive(proved())
    server.next_event()
    client.receive(server.enrolled(Enrolled(None, "node1")))
    assert client.next_event() == Enrolled(None, "node1")


def test_the_first_frame_is_always_the_same_bytes() -> None:
    assert OPENING == b'\0\0\0\x31{"protocol":"crannog-enrolment/1","type":"enrol"}'
    assert is_enrolment(b"") is None
    for length in range(len(OPENING)):
        assert is_enrolment(OPENING[:length]) is None
        assert is_enrolment(OPENING[:length] + b"\xff") is False
    assert is_enrolment(OPENING) is True
    assert is_enrolment(OPENING + b"more") is True


def test_an_attestation_is_no_enrolment() -> None:
    assert is_enrolment(AttestationClient().hello("a/b")) is False


# --- the proof ------------------------------------------------------------------------------------


def test_who_holds_the_key_proves_it() -> None:
    check_proof(PROVED, nonce=NONCE, channel=CHANNEL)


def unproved(enrolment: Enrolment, nonce: bytes = NONCE, channel: Channel = CHANNEL) -> None:
    with pytest.raises(IntegrityError, match="does not fit") as caught:
        check_proof(enrolment, nonce=nonce, channel=channel)
    assert TOKEN not in str(caught.value)


def test_a_proof_for_another_nonce_is_refused() -> None:
    unproved(PROVED, nonce=bytes(32))


@pytest.mark.parametrize("part", ["exporter", "client_key", "server_key"])
def test_a_proof_for_another_connection_is_refused(part: str) -> None:
    unproved(PROVED, channel=CHANNEL._replace(**{part: b"x" * 32}))


def test_a_proof_for_another_token_is_refused() -> None:
    unproved(PROVED._replace(token=TOKEN + "x"))
    unproved(PROVED._replace(token=""))


def test_a_proof_of_another_key_is_refused() -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    unproved(PROVED._replace(public_key=other))


def test_a_proof_under_what_is_no_key_is_refused() -> None:
    unproved(PROVED._replace(public_key=b"\xff" * 32))


@pytest.mark.parametrize("proof", [bytes(64), b"\xff" * 64, PROVED.proof[:63] + b"\0"])
def test_a_made_up_proof_is_refused(proof: bytes) -> None:
    unproved(PROVED._replace(proof=proof))


def test_what_the_key_signs_otherwise_is_no_proof() -> None:
    # A LAS signs statements about whatever report data a program names.
    bound = report_data(role=ROLE_SERVICE, nonce=NONCE, channel=CHANNEL, config_id="")
    for data in (bound, b"crannog statement v1" + bound, TOKEN.encode()):
        unproved(PROVED._replace(proof=KEY.sign(data)))


def test_a_token_that_is_no_text_for_utf8_is_refused() -> None:
    unproved(PROVED._replace(token="\ud800"))


def test_a_token_is_not_shown_by_accident() -> None:
    assert TOKEN not in repr(PROVED)
    assert TOKEN not in f"{PROVED}"


# --- what the CAS refuses -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (proved(type="enrol"), FormatError),
        (proved(more=1), FormatError),
        (proved(public_key="00"), FormatError),
        (proved(public_key="AB" * 32), FormatError),
        (proved(public_key=None), FormatError),
        (proved(proof="00" * 63), FormatError),
        (proved(proof=["00" * 64]), FormatError),
        (proved(token=None), FormatError),
        (proved(token="a" * 16_385), TooLarge),
        (message(type="enrolment"), FormatError),
        (frame(b"[]", limit=9), FormatError),
        (frame(b"", limit=9), FormatError),
        (frame(b"\xff", limit=9), FormatError),
        (OPENING, FormatError),
        (b"\0\1\0\1", TooLarge),
        (b"\xff\xff\xff\xff", TooLarge),
    ],
    ids=range(16),
)
def test_a_message_that_is_none_is_refused(data: bytes, error: type[Exception]) -> None:
    server = challenged()
    server.receive(data)
    with pytest.raises(error):
        server.next_event()
    # Nothing but a refusal follows.
    assert b'"refusal"' in server.refusal(REFUSAL)
    with pytest.raises(RuntimeError):
        server.enrolled(DONE)


@pytest.mark.parametrize(
    "data",
    [
        message(type="enrol", protocol="crannog-enrolment/2"),
        message(type="hello", protocol="crannog-enrolment/1"),
        message(type="enrol", protocol="crannog-enrolment/1", more=1),
        message(type="enrol"),
        frame(b"nonsense", limit=9),
    ],
    ids=range(5),
)
def test_a_first_message_that_is_another_is_refused(data: bytes) -> None:
    server = EnrolmentServer()
    server.receive(data)
    with pytest.raises(FormatError):
        server.opened()


def test_a_token_before_the_challenge_is_refused() -> None:
    server = EnrolmentServer()
    server.receive(OPENING + proved())
    with pytest.raises(FormatError, match="more than one message at once"):
        server.opened()


def test_a_token_between_the_first_message_and_the_challenge_is_refused() -> None:
    server = EnrolmentServer()
    server.receive(OPENING)
    server.opened()
    server.receive(proved())
    with pytest.raises(FormatError, match="none was expected"):
        server.next_event()


def test_a_second_token_is_refused() -> None:
    server = challenged()
    server.receive(proved() + proved())
    with pytest.raises(FormatError, match="more than one message at once"):
        server.next_event()


def test_a_token_after_the_answer_is_refused() -> None:
    server = challenged()
    server.receive(proved())
    assert server.next_event() == PROVED
    server.receive(proved())
    with pytest.raises(FormatError, match="none was expected"):
        server.next_event()


def test_a_nonce_goes_out_once() -> None:
    server = challenged()
    with pytest.raises(RuntimeError):
        server.challenge(NONCE)


def test_one_token_has_one_answer() -> None:
    server = challenged()
    with pytest.raises(RuntimeError):
        server.enrolled(DONE)
    server.receive(proved())
    server.next_event()
    server.enrolled(DONE)
    with pytest.raises(RuntimeError):
        server.enrolled(DONE)
    with pytest.raises(RuntimeError):
        server.refusal(REFUSAL)


# --- what the LAS refuses -------------------------------------------------------------------------


def test_a_refusal_may_take_the_place_of_either_answer() -> None:
    for client in (asked(), shown()):
        client.receive(EnrolmentServer().refusal(REFUSAL))
        assert client.next_event() == REFUSAL


@pytest.mark.parametrize(
    "data",
    [
        message(type="enrolled", expires=1, node="a"),
        message(type="challenge", nonce="00"),
        message(type="challenge", nonce=NONCE.hex(), more=1),
        message(type="challenge"),
        frame(b"[]", limit=9),
    ],
    ids=range(5),
)
def test_another_message_in_place_of_the_challenge_is_refused(data: bytes) -> None:
    client = asked()
    client.receive(data)
    with pytest.raises(FormatError):
        client.next_event()


@pytest.mark.parametrize(
    "data",
    [
        message(type="challenge", nonce=NONCE.hex()),
        message(type="enrolled", expires=1),
        message(type="enrolled", node="a"),
        message(type="enrolled", expires=-1, node="a"),
        message(type="enrolled", expires=253402300800, node="a"),
        message(type="enrolled", expires=1.5, node="a"),
        message(type="enrolled", expires="1", node="a"),
        message(type="enrolled", expires=1, node="a", more=1),
    ],
    ids=range(8),
)
def test_another_message_in_place_of_the_result_is_refused(data: bytes) -> None:
    client = shown()
    client.receive(data)
    with pytest.raises(FormatError):
        client.next_event()


def test_a_node_cannot_forge_a_line_of_the_log() -> None:
    client = shown()
    client.receive(message(type="enrolled", expires=1, node="a\nINFO b\u202e"))
    assert client.next_event() == Enrolled(1, "a?INFO b?")


def test_a_node_over_its_limit_is_refused() -> None:
    client = shown()
    client.receive(message(type="enrolled", expires=1, node="a" * 254))
    with pytest.raises(TooLarge):
        client.next_event()


def test_a_token_is_shown_once_and_only_after_the_challenge() -> None:
    for client in (EnrolmentClient(), asked(), shown()):
        with pytest.raises(RuntimeError):
            client.enrolment(PROVED)


def test_a_message_that_nobody_asked_for_is_refused() -> None:
    client = shown()
    client.receive(message(type="enrolled", expires=1, node="a") * 2)
    assert client.next_event() == Enrolled(1, "a")
    with pytest.raises(FormatError, match="none was expected"):
        client.next_event()
