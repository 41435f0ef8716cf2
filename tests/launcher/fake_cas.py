"""A CAS for the launcher's tests: the real exchange over real TLS, the answer as the test wants it.

It verifies what the real one verifies of the evidence (signature, report data of this connection,
measurement where the test gives one), and nothing else.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType

from crannog.errors import Error
from crannog.evidence.report import ROLE_SERVICE, Channel, report_data
from crannog.evidence.statement import Statement, open_statement
from crannog.exchange.attestation import AttestationServer, Evidence, Hello
from crannog.exchange.configuration import Configuration, File, FspfReference
from crannog.exchange.refusal import Refusal
from crannog.levels import Level
from crannog.transport.stream import Deadline
from crannog.transport.tls import (
    ClientCertificate,
    fresh_identity,
    server_context,
    server_stream,
)

SESSION_HASH = "ab" * 32

Answer = Callable[[Statement, Evidence], Configuration | Refusal | bytes | None]


def configure(
    *argv: str,
    environment: dict[str, str] | None = None,
    pwd: str = "/",
    files: tuple[File, ...] = (),
    fspf: FspfReference | None = None,
    mrenclave: bytes | None = None,
) -> Answer:
    """An answer that configures whatever was measured."""

    def answer(statement: Statement, _: Evidence) -> Configuration:
        return Configuration(
            argv=argv,
            environment=tuple((environment or {}).items()),
            pwd=pwd,
            files=files,
            fspf=fspf,
            session_hash=SESSION_HASH,
            level=Level.SIMULATION,
            mrenclave=mrenclave or statement.mrenclave,
        )

    return answer


def refuse(*messages: str, hint: str = "", retry: bool = False) -> Answer:
    """An answer that refuses."""
    return lambda _s, _e: Refusal("evidence-rejected", messages, hint, "req-1", retry)


class FakeCas:
    """Listens on 127.0.0.1; a context manager. `seen` holds what came."""

    def __init__(self, answer: Answer, *, early: bytes = b"") -> None:
        self._answer = answer
        self._early = early
        self._identity = fresh_identity()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.seen: list[tuple[Hello, Statement, Evidence]] = []
        self.connections = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._socket.getsockname()[1]}"

    @property
    def key(self) -> bytes:
        """The DER of its public key."""
        return self._identity.public_key()

    def __enter__(self) -> FakeCas:
        self._thread.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self._one(accepted)
            except Error:
                accepted.close()

    def _one(self, accepted: socket.socket) -> None:
        deadline = Deadline.after(20)
        stream = server_stream(server_context(self._identity, ClientCertificate.REQUIRED), accepted)
        stream.handshake(deadline)
        server = AttestationServer()
        hello = statement = None
        while not server.finished:
            event = server.next_event()
            if event is None:
                data = stream.receive(deadline)
                if not data:
                    break
                server.receive(data)
            elif isinstance(event, Hello):
                hello, nonce = event, os.urandom(32)
                stream.send(server.challenge(nonce) + self._early, deadline)
            else:
                assert hello is not None
                channel = Channel(stream.exporter(), stream.peer_key() or b"", self.key)
                statement, _ = open_statement(event.envelopes[0].data)
                assert abs(statement.issued_at - time.time()) < 60
                assert statement.report_data == report_data(
                    role=ROLE_SERVICE, nonce=nonce, channel=channel, config_id=hello.config_id
                )
                self.seen.append((hello, statement, event))
                answer = self._answer(statement, event)
                if answer is None:
                    break
                if isinstance(answer, bytes):
                    stream.send(answer, deadline)
                    break
                if isinstance(answer, Refusal):
                    stream.send(server.refusal(answer), deadline)
                else:
                    stream.send(server.configuration(answer), deadline)
        stream.close()
