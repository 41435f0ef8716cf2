"""The recipe: how often, in which order, and what the audit log keeps of it."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.cas.enrolment import enroller as recipe
from crannog.cas.enrolment.enroller import AT_ONCE, Applicant, Enroller
from crannog.cas.enrolment.key_set import IssuerKey, parse_key_set
from crannog.cas.enrolment.token import Expected
from crannog.cas.service import CasService
from crannog.errors import (
    Conflict,
    Denied,
    Error,
    EvidenceUnverifiable,
    FormatError,
    IntegrityError,
    Unavailable,
)
from crannog.evidence.report import Channel
from crannog.exchange.enrolment import Enrolled, Enrolment, prove
from crannog.testing.issuer import AUDIENCE, ISSUER, Issuer, Pod
from crannog.transport.log import server_log
from tests.unit.cas.support import NOW, service

POD = Pod()
NONCE = bytes(range(32))
CHANNEL = Channel(b"e" * 32, b"client", b"server")
KEY = Ed25519PrivateKey.generate()
ISSUED = int(NOW.timestamp())


class World:
    """A CAS without its ports."""

    def __init__(self, directory: Path) -> None:
        self.issuer = Issuer()
        self.cas: CasService = service(directory)
        self.clock = 0.0
        self.asked: list[str] = []
        self.before_keys: Callable[[], None] = lambda: None
        self.text = io.StringIO()
        self.enroller = Enroller(
            self.cas.trusted,
            self,
            Expected(ISSUER, AUDIENCE, frozenset({POD.subject})),
            log=server_log(self.text),
            now=lambda: NOW,
            clock=lambda: self.clock,
        )

    def find(self, kid: str) -> IssuerKey:
        self.asked.append(kid)
        self.before_keys()
        found = parse_key_set(self.issuer.key_set(), "keys").keys.get(kid)
        if found is None:
            raise Denied("the issuer publishes no such key")
        return found

    def token(self, pod: Pod = POD, *, issued: int = ISSUED) -> str:
        return self.issuer.token(pod, issued=issued)

    def ask(
        self,
        *,
        key: Ed25519PrivateKey = KEY,
        token: str | None = None,
        peer: str = "10.0.0.1:1000",
        change: Callable[[Enrolment], Enrolment] = lambda one: one,
    ) -> Applicant:
        made = prove(key, token or self.token(), nonce=NONCE, channel=CHANNEL)
        self.applicant = Applicant(peer, "id")
        self.result = self.enroller.enrol(
            change(made), self.applicant, nonce=NONCE, channel=CHANNEL
        )
        return self.applicant

    def audited(self) -> list[str]:
        found = self.cas._store.recent_records(datetime(2000, 1, 1, tzinfo=UTC))
        return [str(one["event"]) for one in found if "LAS" in str(one["event"])]


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    found = World(tmp_path)
    yield found
    found.cas.close()


def test_a_good_token_enrols(world: World) -> None:
    assert world.ask().proved
    assert world.result == Enrolled(ISSUED + 3600, "node1")


# --- the order ------------------------------------------------------------------------------------


def test_the_proof_is_checked_before_anybody_is_asked_for_keys(world: World) -> None:
    with pytest.raises(IntegrityError):
        world.ask(change=lambda one: one._replace(proof=bytes(64)))
    assert world.asked == []
    assert not world.applicant.proved


def test_a_key_of_small_order_is_refused_before_its_proof(world: World) -> None:
    with pytest.raises(FormatError, match="small order"):
        world.ask(change=lambda one: one._replace(public_key=b"\1" + bytes(31)))


def test_the_header_is_read_before_anybody_is_asked_for_keys(world: World) -> None:
    with pytest.raises(FormatError):
        world.ask(token="a.b.c")
    assert world.asked == []


@pytest.mark.parametrize(
    ("changes", "proved"),
    [({"aud": ["x"]}, True), ({"exp": 1}, True), ({"more": 1}, True)],
)
def test_a_token_is_authentic_once_its_signature_holds(
    world: World, changes: dict[str, Any], proved: bool
) -> None:
    claims = {**world.issuer.claims(POD, issued=ISSUED), **changes}
    with pytest.raises(Error):
        world.ask(token=world.issuer.sign(claims))
    assert world.applicant.proved is proved


def test_a_forged_token_is_not_authentic(world: World) -> None:
    forged = world.token()[:-8] + "AAAAAAAA"
    with pytest.raises(IntegrityError):
        world.ask(token=forged)
    assert not world.applicant.proved


# --- how often ------------------------------------------------------------------------------------


def attempts(world: World, count: int, peer: str = "10.0.0.1:1000") -> int:
    """How many of `count` strangers' attempts were refused for what they are."""
    refused = 0
    for number in range(count):
        try:
            world.ask(token="a.b.c", peer=peer.replace("{}", str(number)))
        except Unavailable:
            continue
        except FormatError:
            refused += 1
    return refused


def test_a_stranger_has_twenty_at_once_and_then_one_a_second(world: World) -> None:
    assert attempts(world, 30) == 20
    with pytest.raises(Unavailable, match="this address enrols too often") as caught:
        world.ask(token="a.b.c")
    # The operator's log has the reason.
    assert caught.value.internal == "token's header is not base64url"
    world.clock += 3
    assert attempts(world, 30) == 3


