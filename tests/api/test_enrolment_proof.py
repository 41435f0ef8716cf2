"""An enrolment by token is of one connection; who tries otherwise, and what strangers hear."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import Denied, Error, Unavailable
from crannog.evidence.report import ROLE_SERVICE, report_data
from crannog.exchange.enrolment import (
    Enrolled,
    Enrolment,
    prove,
)
from crannog.exchange.operator import Action
from crannog.exchange.refusal import Refusal
from crannog.levels import Level
from crannog.testing.issuer import Issuer
from crannog.transport.enrolment_client import enrol
from crannog.transport.log import Sparse
from crannog.transport.tls import fresh_identity
from tests.api.helpers import false_cas, running, statement
from tests.api.token_enrolment import (
    POD,
    Applicant,
    Clock,
    Cluster,
    cluster_at,
    whole,
)


def test_a_proof_that_is_relayed_to_another_connection_is_refused(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    # A false CAS terminates the LAS's TLS and passes nonce and answer on.
    attacker = Applicant(cluster.cas)
    nonce = attacker.challenge()
    false = attacker.channel._replace(
        exporter=b"x" * 32, client_key=b"the LAS's", server_key=b"the false CAS's"
    )
    stolen = prove(key, cluster.token(), nonce=nonce, channel=false)
    assert attacker.refused(stolen).code == "not-authentic"
    assert cluster.events() == []


def test_a_relayed_proof_is_refused_even_with_the_las_s_tls_key(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    identity = fresh_identity()
    first, second = Applicant(cluster.cas, identity), Applicant(cluster.cas, identity)
    nonce = second.challenge()
    first.challenge()
    overheard = prove(key, cluster.token(), nonce=nonce, channel=first.channel)
    assert second.refused(overheard).code == "not-authentic"
    first.stream.close()


def test_a_stolen_token_does_not_enrol_the_thief_under_the_las_s_key(
    cluster: Cluster, key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    thief = Applicant(cluster.cas)
    made = prove(other, cluster.token(), nonce=thief.challenge(), channel=thief.channel)
    forged = made._replace(public_key=key.public_key().public_bytes_raw())
    assert thief.refused(forged).code == "not-authentic"


def test_another_token_than_the_one_that_was_signed_is_refused(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    applicant = Applicant(cluster.cas)
    made = prove(key, cluster.token(), nonce=applicant.challenge(), channel=applicant.channel)
    assert applicant.refused(made._replace(token=cluster.token())).code == "not-authentic"


def test_the_nonce_of_another_connection_is_refused(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    first, second = Applicant(cluster.cas), Applicant(cluster.cas)
    nonce = first.challenge()
    assert second.challenge() != nonce
    made = prove(key, cluster.token(), nonce=nonce, channel=second.channel)
    assert second.refused(made).code == "not-authentic"
    first.stream.close()


def test_an_overheard_message_is_refused_on_the_next_connection(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    first = Applicant(cluster.cas)
    made = prove(key, cluster.token(), nonce=first.challenge(), channel=first.channel)
    assert isinstance(first.tell(made), Enrolled)
    second = Applicant(cluster.cas)
    second.challenge()
    assert second.refused(made).code == "not-authentic"


def test_evidence_of_the_las_s_key_is_no_proof(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    # Whoever can have a statement signed with report data of his choice cannot enrol by it.
    applicant = Applicant(cluster.cas)
    nonce = applicant.challenge()
    bound = report_data(role=ROLE_SERVICE, nonce=nonce, channel=applicant.channel, config_id="")
    envelope = statement(bound, key=key)
    signature = bytes.fromhex(json.loads(envelope.data)["signature"])
    made = Enrolment(key.public_key().public_bytes_raw(), cluster.token(), signature)
    assert applicant.refused(made).code == "not-authentic"


def test_a_key_of_small_order_is_refused(cluster: Cluster) -> None:
    applicant = Applicant(cluster.cas)
    applicant.challenge()
    made = Enrolment(b"\1" + bytes(31), cluster.token(), b"\1" + bytes(63))
    refusal = applicant.refused(made)
    assert refusal.code == "malformed"
    assert "small order" in refusal.messages[0]


def test_a_cas_that_is_not_the_pinned_one_gets_no_token(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    with (
        false_cas(fresh_identity()) as (address, heard),
        pytest.raises(Denied, match="not the pinned one"),
    ):
        enrol(address, cluster.token(), key, pin=cluster.pin, seconds=20)
    assert heard in ([], [b""])


def test_a_connection_is_one_enrolment(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    applicant = Applicant(cluster.cas)
    made = prove(key, cluster.token(), nonce=applicant.challenge(), channel=applicant.channel)
    data = applicant.client.enrolment(made)
    applicant.stream.send(data + data, applicant.deadline)
    event = applicant.answer()
    applicant.stream.close()
    assert isinstance(event, Refusal)
    assert event.messages == ("more than one message at once",)
    assert cluster.events() == []


@pytest.fixture
def strict(tmp_path: Path) -> Iterator[Cluster]:
    """A CAS at which simulation proves nothing."""
    with cluster_at(tmp_path, level=Level.NODE) as found:
        yield found


def _forged(cluster: Cluster) -> str:
    head, claims, _ = cluster.token().split(".")
    return f"{head}.{claims}.{'A' * 86}"


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda _: "a.b.c", "malformed"),
        (lambda _: "not a token", "malformed"),
        (lambda _: Issuer().token(POD, issued=0), "denied"),
        (_forged, "not-authentic"),
    ],
    ids=["garbage", "text", "unknown key", "forged"],
)
def test_a_stranger_hears_the_check_s_name_and_the_operator_all(
    strict: Cluster, key: Ed25519PrivateKey, make: Callable[[Cluster], str], code: str
) -> None:
    token = make(strict)
    text = whole(strict.refused(key, token=token))
    found = re.search(rf"refused by check {code}, request id ([0-9a-f]{{16}})", text)
    assert found is not None, text
    for word in ("issuer", "publish", "HEADER", "signed", "subject", strict.issuer.name, POD.node):
        assert word not in text
    logged = strict.cas.logged.text
    assert "WARNING CAS refused to enrol a LAS by token" in logged
    assert found[1] in logged
    assert token not in logged
    assert strict.events() == []


def test_a_stranger_s_false_proof_is_named_and_no_more(
    strict: Cluster, key: Ed25519PrivateKey
) -> None:
    applicant = Applicant(strict.cas)
    made = prove(key, strict.token(), nonce=applicant.challenge(), channel=applicant.channel)
    refusal = applicant.refused(made._replace(proof=bytes(64)))
    assert refusal.messages == (f"refused by check not-authentic, request id {refusal.request_id}",)
    assert not refusal.retry


def test_a_las_whose_token_is_authentic_hears_everything(
    strict: Cluster, key: Ed25519PrivateKey
) -> None:
    text = whole(strict.refused(key, POD._replace(account="default")))
    assert "service account 'system:serviceaccount:kube-system:default' may not enrol" in text
    strict.enrol(key)
    strict.order(Action.LAS_REMOVE, key)
    assert "readmit" in whole(strict.refused(key))


def test_a_cas_that_takes_no_tokens_says_so(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    with running(tmp_path / "state", minimum_level=Level.NODE) as cas:
        cluster = Cluster(cas, tmp_path / "state", Issuer(), Clock())
        text = whole(cluster.refused(key))
        assert "this CAS enrols no LAS by token" in text
        assert "--las-issuer" in text


def test_strangers_do_not_fill_the_log(
    strict: Cluster, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sparse, "take", lambda _self: None)  # this second's lines are used up
    strict.refused(key, token="a.b.c")
    assert "refused to enrol" not in strict.cas.logged.text


def test_one_address_cannot_enrol_without_end(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    outcomes = []
    for _ in range(30):
        try:
            cluster.enrol(key, token="a.b.c")
        except Error as error:
            outcomes.append(error)
    slowed = [one for one in outcomes if isinstance(one, Unavailable)]
    assert len(slowed) >= 5
    assert "this address enrols too often" in whole(slowed[0])
    # What it may do otherwise is as before.
    assert cluster.level(key) is Level.SIMULATION


def test_a_las_that_stops_after_the_challenge_is_cut_off(
    tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    with cluster_at(tmp_path, request_seconds=0.5) as cluster:
        applicant = Applicant(cluster.cas)
        applicant.challenge()
        with contextlib.suppress(Unavailable):
            assert applicant.stream.receive(applicant.deadline) == b""
        assert applicant.deadline.left() > 10
        applicant.stream.close()
        cluster.enrol(key)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\0\0\x02{}",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\0\0\0\x05hello",
        b'\0\0\0\x14{"type":"enrolment"}',
        b"\0\0\x10\0" + b"[" * 4096,
    ],
    ids=range(6),
)
def test_garbage_after_the_challenge_is_refused_by_name(
    cluster: Cluster, key: Ed25519PrivateKey, data: bytes
) -> None:
    applicant = Applicant(cluster.cas)
    applicant.challenge()
    applicant.stream.send(data, applicant.deadline)
    answer = applicant.stream.receive(applicant.deadline)
    applicant.stream.close()
    assert b'"type":"refusal"' in answer
    assert b'"malformed"' in answer or b'"too-large"' in answer
    cluster.enrol(key)
    assert "crashed" not in cluster.cas.logged.text
