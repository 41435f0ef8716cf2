"""LASes that enrol themselves at a real CAS by service account tokens, and who tries without."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.cas.audit import export_audit_log, verify_audit_log
from crannog.cas.enrolment.settings import IssuerSettings
from crannog.cas.keys import FileKey
from crannog.cas.operating import operate
from crannog.errors import Denied, Error, Refused, Unavailable, chain, hints
from crannog.evidence.report import ROLE_SERVICE, Channel, report_data
from crannog.evidence.subject import Container
from crannog.exchange.enrolment import (
    Challenge,
    Enrolled,
    Enrolment,
    EnrolmentClient,
    prove,
)
from crannog.exchange.operator import Action, Order
from crannog.exchange.refusal import Refusal
from crannog.levels import Level
from crannog.testing.issuer import Issuer, Pod, ec_key
from crannog.testing.issuer_server import IssuerServer
from crannog.transport.connect import connect
from crannog.transport.enrolment_client import enrol
from crannog.transport.log import Sparse
from crannog.transport.names import resolve
from crannog.transport.stream import Deadline
from crannog.transport.tls import Identity, Pin, client_context, client_stream, fresh_identity
from tests.api.helpers import SESSION, Cas, false_cas, running, statement, together

POD = Pod()
WHERE = Container(
    engine="containerd",
    id="c" * 64,
    name="shop",
    image="registry.example/shop:1",
    image_id="sha256:" + "ab" * 32,
    hooks=(),
)


class Clock:
    """The cluster's time and the CAS's."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    @property
    def seconds(self) -> int:
        return int(self.now.timestamp())

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


class Cluster:
    """A CAS that takes a cluster's tokens, and the cluster."""

    def __init__(self, cas: Cas, state: Path, issuer: Issuer, clock: Clock) -> None:
        self.cas = cas
        self.state = state
        self.issuer = issuer
        self.clock = clock

    def token(self, pod: Pod = POD, *, life: int = 3600) -> str:
        return self.issuer.token(pod, issued=self.clock.seconds, life=life)

    def enrol(
        self, key: Ed25519PrivateKey, pod: Pod = POD, *, token: str | None = None
    ) -> Enrolled:
        return enrol(self.cas.enclave, token or self.token(pod), key, pin=self.pin, seconds=20)

    def refused(
        self, key: Ed25519PrivateKey, pod: Pod = POD, *, token: str | None = None
    ) -> Refused:
        with pytest.raises(Refused) as caught:
            self.enrol(key, pod, token=token)
        assert caught.value.message.startswith("the CAS does not enrol this LAS: ")
        return caught.value

    @property
    def pin(self) -> Pin:
        return Pin(key_sha256=bytes.fromhex(self.cas.server.key_sha256))

    def level(self, key: Ed25519PrivateKey) -> Level:
        """What a program is worth that this LAS vouches for at level node."""

        def make(bound: bytes) -> tuple[Any, ...]:
            values = {"level": Level.NODE, "method": "las/witness", "container": WHERE}
            return (statement(bound, key=key, **values),)  # type: ignore[arg-type]

        return self.cas.attest(make=make).level

    def order(self, action: Action, key: Ed25519PrivateKey) -> None:
        """An order to the running CAS, as the command line gives it."""
        keys = FileKey(self.state / "master.key")
        operate(self.state / "cas.db", keys=keys, order=Order(action, public(key), ""))

    def audited(self) -> list[dict[str, Any]]:
        """The audit log's lines about LASes."""
        keys = FileKey(self.state / "master.key")
        lines = map(json.loads, export_audit_log(self.state / "cas.db", keys=keys))
        return [line for line in lines if "LAS" in line["event"]]

    def events(self) -> list[str]:
        return [line["event"] for line in self.audited()]


def public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def whole(error: Error) -> str:
    return "; ".join((*chain(error), *hints(error)))


@contextmanager
def cluster_at(
    directory: Path,
    *,
    issuer: Issuer | None = None,
    clock: Clock | None = None,
    level: Level = Level.SIMULATION,
    **changes: Any,
) -> Iterator[Cluster]:
    issuer, clock = issuer or Issuer(), clock or Clock()
    keys = directory / "jwks"
    keys.write_bytes(issuer.key_set())
    settings = IssuerSettings(issuer.name, str(keys), subjects=(POD.subject,))
    given: dict[str, Any] = {"issuer": settings, "minimum_level": level, **changes}
    with running(directory / "state", now=clock, **given) as cas:
        if level is Level.SIMULATION:
            cas.post(SESSION)
        yield Cluster(cas, directory / "state", issuer, clock)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as found:
        yield found


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def other() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


