"""LASes that enrol themselves at a real CAS by their tokens: what it is for, and how long."""

from __future__ import annotations

import contextlib
import re
import shutil
import sqlite3
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.cas.audit import verify_audit_log
from crannog.cas.keys import FileKey
from crannog.exchange.enrolment import (
    Enrolled,
)
from crannog.levels import Level
from crannog.testing.issuer import Issuer, Pod
from tests.api.helpers import running
from tests.api.token_enrolment import (
    POD,
    Clock,
    Cluster,
    cluster_at,
    public,
    whole,
)


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