def test_a_stranger_at_the_same_address_does_not_keep_a_las_out(world: World) -> None:
    # Pods behind the address of their node, and nodes behind one address.
    for number in range(50):
        attempts(world, 30)
        world.ask(token=world.token(issued=ISSUED - 50 + number))
        world.clock += 1


def test_so_many_nodes_behind_one_address_as_there_are_enrol(world: World) -> None:
    for number in range(60):
        pod = Pod(f"las-{number}", f"node{number}")
        world.ask(key=Ed25519PrivateKey.generate(), token=world.token(pod))
    assert len(world.cas.trust().node_keys) == 60


def test_one_key_cannot_enrol_without_end(world: World) -> None:
    for _ in range(20):
        world.ask()
    with pytest.raises(Unavailable, match="this LAS key enrols too often"):
        world.ask()
    assert world.applicant.proved
    world.clock += 1
    world.ask()
    # Another one at the same address goes on.
    world.ask(key=Ed25519PrivateKey.generate(), token=world.token(Pod("las-2", "node2")))


def test_a_thief_of_a_token_does_not_slow_its_las(world: World) -> None:
    world.ask()
    for _ in range(60):
        with pytest.raises(Conflict):
            world.ask(key=Ed25519PrivateKey.generate())
    world.ask()


def test_while_the_issuer_is_down_nobody_is_taken_for_a_stranger(world: World) -> None:
    def down() -> None:
        raise EvidenceUnverifiable("the token's issuer cannot be asked for its keys now")

    world.before_keys = down
    for _ in range(30):
        with pytest.raises(EvidenceUnverifiable):
            world.ask()


def test_each_port_of_an_address_has_the_same_bucket(world: World) -> None:
    assert attempts(world, 30, "10.0.0.1:1{}") == 20


def test_each_address_has_its_own_bucket(world: World) -> None:
    attempts(world, 30)
    assert attempts(world, 5, "10.0.0.2:1000") == 5


def test_all_addresses_of_an_ipv6_network_have_the_same_bucket(world: World) -> None:
    assert attempts(world, 30, "2001:db8::{}:1000") == 20
    assert attempts(world, 5, "2001:db8:0:1::1:1000") == 5


def test_an_ipv4_address_in_ipv6_is_one_address(world: World) -> None:
    assert attempts(world, 30, "::ffff:10.0.0.1:1{}") == 20
    assert attempts(world, 5, "::ffff:10.0.0.2:1000") == 5


def test_a_peer_without_an_address_has_a_bucket_too(world: World) -> None:
    assert attempts(world, 30, "local") == 20


def test_so_many_tokens_are_looked_at_and_not_one_more(world: World) -> None:
    waiting = threading.Semaphore(0)
    go = threading.Event()

    def slow() -> None:
        waiting.release()
        assert go.wait(20)

    world.before_keys = slow

    def apply(number: int) -> None:
        made = prove(KEY, world.token(), nonce=NONCE, channel=CHANNEL)
        applicant = Applicant(f"10.0.1.{number}:1", "id")
        world.enroller.enrol(made, applicant, nonce=NONCE, channel=CHANNEL)

    threads = [threading.Thread(target=apply, args=(number,)) for number in range(AT_ONCE)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert waiting.acquire(timeout=20)
    with pytest.raises(Unavailable, match="being looked at already"):
        world.ask()
    go.set()
    for thread in threads:
        thread.join(20)
    world.before_keys = lambda: None
    world.ask()


def test_a_refused_token_gives_its_place_back(world: World) -> None:
    for number in range(3 * AT_ONCE):
        with pytest.raises(FormatError):
            world.ask(token="a.b.c", peer=f"10.0.2.{number}:1")
    world.ask()


# --- the audit log --------------------------------------------------------------------------------


def test_a_refusal_is_audited_once_for_key_pod_and_reason(world: World) -> None:
    world.ask()
    stolen = Ed25519PrivateKey.generate()
    for number in range(5):
        world.clock += 60
        with pytest.raises(Conflict):
            world.ask(key=stolen, token=world.token(issued=ISSUED + number))
    assert world.audited() == ["LAS enrolled", "LAS enrolment refused"]


def test_a_thief_with_a_token_and_many_keys_does_not_fill_the_audit_log(world: World) -> None:
    world.ask()
    for _ in range(60):
        world.clock += 1
        with pytest.raises(Conflict):
            world.ask(key=Ed25519PrivateKey.generate())
    refused = world.audited().count("LAS enrolment refused")
    assert 1 <= refused <= recipe.LINES_AT_ONCE
    # Nor does he keep others out of it.
    with pytest.raises(Conflict):
        world.ask(token=world.token(Pod("las-2", "node2")))
    assert world.audited().count("LAS enrolment refused") == refused + 1


def test_what_nobody_has_signed_is_not_audited(world: World) -> None:
    for token in ("a.b.c", world.token()[:-8] + "AAAAAAAA"):
        with pytest.raises(Error):
            world.ask(token=token)
    with pytest.raises(Denied):
        world.ask(token=world.token(POD._replace(account="other")))
    assert world.audited() == []
