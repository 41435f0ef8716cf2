from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import Denied, Error, Refused
from crannog.evidence.envelope import Envelope
from crannog.evidence.report import ROLE_SERVICE, Channel, report_data
from crannog.exchange.attestation import AttestationClient, Challenge, Evidence
from crannog.exchange.refusal import Refusal
from crannog.levels import Level
from crannog.transport.client import REFUSED, Wanted, attest
from crannog.transport.connect import connect
from crannog.transport.log import Sparse
from crannog.transport.names import resolve
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import (
    Identity,
    Pin,
    client_context,
    client_stream,
    fresh_identity,
    parse_pin,
)
from tests.api.helpers import LAUNCHER, MRENCLAVE, SESSION, Cas, running, statement, together


class Peer:
    """A launcher that does what a test tells it, message by message."""

    def __init__(self, cas: Cas, identity: Identity | None = None) -> None:
        identity = identity or fresh_identity()
        self.deadline = Deadline.after(20)
        sock = connect(cas.enclave, self.deadline, "CAS", resolve)
        self.stream: TlsStream = client_stream(client_context(identity), sock, None)
        self.stream.handshake(self.deadline)
        self.channel = Channel(
            self.stream.exporter(), identity.public_key(), self.stream.peer_key() or b""
        )
        self.client = AttestationClient()

    def challenge(self, config_id: str = "tutorial/application") -> bytes:
        self.stream.send(self.client.hello(config_id), self.deadline)
        event = self.answer()
        assert isinstance(event, Challenge)
        return event.nonce

    def bound(self, nonce: bytes, config_id: str = "tutorial/application") -> bytes:
        return report_data(
            role=ROLE_SERVICE, nonce=nonce, channel=self.channel, config_id=config_id
        )

    def evidence(self, *envelopes: Envelope) -> bytes:
        return self.client.evidence(Evidence(envelopes, LAUNCHER, None, None))

    def answer(self) -> object:
        while (event := self.client.next_event()) is None:
            data = self.stream.receive(self.deadline)
            if not data:
                return None
            self.client.receive(data)
        return event

    def refused(self, envelope: Envelope) -> Refusal:
        self.stream.send(self.evidence(envelope), self.deadline)
        event = self.answer()
        self.stream.close()
        assert isinstance(event, Refusal), event
        return event


def test_the_right_program_gets_its_configuration(shared: Cas) -> None:
    configuration = shared.attest()
    assert configuration.argv == ("python3", "/app/server.py")
    assert ("GREETING", "hello from the session") in configuration.environment
    assert configuration.level is Level.SIMULATION
    assert configuration.mrenclave == MRENCLAVE


def test_what_the_log_says_of_it(shared: Cas) -> None:
    shared.attest()
    assert (
        "INFO Received configuration request for config id tutorial/application"
        in shared.logged.text
    )
    assert "INFO Provisioned configuration tutorial/application" in shared.logged.text


def test_a_wrong_program_is_refused_with_the_reference_s_texts(shared: Cas) -> None:
    with pytest.raises(Refused) as caught:
        shared.attest(mrenclave=b"x" * 32)
    assert caught.value.message == f"{REFUSED}: The program enclave is not trustworthy"
    assert caught.value.messages == (
        "None of the required enclave properties are met by the enclave",
        f"Unexpected enclave measurement (MRENCLAVE, {'78' * 32}) - Expected {MRENCLAVE.hex()}",
    )
    assert "SCONE_HASH=1" in caught.value.hint


def test_an_unknown_session_is_refused(shared: Cas) -> None:
    with pytest.raises(Refused) as caught:
        shared.attest("nobody/application")
    assert caught.value.message.endswith("Failed to retrieve service attestation configuration")


def test_an_unknown_service_is_refused(shared: Cas) -> None:
    with pytest.raises(Refused):
        shared.attest("tutorial/nothing")


def test_evidence_replayed_on_another_connection_is_refused(shared: Cas) -> None:
    first = Peer(shared)
    envelope = statement(first.bound(first.challenge()))
    first.stream.send(first.evidence(envelope), first.deadline)
    assert not isinstance(first.answer(), Refusal)
    first.stream.close()
    second = Peer(shared)
    second.challenge()
    assert second.refused(envelope).messages == ("the evidence was made for another connection",)


def test_evidence_replayed_with_the_same_client_key_is_refused(shared: Cas) -> None:
    identity = fresh_identity()
    first = Peer(shared, identity)
    envelope = statement(first.bound(first.challenge()))
    first.stream.send(first.evidence(envelope), first.deadline)
    first.answer()
    first.stream.close()
    second = Peer(shared, identity)
    second.challenge()
    assert second.refused(envelope).code == "not-authentic"


def test_the_nonce_of_another_connection_is_refused(shared: Cas) -> None:
    other = Peer(shared)
    nonce = other.challenge()
    peer = Peer(shared)
    assert peer.challenge() != nonce
    assert peer.refused(statement(peer.bound(nonce))).code == "not-authentic"
    other.stream.close()


def test_a_man_in_the_middle_s_channel_is_refused(shared: Cas) -> None:
    # He terminates the launcher's TLS and passes its evidence on over his own connection.
    peer = Peer(shared)
    victim = peer.channel._replace(client_key=fresh_identity().public_key())
    bound = report_data(
        role=ROLE_SERVICE, nonce=peer.challenge(), channel=victim, config_id="tutorial/application"
    )
    assert peer.refused(statement(bound)).code == "not-authentic"


def test_evidence_for_another_configuration_id_is_refused(shared: Cas) -> None:
    peer = Peer(shared)
    envelope = statement(peer.bound(peer.challenge()), "other/application")
    assert peer.refused(envelope).code == "not-authentic"


