"""A real CAS on free ports of 127.0.0.1, and real clients of it."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.cas.server import CasServer
from crannog.cas.service import Clock
from crannog.cas.settings import CasSettings
from crannog.evidence.envelope import Envelope
from crannog.evidence.statement import Statement, sign_statement
from crannog.evidence.subject import Container, Pins
from crannog.exchange.configuration import Configuration
from crannog.levels import Level
from crannog.transport.address import Address
from crannog.transport.client import Wanted, attest
from crannog.transport.http_client import HttpClient
from crannog.transport.listener import Listener, Slot, tcp_socket
from crannog.transport.log import server_log
from crannog.transport.stream import Deadline
from crannog.transport.tls import (
    ClientCertificate,
    Identity,
    Pin,
    fresh_identity,
    now_utc,
    server_context,
    server_stream,
)

MRENCLAVE = b"m" * 32
LAUNCHER = b"l" * 32
LOCAL = ("127.0.0.1", 0)

SESSION = f"""\
name: tutorial
version: "0.3"
services:
  - name: application
    mrenclaves: [{MRENCLAVE.hex()}]
    command: python3 /app/server.py
    pwd: /
    environment:
      GREETING: hello from the session
secrets:
  - name: shown
    kind: ascii
    value: a public value
    export_public: true
  - name: hidden
    kind: ascii
    value: hunter2
"""


class SharedLog:
    """What the server logged, for a look from another thread."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        self.log = server_log(self.file)

    @property
    def text(self) -> str:
        return self.file.getvalue()


@dataclass
class Cas:
    """A running CAS, and who talks to it."""

    server: CasServer
    logged: SharedLog
    owner: Identity = field(default_factory=fresh_identity)
    stranger: Identity = field(default_factory=fresh_identity)

    @property
    def api(self) -> Address:
        return Address(*self.server.api_address)

    @property
    def enclave(self) -> Address:
        return Address(*self.server.enclave_address)

    def call(
        self, method: str, target: str, body: str | bytes | None = None, who: Identity | None = None
    ) -> tuple[int, Any]:
        """Status and JSON body of a request."""
        data = body.encode() if isinstance(body, str) else body
        answer = HttpClient(self.api, identity=who, seconds=20).request(method, target, data)
        kind = answer.headers.get("content-type", "")
        if kind == "application/json" and answer.body:
            return answer.status, json.loads(answer.body)
        return answer.status, answer.body.decode()

    def post(self, text: str, who: Identity | None = None) -> str:
        """The hash of a session that has to be accepted."""
        status, body = self.call("POST", "/v1/sessions", text, who or self.owner)
        assert status == 201, body
        return str(body["hash"])

    def attest(
        self,
        config_id: str = "tutorial/application",
        *,
        mrenclave: bytes = MRENCLAVE,
        make: Callable[[bytes], tuple[Envelope, ...]] | None = None,
        token: str | None = None,
        pin: Pin | None = None,
    ) -> Configuration:
        """What an honest launcher without a LAS gets."""
        return attest(
            self.enclave,
            Wanted(config_id, LAUNCHER, service_access_token=token),
            make or (lambda bound: (statement(bound, config_id, mrenclave=mrenclave),)),
            pin=pin,
            seconds=20,
        )


def statement(
    bound: bytes,
    config_id: str = "tutorial/application",
    *,
    mrenclave: bytes = MRENCLAVE,
    level: Level = Level.SIMULATION,
    method: str = "launcher",
    key: Ed25519PrivateKey | None = None,
    reason: str = "",
    pins: Pins | None = None,
    container: Container | None = None,
) -> Envelope:
    """Evidence that a launcher, or whoever has `key`, signs."""
    return sign_statement(
        Statement(
            level,
            method,
            mrenclave,
            bound,
            LAUNCHER,
            config_id,
            "cas:18765",
            1,
            reason,
            pins or Pins(),
            container,
        ),
        key or Ed25519PrivateKey.generate(),
    )


@contextmanager
def running(state: Path, *, now: Clock = now_utc, **changes: Any) -> Iterator[Cas]:
    """A CAS with its state in `state`; `changes` are of `CasSettings`."""
    settings = CasSettings(
        state,
        api_listen=LOCAL,
        enclave_listen=LOCAL,
        minimum_level=Level.SIMULATION,
        drain_seconds=2.0,
    )
    logged = SharedLog()
    server = CasServer(replace(settings, **changes), log=logged.log, now=now)
    with server:
        yield Cas(server, logged)


def together(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work(0)` … `work(count - 1)` give when they start at once; exceptions as values."""
    results: list[Any] = [None] * count
    barrier = threading.Barrier(count)

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except Exception as error:  # noqa: BLE001  # the test looks at it
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@contextmanager
def false_cas(identity: Identity) -> Iterator[tuple[Address, list[bytes]]]:
    """A server that has that identity, and what it hears."""
    heard: list[bytes] = []

    def handle(slot: Slot) -> None:
        stream = server_stream(server_context(identity, ClientCertificate.OPTIONAL), slot.socket)
        try:
            stream.handshake(Deadline.after(10))
            heard.append(stream.receive(Deadline.after(10)))
        finally:
            stream.close()

    listener = Listener(
        "false",
        tcp_socket("127.0.0.1", 0, "test"),
        handle,
        connections=4,
        failed=lambda _peer, _error: None,
    )
    listener.start()
    try:
        yield Address(*listener.address), heard
    finally:
        listener.stop(5)
