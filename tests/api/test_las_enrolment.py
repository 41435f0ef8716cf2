"""A whole LAS that enrols itself at a whole CAS, and finds its way back after what goes wrong."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.exchange.operator import Action
from crannog.las import enrolling
from crannog.las.enrolling import EnrolmentSettings
from crannog.las.server import LasServer
from crannog.las.settings import LasSettings
from crannog.levels import Level
from crannog.testing.issuer import Issuer
from crannog.transport.address import Address
from crannog.transport.las_client import LasConnection, parse_las_address
from crannog.transport.tls import Pin
from tests.api.helpers import LOCAL, SharedLog
from tests.api.token_enrolment import POD, Clock, Cluster, cluster_at

_SECONDS = 20.0


class Las:
    """A running LAS, its log, and the token that its kubelet keeps."""

    def __init__(self, server: LasServer, logged: SharedLog, token: Path) -> None:
        self.server = server
        self.logged = logged
        self.token = token

    @property
    def key(self) -> Ed25519PrivateKey:
        return self.server._key

    def says(self, text: str, *, times: int = 1) -> None:
        wait(lambda: self.logged.text.count(text) >= times, f"{text!r} in {self.logged.text}")


def wait(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


@contextmanager
def las(directory: Path, cas: Address, pin: Pin | None) -> Iterator[Las]:
    directory.mkdir(exist_ok=True)
    token = directory / "token"
    settings = LasSettings(
        state_directory=directory / "state",
        listen=LOCAL,
        enrolment=EnrolmentSettings(cas, token, pin),
    )
    logged = SharedLog()
    with LasServer(settings, log=logged.log) as server:
        yield Las(server, logged, token)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with cluster_at(tmp_path) as found:
        yield found


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enrolling, "LOOK_SECONDS", 0.02)


def test_a_las_enrols_itself_renews_and_ends_removed(cluster: Cluster, tmp_path: Path) -> None:
    with las(tmp_path / "las", cluster.cas.enclave, cluster.pin) as node:
        node.says("token cannot be read")
        # The file is there all at once, as the kubelet does it.
        (tmp_path / "new").write_text(cluster.token())
        (tmp_path / "new").rename(node.token)
        node.says(f"INFO LAS is enrolled at CAS {cluster.cas.enclave} as node node1 until")
        assert cluster.level(node.key) is Level.NODE

        cluster.clock.forward(3000)
        (tmp_path / "new").write_text(cluster.token())
        (tmp_path / "new").rename(node.token)
        node.says("INFO LAS is enrolled", times=2)
        cluster.clock.forward(3000)
        assert cluster.level(node.key) is Level.NODE

        cluster.order(Action.LAS_REMOVE, node.key)
        (tmp_path / "new").write_text(cluster.token())
        (tmp_path / "new").rename(node.token)
        node.says("was removed by the CAS's operator")
        assert cluster.level(node.key) is Level.SIMULATION

        cluster.order(Action.LAS_READMIT, node.key)
        (tmp_path / "new").write_text(cluster.token())
        (tmp_path / "new").rename(node.token)
        node.says("INFO LAS is enrolled", times=3)
        assert cluster.level(node.key) is Level.NODE


def test_a_las_whose_cas_is_down_answers_programs_and_enrols_when_it_is_up(tmp_path: Path) -> None:
    issuer, clock = Issuer(), Clock()
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    (tmp_path / "las").mkdir()
    (tmp_path / "las" / "token").write_text(issuer.token(POD, issued=clock.seconds))
    with las(tmp_path / "las", Address("127.0.0.1", port), None) as node:
        node.says("WARNING LAS enrols at whatever CAS answers")
        node.says(f"is not enrolled at CAS 127.0.0.1:{port}: cannot connect to CAS")
        host, las_port = node.server.address
        with LasConnection(parse_las_address(f"{host}:{las_port}", "las"), seconds=10) as asked:
            assert asked.probe().public_key.hex() == node.server.public_key
        with cluster_at(
            tmp_path, issuer=issuer, clock=clock, enclave_listen=("127.0.0.1", port)
        ) as cluster:
            node.says("INFO LAS is enrolled")
            assert cluster.level(node.key) is Level.NODE


def test_a_las_does_not_show_its_token_to_another_cas(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "las").mkdir()
    (tmp_path / "las" / "token").write_text(cluster.token())
    with las(tmp_path / "las", cluster.cas.enclave, Pin(key_sha256=bytes(32))) as node:
        node.says("is not the pinned one")
    assert cluster.events() == []


def test_a_las_stops_while_its_cas_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = Address("127.0.0.1", silent.getsockname()[1])
        (tmp_path / "las").mkdir()
        (tmp_path / "las" / "token").write_text("a.b.c")
        with las(tmp_path / "las", address, None):
            connection, _ = silent.accept()
            started = time.monotonic()
        assert time.monotonic() - started < 10
        connection.close()


def test_two_lases_with_the_same_state_directory_are_not_both_enrolled(
    cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "token").write_text(cluster.token())
    with las(tmp_path / "one", cluster.cas.enclave, cluster.pin) as node:
        node.says("INFO LAS is enrolled")
    (tmp_path / "two").mkdir()
    (tmp_path / "one" / "state").rename(tmp_path / "two" / "state")
    (tmp_path / "two" / "token").write_text(cluster.token(POD._replace(name="b", node="node2")))
    with las(tmp_path / "two", cluster.cas.enclave, cluster.pin) as copied:
        copied.says("do two nodes have the same LAS state directory?")
