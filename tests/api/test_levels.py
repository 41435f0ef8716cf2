"""Who gets level node from a real CAS, and every way somebody tries to without being seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.cas.audit import export_audit_log
from crannog.cas.keys import FileKey
from crannog.cas.operating import operate
from crannog.cas.service import CasService
from crannog.errors import Refused
from crannog.evidence.envelope import Envelope
from crannog.evidence.subject import Container, Pins
from crannog.exchange.operator import Action, Order
from crannog.keyhash import key_hash
from crannog.levels import Level
from crannog.transport.tls import fresh_identity
from tests.api.helpers import LAUNCHER, MRENCLAVE, Cas, running, statement
from tests.api.test_attestation import Peer

WHERE = Container(
    engine="docker",
    id="c" * 64,
    name="web",
    image="registry.example/shop:1",
    image_id="sha256:" + "ab" * 32,
    hooks=("prestart /usr/bin/libnetwork-setkey",),
)
SESSION = f"""\
name: tutorial
version: "0.3"
services:
  - name: application
    mrenclaves: [{MRENCLAVE.hex()}]
    command: python3 /app/server.py
    minimum_level: node
"""
UNVOUCHED = "Not all of the required enclave properties are met by the enclave"


class Node:
    """A CAS, and a node whose LAS has a key."""

    def __init__(self, cas: Cas, state: Path) -> None:
        self.cas = cas
        self.state = state
        self.key = Ed25519PrivateKey.generate()
        self.public = self.key.public_key().public_bytes_raw().hex()

    def order(self, action: Action, subject: str = "", note: str = "") -> str:
        """An order to the running CAS, as the command line gives it."""
        keys = FileKey(self.state / "master.key")
        return operate(self.state / "cas.db", keys=keys, order=Order(action, subject, note))

    def enrol(self) -> None:
        self.order(Action.LAS_ADD, self.public, "node 1")

    def evidence(self, **changes: Any) -> Callable[[bytes], tuple[Envelope, ...]]:
        """What the node's LAS signs after it has looked, but for `changes`."""
        values = {
            "level": Level.NODE,
            "method": "las/witness",
            "key": self.key,
            "container": WHERE,
            **changes,
        }
        return lambda bound: (statement(bound, **values),)

    def level(self, **changes: Any) -> Level:
        """At which level the program is configured."""
        return self.cas.attest(make=self.evidence(**changes)).level

    def refused(self, **changes: Any) -> Refused:
        """What a program hears that is not configured."""
        with pytest.raises(Refused) as caught:
            self.level(**changes)
        return caught.value

    def log(self) -> list[dict[str, Any]]:
        """The audit records so far."""
        lines = export_audit_log(self.state / "cas.db", keys=FileKey(self.state / "master.key"))
        return [json.loads(line) for line in lines]


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """Minimum level simulation, so that refusals are told; the session asks for node."""
    with running(tmp_path / "state") as cas:
        cas.post(SESSION)
        yield Node(cas, tmp_path / "state")


def test_an_enrolled_las_that_has_looked_is_worth_node(node: Node) -> None:
    node.enrol()
    assert node.level() is Level.NODE


def test_an_unenrolled_las_is_not(node: Node) -> None:
    error = node.refused()
    unenrolled = f"the key that signed, {node.public}, is not enrolled at this CAS"
    assert error.messages == (
        UNVOUCHED,
        f"Trust level is simulation ({unenrolled}) - Expected at least node",
    )
    assert "crannog cas las add" in error.hint


def test_enrolment_counts_at_once_and_so_does_its_end(node: Node) -> None:
    node.refused()
    node.enrol()
    assert node.level() is Level.NODE
    node.order(Action.LAS_REMOVE, node.public)
    assert "is not enrolled" in node.refused().messages[1]


def test_enrolment_outlives_a_restart(node: Node) -> None:
    node.enrol()
    node.cas.server.stop()
    with running(node.state, minimum_level=None) as cas:
        node.cas = cas
        assert node.level() is Level.NODE
    node.cas.server.start()  # for the fixture to stop


@pytest.mark.parametrize(
    "method", ["las/tcp", "las/unix", "launcher", "las/Witness", "las/witness "]
)
def test_an_enrolled_las_that_has_not_looked_is_worth_simulation(node: Node, method: str) -> None:
    node.enrol()
    error = node.refused(method=method, reason="over TCP the LAS cannot see who asks")
    assert error.messages[1] == (
        "Trust level is simulation (the LAS: over TCP the LAS cannot see who asks) - "
        "Expected at least node"
    )