class Applicant:
    """A LAS that does what a test tells it, message by message."""

    def __init__(self, cas: Cas, identity: Identity | None = None) -> None:
        identity = identity or fresh_identity()
        self.deadline = Deadline.after(20)
        sock = connect(cas.enclave, self.deadline, "CAS", resolve)
        self.stream = client_stream(client_context(identity), sock, None)
        self.stream.handshake(self.deadline)
        server = self.stream.peer_key() or b""
        self.channel = Channel(self.stream.exporter(), identity.public_key(), server)
        self.client = EnrolmentClient()

    def challenge(self) -> bytes:
        self.stream.send(self.client.enrol(), self.deadline)
        event = self.answer()
        assert isinstance(event, Challenge)
        return event.nonce

    def answer(self) -> object:
        while (event := self.client.next_event()) is None:
            data = self.stream.receive(self.deadline)
            if not data:
                return None
            self.client.receive(data)
        return event

    def tell(self, enrolment: Enrolment) -> object:
        self.stream.send(self.client.enrolment(enrolment), self.deadline)
        event = self.answer()
        self.stream.close()
        return event

    def refused(self, enrolment: Enrolment) -> Refusal:
        event = self.tell(enrolment)
        assert isinstance(event, Refusal), event
        return event


# --- what it is for -------------------------------------------------------------------------------


