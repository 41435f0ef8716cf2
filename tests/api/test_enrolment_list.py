"""Which key a node has: removed, readmitted, enrolled by hand, another pod's."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.cas.enrolment.settings import IssuerSettings
from crannog.errors import Refused
from crannog.exchange.enrolment import (
    Enrolled,
)
from crannog.exchange.operator import Action
from crannog.levels import Level
from crannog.testing.issuer import Issuer, Pod
from tests.api.helpers import running, together
from tests.api.token_enrolment import (
    POD,
    Clock,
    Cluster,
    cluster_at,
    public,
    whole,
)


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
