"""What the tests of enrolment by token share: a cluster, its CAS, and who asks to be enrolled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.cas.audit import export_audit_log
from crannog.cas.enrolment.settings import IssuerSettings
from crannog.cas.keys import FileKey
from crannog.cas.operating import operate
from crannog.errors import Error, Refused, chain, hints
from crannog.evidence.report import Channel
from crannog.evidence.subject import Container
from crannog.exchange.enrolment import (
    Challenge,
    Enrolled,
    Enrolment,
    EnrolmentClient,
)
from crannog.exchange.operator import Action, Order
from crannog.exchange.refusal import Refusal
from crannog.levels import Level
from crannog.testing.issuer import Issuer, Pod
from crannog.transport.connect import connect
from crannog.transport.enrolment_client import enrol
from crannog.transport.names import resolve
from crannog.transport.stream import Deadline
from crannog.transport.tls import Identity, Pin, client_context, client_stream, fresh_identity
from tests.api.helpers import SESSION, Cas, running, statement

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