def test_a_las_with_a_token_vouches_for_level_node_from_then_on(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    assert cluster.level(key) is Level.SIMULATION
    assert cluster.enrol(key) == Enrolled(cluster.clock.seconds + 3600, "node1")
    assert cluster.level(key) is Level.NODE


def test_another_key_gains_nothing_by_it(
    cluster: Cluster, key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    cluster.enrol(key)
    assert cluster.level(other) is Level.SIMULATION


def test_each_node_has_a_key_of_its_own(
    cluster: Cluster, key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    cluster.enrol(key)
    assert cluster.enrol(other, Pod("las-2", "node2")).node == "node2"
    assert cluster.level(key) is Level.NODE
    assert cluster.level(other) is Level.NODE


def test_the_audit_log_says_who_got_in_and_by_which_token(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    claims = cluster.issuer.claims(POD, issued=cluster.clock.seconds)
    cluster.enrol(key, token=cluster.issuer.sign(claims))
    (line,) = cluster.audited()
    assert (line["event"], line["actor"]) == ("LAS enrolled", POD.subject)
    notes = line["notes"]
    assert notes["las-key"] == public(key)
    assert (notes["node"], notes["pod"]) == ("node1", POD.name)
    assert notes["pod_uid"] == claims["kubernetes.io"]["pod"]["uid"]
    assert notes["jti"] == claims["jti"]
    assert notes["source"] == "token"
    assert notes["issuer"] == cluster.issuer.name
    assert notes["peer"].startswith("127.0.0.1:")
    assert re.fullmatch("[0-9a-f]{16}", notes["request"])


def test_the_log_says_it_once_and_holds_no_token(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    token = cluster.token()
    for _ in range(3):
        cluster.enrol(key, token=token)
    text = cluster.cas.logged.text
    assert text.count(f"INFO CAS enrolled LAS {public(key)} by token node=node1") == 1
    assert not any(part in text for part in token.split("."))


def test_enrolments_are_counted(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    cluster.enrol(key)
    cluster.enrol(key)
    cluster.refused(key, token="a.b.c")
    _, text = cluster.cas.call("GET", "/v1/metrics")
    assert 'crannog_cas_las_enrolments_total{outcome="enrolled"} 2.0' in text
    assert 'crannog_cas_las_enrolments_total{outcome="malformed"} 1.0' in text


def test_it_is_on_disk_before_the_las_hears_of_it(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    issuer, clock = Issuer(), Clock()
    with cluster_at(tmp_path, issuer=issuer, clock=clock) as cluster:
        cluster.enrol(key)
    with running(tmp_path / "state", now=clock) as cas:  # which takes no tokens any more
        assert Cluster(cas, tmp_path / "state", issuer, clock).level(key) is Level.NODE


# --- how long -------------------------------------------------------------------------------------


def test_an_expired_las_is_not_believed_from_that_second_on(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    cluster.enrol(key)
    cluster.clock.forward(3598)
    assert cluster.level(key) is Level.NODE
    cluster.clock.forward(2)
    assert cluster.level(key) is Level.SIMULATION


def test_each_las_expires_by_itself(
    cluster: Cluster, key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    cluster.enrol(key)
    cluster.clock.forward(1800)
    cluster.enrol(other, Pod("las-2", "node2"))
    cluster.clock.forward(1801)
    assert cluster.level(key) is Level.SIMULATION
    assert cluster.level(other) is Level.NODE


def test_an_expired_token_enrols_nobody(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    token = cluster.token(life=600)
    cluster.clock.forward(600)
    assert "token expired" in whole(cluster.refused(key, token=token))
    assert cluster.level(key) is Level.SIMULATION


def test_a_las_that_renews_is_believed_all_the_while_and_is_audited_once(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    for _ in range(15):
        enrolled = cluster.enrol(key)
        assert enrolled.expires == cluster.clock.seconds + 3600
        cluster.clock.forward(2880)  # the kubelet's: 80 % of a token's life
        assert cluster.level(key) is Level.NODE
    assert cluster.events() == ["LAS enrolled"]


def test_renewals_leave_a_database_that_verifies(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    for _ in range(3):
        cluster.enrol(key)
        cluster.clock.forward(600)
    keys = FileKey(cluster.state / "master.key")
    head = cluster.cas.server.service.head
    assert verify_audit_log(cluster.state / "cas.db", keys=keys, expect_head=head).severity == 0


def test_a_renewal_survives_a_restart(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    issuer, clock = Issuer(), Clock()
    with cluster_at(tmp_path, issuer=issuer, clock=clock) as cluster:
        cluster.enrol(key)
        clock.forward(3000)
        cluster.enrol(key)
    clock.forward(3000)
    with running(tmp_path / "state", now=clock) as cas:
        assert Cluster(cas, tmp_path / "state", issuer, clock).level(key) is Level.NODE
        clock.forward(600)
        assert Cluster(cas, tmp_path / "state", issuer, clock).level(key) is Level.SIMULATION


def test_who_puts_a_renewal_back_brings_the_expiry_nearer_and_no_more(
    cluster: Cluster, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    # A renewal has no record in the audit log, so the state before it fits the head after it.
    cluster.enrol(key)
    head = cluster.cas.server.service.head
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    with (
        contextlib.closing(sqlite3.connect(cluster.state / "cas.db")) as now,
        contextlib.closing(sqlite3.connect(earlier / "cas.db")) as kept,
    ):
        now.backup(kept)
    shutil.copy(cluster.state / "master.key", earlier)
    cluster.clock.forward(3000)
    cluster.enrol(key)
    assert cluster.cas.server.service.head == head
    cluster.clock.forward(1000)
    assert cluster.level(key) is Level.NODE
    found = verify_audit_log(
        earlier / "cas.db", keys=FileKey(earlier / "master.key"), expect_head=head
    )
    assert found.severity == 0
    with running(earlier, now=cluster.clock) as cas:
        assert Cluster(cas, earlier, cluster.issuer, cluster.clock).level(key) is Level.SIMULATION


def test_the_same_token_again_changes_nothing(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    token = cluster.token()
    first = cluster.enrol(key, token=token)
    head = cluster.cas.server.service.head
    cluster.clock.forward(100)
    assert cluster.enrol(key, token=token) == first
    assert cluster.cas.server.service.head == head


def test_after_a_gap_trust_begins_again_and_is_audited_again(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    cluster.enrol(key)
    cluster.clock.forward(4000)
    cluster.enrol(key)
    assert cluster.events() == ["LAS enrolled", "LAS enrolled"]


# --- the proof is of this connection --------------------------------------------------------------


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


# --- the list -------------------------------------------------------------------------------------


def test_a_removed_las_is_not_believed_and_stays_removed_however_often_it_renews(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    cluster.enrol(key)
    cluster.order(Action.LAS_REMOVE, key)
    assert cluster.level(key) is Level.SIMULATION
    for _ in range(4):
        cluster.clock.forward(1200)
        error = cluster.refused(key)
        assert "was removed by the CAS's operator" in whole(error)
        assert f"crannog cas las readmit {public(key)}" in whole(error)
        assert cluster.level(key) is Level.SIMULATION
    # Said once, not for each try.
    assert cluster.events() == ["LAS enrolled", "LAS removed", "LAS enrolment refused"]


def test_a_removed_las_stays_removed_over_a_restart(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    issuer, clock = Issuer(), Clock()
    with cluster_at(tmp_path, issuer=issuer, clock=clock) as cluster:
        cluster.enrol(key)
        cluster.order(Action.LAS_REMOVE, key)
    keys = tmp_path / "jwks"
    settings = IssuerSettings(issuer.name, str(keys), subjects=(POD.subject,))
    with running(tmp_path / "state", now=clock, issuer=settings) as cas:
        again = Cluster(cas, tmp_path / "state", issuer, clock)
        assert "removed" in whole(again.refused(key))


def test_after_a_removal_its_token_enrols_no_other_key(
    cluster: Cluster, key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    # Who has the token of the pod makes a key of his own.
    token = cluster.token()
    cluster.enrol(key, token=token)
    cluster.order(Action.LAS_REMOVE, key)
    for thief in (other, Ed25519PrivateKey.generate()):
        text = whole(cluster.refused(thief, token=token))
        assert "its tokens enrol no other" in text
        assert cluster.level(thief) is Level.SIMULATION
    cluster.clock.forward(60)
    cluster.enrol(other, POD._replace(name="las-new"))
    assert cluster.level(other) is Level.NODE


def test_after_an_enrolment_by_hand_its_token_enrols_no_other_key(
    cluster: Cluster, key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    token = cluster.token()
    cluster.order(Action.LAS_ADD, key)
    cluster.enrol(key, token=token)
    assert "has enrolled another LAS key" in whole(cluster.refused(other, token=token))
    cluster.order(Action.LAS_REMOVE, key)
    assert "its tokens enrol no other" in whole(cluster.refused(other, token=token))


def test_a_readmitted_las_enrols_itself_again(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    cluster.enrol(key)
    cluster.order(Action.LAS_REMOVE, key)
    cluster.refused(key)
    cluster.order(Action.LAS_READMIT, key)
    assert cluster.level(key) is Level.SIMULATION
    cluster.enrol(key)
    assert cluster.level(key) is Level.NODE
    assert cluster.events() == [
        "LAS enrolled",
        "LAS removed",
        "LAS enrolment refused",
        "LAS readmitted",
        "LAS enrolled",
    ]


def test_a_las_that_is_enrolled_by_hand_does_not_expire(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    cluster.order(Action.LAS_ADD, key)
    assert cluster.enrol(key) == Enrolled(None, "node1")
    cluster.clock.forward(86400)
    assert cluster.level(key) is Level.NODE


def test_another_node_with_the_same_key_is_refused(
    cluster: Cluster, key: Ed25519PrivateKey
) -> None:
    cluster.enrol(key)
    error = cluster.refused(key, Pod("las-2", "node2"))
    assert "is enrolled for node 'node1'" in whole(error)
    assert "same LAS state directory" in whole(error)
    line = cluster.audited()[-1]
    assert line["event"] == "LAS enrolment refused"
    assert line["notes"]["node"] == "node2"
    assert "is enrolled for node 'node1'" in line["notes"]["reason"]


def test_the_same_pod_with_a_new_key_is_refused(
    cluster: Cluster, key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    # Somebody took the token out of the pod.
    cluster.enrol(key)
    cluster.clock.forward(60)
    assert "has enrolled another LAS key" in whole(cluster.refused(other))
    assert cluster.level(key) is Level.NODE
    assert cluster.level(other) is Level.SIMULATION


def test_a_later_pod_of_the_node_takes_its_place(
    cluster: Cluster, key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    cluster.enrol(key)
    cluster.clock.forward(60)
    cluster.enrol(other, POD._replace(name="las-new"))
    assert cluster.level(key) is Level.SIMULATION
    assert cluster.level(other) is Level.NODE
    assert cluster.audited()[-1]["notes"]["replaces"] == public(key)


def test_a_token_of_a_pod_that_is_gone_does_not_push_out_the_next_one(
    cluster: Cluster, key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    stolen = cluster.token(POD._replace(name="las-old"))
    cluster.clock.forward(60)
    cluster.enrol(key)
    assert "issued later than this one" in whole(cluster.refused(other, token=stolen))
    assert cluster.level(key) is Level.NODE


def test_of_two_keys_at_once_for_one_pod_one_gets_in(cluster: Cluster) -> None:
    keys = [Ed25519PrivateKey.generate() for _ in range(6)]
    results = together(6, lambda number: cluster.enrol(keys[number]))
    assert sum(isinstance(one, Enrolled) for one in results) == 1
    assert sum(isinstance(one, Refused) for one in results) == 5
    assert sum(cluster.level(one) is Level.NODE for one in keys) == 1


def test_another_service_account_enrols_nobody(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    for pod in (POD._replace(account="default"), POD._replace(namespace="default")):
        assert "may not enrol a LAS at this CAS" in whole(cluster.refused(key, pod))
    assert cluster.events() == []


def test_another_cluster_s_token_enrols_nobody(cluster: Cluster, key: Ed25519PrivateKey) -> None:
    foreign = Issuer().token(POD, issued=cluster.clock.seconds)
    assert "publishes no key" in whole(cluster.refused(key, token=foreign))


# --- who hears what -------------------------------------------------------------------------------


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


# --- too much -------------------------------------------------------------------------------------


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


# --- keys by HTTPS --------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Cluster, IssuerServer]]:
    """A CAS that fetches its cluster's keys."""
    issuer, clock = Issuer(), Clock()
    with IssuerServer(issuer, bearer="bearer") as server:
        (tmp_path / "ca").write_bytes(server.authority.pem)
        (tmp_path / "bearer").write_text("bearer")
        settings = IssuerSettings(
            issuer.name,
            server.url,
            authorities=tmp_path / "ca",
            bearer=tmp_path / "bearer",
            subjects=(POD.subject,),
        )
        with running(tmp_path / "state", now=clock, issuer=settings) as cas:
            cas.post(SESSION)
            yield Cluster(cas, tmp_path / "state", issuer, clock), server


def test_a_cas_fetches_its_cluster_s_keys_when_the_first_token_comes(
    served: tuple[Cluster, IssuerServer], key: Ed25519PrivateKey
) -> None:
    cluster, server = served
    assert server.requests == []
    for _ in range(3):
        cluster.enrol(key)
    assert len(server.requests) == 1
    assert cluster.level(key) is Level.NODE


def test_while_the_issuer_is_down_nobody_is_enrolled_and_who_is_stays(
    served: tuple[Cluster, IssuerServer], key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    cluster, server = served
    server.stop()
    cluster.order(Action.LAS_ADD, other)
    with pytest.raises(Unavailable) as caught:
        cluster.enrol(key)
    text = whole(caught.value)
    assert "the token's issuer cannot be asked for its keys now" in text
    assert server.url not in text
    assert "cannot connect to issuer" in cluster.cas.logged.text
    assert cluster.level(key) is Level.SIMULATION
    assert cluster.level(other) is Level.NODE


def test_an_issuer_that_does_not_answer_holds_up_nobody_else(
    served: tuple[Cluster, IssuerServer], key: Ed25519PrivateKey, other: Ed25519PrivateKey
) -> None:
    cluster, server = served
    asked = threading.Event()

    def silent(*_: object) -> None:
        asked.set()
        server.ended.wait()

    server.answer = silent
    result: list[object] = []

    def try_to() -> None:
        try:
            result.append(cluster.enrol(key))
        except Error as error:
            result.append(error)

    thread = threading.Thread(target=try_to)
    thread.start()
    assert asked.wait(20)
    assert cluster.level(other) is Level.SIMULATION
    assert result == []
    server.stop()
    thread.join(20)
    assert isinstance(result[0], Unavailable)


def test_a_key_that_the_issuer_rotates_to_is_found(
    served: tuple[Cluster, IssuerServer], key: Ed25519PrivateKey
) -> None:
    cluster, _ = served
    cluster.issuer.rotate(ec_key())
    cluster.enrol(key)
    assert cluster.level(key) is Level.NODE
