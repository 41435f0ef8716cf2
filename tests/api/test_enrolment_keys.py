"""A CAS that fetches the keys of its cluster's tokens by HTTPS."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.cas.enrolment.settings import IssuerSettings
from crannog.errors import Error, Unavailable
from crannog.exchange.operator import Action
from crannog.levels import Level
from crannog.testing.issuer import Issuer, ec_key
from crannog.testing.issuer_server import IssuerServer
from tests.api.helpers import SESSION, running
from tests.api.token_enrolment import (
    POD,
    Clock,
    Cluster,
    whole,
)


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