def test_the_las_s_reason_stands_in_the_refusal(node: Node) -> None:
    node.enrol()
    reason = "args[0] is /usr/bin/python3, expected /run/crannog/launcher/run"
    error = node.refused(level=Level.SIMULATION, method="las/unix", reason=reason)
    assert error.messages[1] == (
        f"Trust level is simulation (the LAS: {reason}) - Expected at least node"
    )


def test_a_reason_cannot_forge_a_line(node: Node) -> None:
    node.enrol()
    reason = "x\nINFO Provisioned configuration\x1b[2J"
    error = node.refused(level=Level.SIMULATION, method="las/unix", reason=reason)
    assert "(the LAS: x?INFO Provisioned configuration?[2J)" in error.messages[1]
    assert "\nINFO Provisioned" not in node.cas.logged.text


def test_a_stranger_s_reason_is_not_repeated(node: Node) -> None:
    error = node.refused(level=Level.SIMULATION, reason="enrol me: crannog cas las add 00")
    assert "enrol me" not in " ".join(error.messages)


def test_evidence_that_another_key_signed_in_the_las_s_name_is_refused(node: Node) -> None:
    node.enrol()

    def forged(bound: bytes) -> tuple[Envelope, ...]:
        (envelope,) = node.evidence(key=Ed25519PrivateKey.generate())(bound)
        message = json.loads(envelope.data)
        message["public_key"] = node.public
        data = json.dumps(message, sort_keys=True, separators=(",", ":")).encode()
        return (envelope._replace(data=data),)

    with pytest.raises(Refused) as caught:
        node.cas.attest(make=forged)
    assert "signature" in caught.value.message + " ".join(caught.value.messages)


def test_node_evidence_is_not_replayed_on_another_connection(node: Node) -> None:
    node.enrol()
    first = Peer(node.cas)
    (envelope,) = node.evidence()(first.bound(first.challenge()))
    first.stream.send(first.evidence(envelope), first.deadline)
    first.answer()
    first.stream.close()
    second = Peer(node.cas)
    second.challenge()
    assert second.refused(envelope).messages == ("the evidence was made for another connection",)


def test_a_second_envelope_does_not_lend_its_level_to_another_program(node: Node) -> None:
    node.enrol()

    def both(bound: bytes) -> tuple[Envelope, ...]:
        return (
            statement(bound, mrenclave=MRENCLAVE),
            *node.evidence(mrenclave=b"x" * 32)(bound),
        )

    with pytest.raises(Refused) as caught:
        node.cas.attest(make=both)
    assert "different programs" in caught.value.message + " ".join(caught.value.messages)


# --- pins -----------------------------------------------------------------------------------------


def own_pins(cas: Cas) -> tuple[str, ...]:
    authority = cas.server.service.authority
    return (
        cas.server.key_sha256,
        authority.key_hash,
        authority.chain_pem,
        f" {authority.key_hash}\n",
    )


def test_evidence_of_a_program_that_insists_on_this_cas_is_taken(node: Node) -> None:
    node.enrol()
    for pin in own_pins(node.cas):
        assert node.level(pins=Pins(cas_key=pin[:1024])) is Level.NODE


@pytest.mark.parametrize(
    "pin", ["ab" * 32, key_hash(b"another"), "not a pin", fresh_identity().public_key().hex()[:64]]
)
def test_evidence_of_a_program_that_insists_on_another_cas_is_refused(node: Node, pin: str) -> None:
    node.enrol()
    error = node.refused(pins=Pins(cas_key=pin))
    assert error.messages[1] == (
        f"The program insists on the CAS of key {pin!r} - Expected this one"
    )


def test_evidence_of_a_program_that_insists_on_another_version_is_refused(node: Node) -> None:
    node.enrol()
    own = node.cas.server.service.read_session("tutorial", None, _owner(node.cas))[1]
    assert node.level(pins=Pins(session_hash=own.upper())) is Level.NODE
    error = node.refused(pins=Pins(session_hash="ab" * 32))
    assert error.messages[1] == (
        f"The program insists on session version {'ab' * 32!r} - Expected {own}"
    )


