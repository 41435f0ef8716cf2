"""The HTTPS end of a fake cluster's issuer: its key set, from a server with a certificate of a CA.

Real sockets and real TLS on 127.0.0.1. What it answers can be changed to what a broken, hostile or
slow server answers.
"""

from __future__ import annotations

import ipaddress
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import NamedTuple, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crannog.testing.issuer import Issuer
from crannog.transport.listener import Listener, Slot, tcp_socket
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import ClientCertificate, Identity, server_context, server_stream

JWKS_PATH = "/openid/v1/jwks"
_SECONDS = 10.0
_DAY = timedelta(days=1)

Answer: TypeAlias = Callable[[TlsStream, Deadline], None]
"""What is done in place of the proper answer, on a stream after the request."""


class ServerAuthority:
    """A cluster's certificate authority, which names servers.

    Args:
        identified: whether the certificates say by which of several keys of its name they are
            signed.

    Attributes:
        pem: its certificate, for `--las-issuer-ca`.
    """

    def __init__(self, *, identified: bool = True) -> None:
        self._identified = identified
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "cluster authority")])
        now = datetime.now(UTC)
        self._certificate = (
            x509.CertificateBuilder()
            .subject_name(self._name)
            .issuer_name(self._name)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False
            )
            .sign(self._key, hashes.SHA256())
        )
        self.pem = self._certificate.public_bytes(Encoding.PEM)

    def identity(
        self,
        *names: str,
        purpose: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        until: datetime | None = None,
    ) -> Identity:
        """A key and a certificate for hosts, by name or number; without any it names nobody."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]))
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(until or now + _DAY)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if self._identified:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
            builder = builder.add_extension(issuer, critical=False)
        if names:
            shown = x509.SubjectAlternativeName([_general(name) for name in names])
            builder = builder.add_extension(shown, critical=False)
        return Identity(key, (builder.sign(self._key, hashes.SHA256()),))


class Request(NamedTuple):
    """What came: the path, and the header fields by name in lower case."""

    target: str
    headers: dict[str, str]


class IssuerServer:
    """Serves an issuer's key set on one free port; a context manager.

    Args:
        issuer: whose.
        identity: the server's; of `authority`, for 127.0.0.1, where none is given.
        bearer: the token that it wants; None wants none.

    Attributes:
        authority: who has named the server.
        requests: what was asked, in its order.
        answer: done in place of the proper answer, where it is not None.
    """

    def __init__(
        self,
        issuer: Issuer,
        *,
        authority: ServerAuthority | None = None,
        identity: Identity | None = None,
        bearer: str | None = None,
    ) -> None:
        self.authority = authority or ServerAuthority()
        self.requests: list[Request] = []
        self.answer: Answer | None = None
        self._issuer = issuer
        self._bearer = bearer
        self._context = server_context(
            identity or self.authority.identity("127.0.0.1"), ClientCertificate.OPTIONAL
        )
        self._ended = threading.Event()
        self._listener = Listener(
            "issuer",
            tcp_socket("127.0.0.1", 0, "issuer"),
            self._serve,
            connections=16,
            failed=lambda _peer, _error: None,
        )

    @property
    def url(self) -> str:
        """Where the key set is, for `--las-issuer-keys`."""
        host, port = self._listener.address
        return f"https://{host}:{port}{JWKS_PATH}"

    @property
    def ended(self) -> threading.Event:
        """Set when the server stops, for answers that wait."""
        return self._ended

    def __enter__(self) -> IssuerServer:
        self._listener.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer nobody any more."""
        if not self._ended.is_set():
            self._ended.set()
            self._listener.stop(1.0)

    def _serve(self, slot: Slot) -> None:
        deadline = Deadline.after(_SECONDS)
        stream = server_stream(self._context, slot.socket)
        try:
            stream.handshake(deadline)
            data = b""
            while b"\r\n\r\n" not in data:
                more = stream.receive(deadline)
                if not more:
                    return
                data += more
            with slot.busy():
                request = _parse(data)
                self.requests.append(request)
                if self.answer is not None:
                    self.answer(stream, deadline)
                else:
                    stream.send(self._proper(request), deadline)
        finally:
            stream.close()

    def _proper(self, request: Request) -> bytes:
        wanted = None if self._bearer is None else f"Bearer {self._bearer}"
        if wanted is not None and request.headers.get("authorization") != wanted:
            return response(b"", status="401 Unauthorized")
        if request.target != JWKS_PATH:
            return response(b"", status="404 Not Found")
        if "application/jwk-set+json" not in request.headers.get("accept", ""):
            return response(b"", status="406 Not Acceptable")
        return response(self._issuer.key_set())


def response(body: bytes, *, status: str = "200 OK", more: str = "") -> bytes:
    """An HTTP/1.1 answer; `more` are further header fields, each with its line end."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def _parse(data: bytes) -> Request:
    first, *lines = data.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n")
    fields = (line.partition(":") for line in lines)
    return Request(first.split(" ")[1], {name.lower(): value.strip() for name, _, value in fields})


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