def test_a_second_evidence_on_the_same_connection_is_refused(shared: Cas) -> None:
    peer = Peer(shared)
    sent = peer.evidence(statement(peer.bound(peer.challenge())))
    peer.stream.send(sent + sent, peer.deadline)
    event = peer.answer()
    peer.stream.close()
    assert isinstance(event, Refusal)
    assert event.messages == ("more than one message at once",)


def test_after_a_refusal_the_connection_is_over(shared: Cas) -> None:
    peer = Peer(shared)
    nonce = peer.challenge()
    good = statement(peer.bound(nonce))
    peer.stream.send(peer.evidence(statement(b"x" * 64)), peer.deadline)
    assert isinstance(peer.answer(), Refusal)
    other = Peer(shared)
    other.challenge()
    # The right evidence for the first connection, after a wrong one: nobody listens any more.
    try:
        peer.stream.send(other.evidence(good), peer.deadline)
        assert peer.stream.receive(peer.deadline) == b""
    except Error:
        pass
    peer.stream.close()
    other.stream.close()


def test_an_enrolled_key_raises_the_level_and_no_other(tmp_path: Path) -> None:
    key = Ed25519PrivateKey.generate()
    enrolled = (key.public_key().public_bytes_raw(),)
    with running(tmp_path / "state", enrolled_las_keys=enrolled) as cas:
        cas.post(SESSION)

        def level(method: str, signer: Ed25519PrivateKey | None) -> Level:
            def make(bound: bytes) -> tuple[Envelope, ...]:
                return (statement(bound, level=Level.NODE, method=method, key=signer),)

            return cas.attest(make=make).level

        assert level("las/witness", key) is Level.NODE
        assert level("las/tcp", key) is Level.SIMULATION
        assert level("las/witness", None) is Level.SIMULATION


def test_simulation_is_refused_where_the_cas_asks_for_more(tmp_path: Path) -> None:
    with running(tmp_path / "state", minimum_level=Level.HARDWARE) as cas:
        cas.post(SESSION)
        with pytest.raises(Refused) as caught:
            cas.attest(mrenclave=b"x" * 32)
        # An unproven peer hears the check's name and a request id, nothing of the session.
        text = " ".join((caught.value.message, *caught.value.messages, caught.value.hint))
        assert "evidence-rejected" in text
        assert "request id" in text
        assert MRENCLAVE.hex() not in text
        assert MRENCLAVE.hex() in cas.logged.text


def test_unproven_peers_of_a_real_cas_do_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sparse, "take", lambda _self: None)  # this second's lines are used up
    with running(tmp_path / "state", minimum_level=Level.HARDWARE) as cas:
        cas.post(SESSION)
        with pytest.raises(Refused):
            cas.attest()
        assert " configuration" not in cas.logged.text


def test_the_pinned_cas_is_accepted_by_its_key_and_by_its_root(shared: Cas) -> None:
    shared.attest(pin=Pin(key_sha256=bytes.fromhex(shared.server.key_sha256)))
    root = shared.server.service.authority.chain_pem.encode()
    shared.attest(pin=Pin(authority_pem=root))
    shared.attest(pin=parse_pin(shared.server.service.authority.key_hash, "the pin"))


def test_a_configuration_id_cannot_forge_a_line_of_the_log(shared: Cas) -> None:
    with pytest.raises(Refused):
        shared.attest("x level=hardware\nINFO Provisioned configuration x/y")
    assert 'Refused configuration "x level=hardware?INFO' in shared.logged.text


def test_a_cas_that_is_not_the_pinned_one_gets_no_evidence(shared: Cas, tmp_path: Path) -> None:
    asked: list[bytes] = []

    def make(bound: bytes) -> tuple[Envelope, ...]:
        asked.append(bound)
        return (statement(bound),)

    with running(tmp_path / "other") as other:
        foreign = other.server.service.authority.chain_pem.encode()
    for pin in (Pin(key_sha256=b"x" * 32), Pin(authority_pem=foreign)):
        with pytest.raises(Denied, match="not the pinned one"):
            shared.attest(make=make, pin=pin)
    assert asked == []


def test_a_launcher_without_a_certificate_is_refused(shared: Cas) -> None:
    deadline = Deadline.after(10)
    stream = client_stream(
        client_context(None), connect(shared.enclave, deadline, "CAS", resolve), None
    )

    def speak() -> None:
        # In TLS 1.3 the client's handshake ends before the server has seen its certificate.
        stream.handshake(deadline)
        stream.send(AttestationClient().hello("tutorial/application"), deadline)
        stream.receive(deadline)

    with pytest.raises(Error):
        speak()
    stream.close()


def test_a_service_access_token_is_checked_and_never_echoed(shared: Cas) -> None:
    text = SESSION.replace("tutorial", "tokened")
    shared.post(text + "security:\n  service_access_token: open-sesame\n")
    shared.attest("tokened/application", token="open-sesame")
    for wrong in (None, "a-wrong-guess"):
        with pytest.raises(Refused) as caught:
            shared.attest("tokened/application", token=wrong)
        text = " ".join((caught.value.message, *caught.value.messages, caught.value.hint))
        assert "sesame" not in text
        assert "guess" not in text
    assert "sesame" not in shared.logged.text
    assert "guess" not in shared.logged.text


@pytest.mark.slow
def test_sixty_four_programs_at_once_are_all_configured(shared: Cas) -> None:
    results = together(64, lambda _: shared.attest())
    assert [one for one in results if isinstance(one, Exception)] == []


def test_a_server_that_speaks_something_else_is_named(shared: Cas) -> None:
    with pytest.raises(Error):
        attest(
            shared.api,
            Wanted("a/b", LAUNCHER),
            lambda bound: (statement(bound),),
            seconds=5,
        )