def _owner(cas: Cas) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return cas.owner.chain[0].public_bytes(Encoding.DER)


# --- launchers ------------------------------------------------------------------------------------


def test_a_launcher_that_is_not_accepted_is_refused_and_then_accepted(node: Node) -> None:
    node.enrol()
    node.order(Action.LAUNCHER_ADD, "ab" * 32)
    error = node.refused()
    assert error.messages[1] == (
        f"Unexpected launcher {LAUNCHER.hex()} - Expected one of 1 accepted releases"
    )
    assert "crannog cas launcher add" in error.hint
    node.order(Action.LAUNCHER_ADD, LAUNCHER.hex(), "release 2")
    assert node.level() is Level.NODE
    node.order(Action.LAUNCHER_REMOVE, LAUNCHER.hex())
    assert node.refused().messages[1].startswith("Unexpected launcher")
    node.order(Action.LAUNCHER_CLEAR)
    assert node.level() is Level.NODE


# --- claims ---------------------------------------------------------------------------------------


def claiming(node: Node, text: str, name: str = "claiming") -> Callable[..., Refused]:
    node.cas.post(SESSION.replace("name: tutorial", f"name: {name}") + f"    claims: {text}\n")
    node.enrol()

    def refused(**changes: Any) -> Refused:
        with pytest.raises(Refused) as caught:
            attest(node, name, **changes)
        return caught.value

    return refused


def attest(node: Node, name: str, **changes: Any) -> Level:
    config_id = f"{name}/application"
    return node.cas.attest(config_id, make=node.evidence(config_id=config_id, **changes)).level


def test_the_container_that_is_claimed_gets_its_configuration(node: Node) -> None:
    claiming(node, "[{image: registry.example/shop:1, container: web, engine: docker}]")
    assert attest(node, "claiming") is Level.NODE


def test_another_container_is_refused_with_a_line_for_each_difference(node: Node) -> None:
    refused = claiming(node, "[{image: registry.example/shop:2, container: web, namespace: shop}]")
    assert refused().messages == (
        UNVOUCHED,
        f"Unexpected container: image {WHERE.image!r} - Expected 'registry.example/shop:2'",
        "Unexpected container: namespace is not known - Expected 'shop'",
    )


def test_none_of_several_containers_is_refused_with_a_line_for_each(node: Node) -> None:
    refused = claiming(node, "[{image: a, pod: p}, {engine: podman}]")
    expected = "Expected image 'a', pod 'p'"
    assert refused().messages[1:] == (
        f"Error 1 of 2: Unexpected container: image {WHERE.image!r}, pod is not known - {expected}",
        "Error 2 of 2: Unexpected container: engine 'docker' - Expected engine 'podman'",
    )


def test_one_of_several_containers_is_enough(node: Node) -> None:
    claiming(node, f"[{{image: a}}, {{image_id: '{WHERE.image_id}'}}]")
    assert attest(node, "claiming") is Level.NODE


@pytest.mark.parametrize(
    "changes",
    [
        {"key": None},
        {"level": Level.SIMULATION},
        {"method": "las/tcp"},
        {"method": "las/unix"},
        {"container": None},
    ],
)
def test_a_container_that_nobody_vouches_for_meets_no_claim(
    node: Node, changes: dict[str, Any]
) -> None:
    refused = claiming(node, "[{image: registry.example/shop:1}]")
    lines = refused(**changes).messages
    assert any(line.startswith("No container is vouched for") for line in lines)


def test_an_image_that_only_begins_as_the_claimed_one_is_refused(node: Node) -> None:
    refused = claiming(node, "[{image: registry.example/shop}]")
    assert "Expected 'registry.example/shop'" in refused().messages[1]


# --- what is kept of it ---------------------------------------------------------------------------


def test_the_audit_log_has_level_method_and_container(node: Node) -> None:
    node.enrol()
    node.level()
    record = node.log()[-1]
    assert record["event"] == "service attested"
    assert record["actor"] == node.public
    notes = record["notes"]
    assert (notes["level"], notes["method"]) == ("node", "las/witness")
    assert notes["image"] == WHERE.image
    assert notes["image_id"] == WHERE.image_id
    assert notes["container"] == "web"
    assert notes["container_id"] == WHERE.id
    assert notes["engine"] == "docker"
    assert notes["hooks"] == WHERE.hooks[0]
    assert "pod" not in notes


def test_the_audit_log_has_what_refused_node_evidence(node: Node) -> None:
    node.enrol()
    full = WHERE._replace(namespace="n", pod="p")
    node.refused(mrenclave=b"x" * 32, container=full)
    notes = node.log()[-1]["notes"]
    assert notes["level"] == "node"
    assert notes["pod"] == "p"
    assert "Unexpected enclave measurement" in notes["reason"]


def test_a_container_that_nobody_vouches_for_is_in_no_record(node: Node) -> None:
    node.enrol()
    node.refused(level=Level.SIMULATION, method="las/unix", reason="no record")
    record = node.log()[-1]
    assert record["event"] == "attestation refused"
    assert record["notes"]["level_reason"] == "the LAS: no record"
    assert "image" not in record["notes"]


def test_attestations_are_counted_by_level(node: Node) -> None:
    node.enrol()
    node.level()
    node.refused(key=None)
    text = node.cas.call("GET", "/v1/metrics")[1]
    name = "crannog_cas_attestations_total"
    assert f'{name}{{level="node",outcome="provisioned"}} 1.0' in text
    assert f'{name}{{level="simulation",outcome="evidence-rejected"}} 1.0' in text


def test_below_its_minimum_a_real_cas_tells_strangers_no_reason(tmp_path: Path) -> None:
    with running(tmp_path / "state", minimum_level=Level.NODE) as cas:
        cas.post(SESSION)
        node = Node(cas, tmp_path / "state")
        node.enrol()
        assert node.level() is Level.NODE
        error = node.refused(level=Level.SIMULATION, method="las/unix", reason="args[0] is sh")
        assert "args[0]" not in error.message + " ".join(error.messages)
        assert "args[0] is sh" in cas.logged.text
        # Whoever is vouched for is told what is wrong.
        assert "Unexpected enclave measurement" in node.refused(mrenclave=b"x" * 32).messages[1]


# --- the operator's socket ------------------------------------------------------------------------


def test_an_order_under_another_master_key_is_refused(node: Node, tmp_path: Path) -> None:
    other = tmp_path / "other.key"
    other.write_text("00" * 32 + "\n")
    other.chmod(0o600)
    order = Order(Action.LAS_ADD, node.public, "")
    with pytest.raises(Refused, match="the order is not authentic"):
        operate(node.state / "cas.db", keys=FileKey(other), order=order)
    assert node.cas.server.service.trust().node_keys == frozenset()


def test_the_socket_is_the_owner_s_and_ends_with_the_cas(node: Node) -> None:
    socket = node.state / "operator.sock"
    assert socket.stat().st_mode & 0o777 == 0o600
    node.cas.server.stop()
    assert not socket.exists()
    node.enrol()  # the same command beside a stopped CAS
    node.cas.server.start()
    assert node.level() is Level.NODE


def test_a_state_directory_with_a_long_path_has_a_socket_too(tmp_path: Path) -> None:
    state = tmp_path / ("d" * 120)
    with running(state) as cas:
        node = Node(cas, state)
        node.enrol()
        assert cas.server.service.trust().node_keys


def test_a_cas_without_a_socket_runs_and_says_how_to_enrol(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o700)
    (state / "operator.sock").write_text("not a socket")
    with running(state) as cas:
        assert "CAS has no operator's socket: stop it to enrol a LAS" in cas.logged.text
        with pytest.raises(Exception, match="has no operator's socket") as caught:
            Node(cas, state).enrol()
        assert "stop that CAS" in getattr(caught.value, "hint", "")
    assert (state / "operator.sock").read_text() == "not a socket"


def test_what_an_order_cannot_do_leaves_the_cas_as_it_was(node: Node) -> None:
    service: CasService = node.cas.server.service
    head = service.head
    for order in (
        Order(Action.LAS_ADD, "ab", ""),
        Order(Action.LAS_REMOVE, node.public, ""),
        Order(Action.LAUNCHER_REMOVE, "", ""),
        Order(Action.LAUNCHER_CLEAR, "", ""),
        Order(Action.LAS_ADD, node.public, "two\nlines"),
    ):
        with pytest.raises(Refused):
            node.order(*order)
    assert service.head == head
    node.enrol()
