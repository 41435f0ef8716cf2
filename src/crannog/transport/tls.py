"""TLS 1.3 contexts of both roles. ADR 0301 says why pyOpenSSL and where callbacks are avoided.

TLS 1.3 only; no session tickets are accepted, no early data, no renegotiation by version. Clients'
certificates identify and are not verified: any self-signed, expired or foreign one is accepted, and
the handshake proves that the peer has its key. Servers' keys are checked by hand after the
handshake (`check_server`), since a verify callback of pyOpenSSL needs a page that is writable
and executable, which the launcher must not have.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from OpenSSL import SSL

from crannog.errors import Denied, Error, FormatError, IntegrityError, Misconfigured
from crannog.transport.stream import TlsStream

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes


_OWN_CHAIN = 2
"""A CAS's own certificates below its root: the server's and the instance's."""

_LONGEST_CHAIN = 8
"""Below an authority that somebody names: as long as `verify_chain` takes."""


class ClientCertificate(Enum):
    """Whether a server insists on a client's certificate."""

    OPTIONAL = SSL.VERIFY_PEER
    REQUIRED = SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT


class Identity(NamedTuple):
    """A private key and its certificate chain, leaf first, as `cryptography` objects."""

    key: PrivateKeyTypes
    chain: tuple[x509.Certificate, ...]

    def public_key(self) -> bytes:
        """The DER of the SubjectPublicKeyInfo."""
        from crannog.pki.identity import spki_der

        return spki_der(self.chain[0].public_key())


def load_identity(chain_pem: bytes, key_pem: bytes, what: str) -> Identity:
    """The identity in PEM; `what` names it in errors.

    Raises:
        Misconfigured: unreadable, or the key is not the first certificate's.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    from crannog.pki.identity import spki_der

    try:
        chain = tuple(x509.load_pem_x509_certificates(chain_pem))
    except ValueError as error:
        raise Misconfigured(f"{what}: no certificate in PEM") from error
    try:
        key = load_pem_private_key(key_pem, None)
        fits = spki_der(key.public_key()) == spki_der(chain[0].public_key())
    except Exception as error:  # the library documents no closed list
        raise Misconfigured(f"{what}: no unencrypted private key in PEM") from error
    if not fits:
        raise Misconfigured(f"{what}: the key does not belong to the certificate")
    return Identity(key, chain)


def fresh_identity() -> Identity:
    """A new P-256 key with a self-signed certificate: a launcher's, for one connection."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    # The names and dates say nothing, on purpose: the key is what is attested.
    name = x509.Name(())
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2000, 1, 1))  # X.509 dates are UTC
        .not_valid_after(datetime(4096, 1, 1))
        .sign(key, hashes.SHA256())
    )
    return Identity(key, (certificate,))


def server_context(identity: Identity, clients: ClientCertificate) -> SSL.Context:
    """A context for a listener that accepts any client certificate for identification."""
    context = _context(SSL.TLS_SERVER_METHOD, identity)
    # One per server, made at its start; servers keep no secrets of programs in their own code's
    # place, and OpenSSL has no other way to accept certificates that nobody issued.
    context.set_verify(clients.value, _accept)
    return context


def client_context(identity: Identity | None) -> SSL.Context:
    """A context for a client. Verifies nothing by itself: `check_server` does, afterwards."""
    return _context(SSL.TLS_CLIENT_METHOD, identity)


def server_stream(context: SSL.Context, sock: socket.socket) -> TlsStream:
    """The server's end on an accepted socket; the handshake is still to be done."""
    connection = SSL.Connection(context, sock)
    connection.set_accept_state()
    return TlsStream(connection, sock)


def client_stream(context: SSL.Context, sock: socket.socket, server_name: str | None) -> TlsStream:
    """The client's end on a connected socket; `server_name` is sent as SNI."""
    connection = SSL.Connection(context, sock)
    connection.set_connect_state()
    if server_name is not None:
        connection.set_tlsext_host_name(server_name.encode("idna"))
    return TlsStream(connection, sock)


class Pin(NamedTuple):
    """What a client knows of a server beforehand. Exactly one of the two is set.

    Attributes:
        key_sha256: SHA-256 over the DER of the SubjectPublicKeyInfo of the server's key, or of
            the root of the chain that it shows.
        authority_pem: certificates, one of which the server's chain has to end in.

    An authority vouches for a server only by a certificate that was issued for one: what the same
    root signs for the sessions' programs, which anybody can have, is not a CAS's.
    """

    key_sha256: bytes | None = None
    authority_pem: bytes | None = None


def parse_pin(text: str, what: str) -> Pin:
    """The pin that `text` is; `what` names it in errors.

    64 hex digits of a key's SHA-256, a key hash (Base58Check, as the CAS prints its own), or the
    text of a PEM file with authorities.
    """
    stripped = text.strip()
    if stripped.startswith("-----BEGIN CERTIFICATE-----"):
        return Pin(authority_pem=stripped.encode("utf-8", "replace"))
    from crannog.keyhash import parse_key_hash
    from crannog.wire import parse_hex

    try:
        if len(stripped) < 64:
            return Pin(key_sha256=parse_key_hash(stripped, what=what))
        return Pin(key_sha256=parse_hex(stripped.lower(), 32, what))
    except FormatError as error:
        raise Misconfigured(
            f"{what} is neither 64 hex digits nor a key hash nor a certificate in PEM",
            hint="crannog cas serve prints its key at start, crannog cas show-certificate PEM",
        ) from error


def check_server(stream: TlsStream, pin: Pin, *, what: str, now: datetime) -> None:
    """Return when the server is the pinned one.

    Args:
        stream: after its handshake.
        pin: what is expected.
        what: names the server in errors.
        now: for the validity of certificates.

    Raises:
        Denied: it is another one; nothing must be sent to it.
    """
    hint = "is this the right address; was the CAS set up anew? Pin its new key if that is meant"
    key = stream.peer_key() or b""
    if pin.key_sha256 is not None:
        found = _sha256(key)
        if hmac.compare_digest(found, pin.key_sha256):
            return
        roots = _shown_with_key(stream, pin.key_sha256)
        expected = f"its key has SHA-256 {found.hex()}, expected {pin.key_sha256.hex()}"
        longest = _OWN_CHAIN
    else:
        roots = _authorities(pin.authority_pem or b"")
        expected = "its certificate does not chain to the given authority"
        longest = _LONGEST_CHAIN
    reason: Error | None = None
    for root in roots:
        try:
            _verify(stream, root, now, longest=longest)
        except Error as error:
            reason = error
        else:
            return
    raise Denied(f"{what} is not the pinned one: {expected}", hint=hint) from reason


def _shown_with_key(stream: TlsStream, digest: bytes) -> list[x509.Certificate]:
    from crannog.pki.identity import spki_der

    shown = _certificates(stream)[1:]
    with_key = (one for one in shown if _sha256(spki_der(one.public_key())) == digest)
    return list(with_key)[:1]


def _authorities(pem: bytes) -> list[x509.Certificate]:
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise Misconfigured("the authority to verify the server with is not PEM") from error


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _verify(stream: TlsStream, root: x509.Certificate, now: datetime, *, longest: int) -> None:
    from crannog.pki.verify import verify_chain, verify_server

    chain = _certificates(stream)
    if chain and chain[0] == root:
        return
    path = []
    for certificate in chain:
        if certificate == root:
            break
        path.append(certificate)
    if len(path) > longest:
        raise IntegrityError(
            f"chain has {len(path)} certificates below its root, expected at most {longest}"
        )
    verify_chain(path, root=root, now=now)
    # (A) Anybody may have a session, and with it a certificate below the same root.
    verify_server(path)


def _certificates(stream: TlsStream) -> tuple[x509.Certificate, ...]:
    from crannog.pki.identity import parse_certificate

    try:
        return tuple(parse_certificate(der) for der in stream.peer_chain())
    except FormatError as error:
        raise IntegrityError("the server's certificate chain is malformed") from error


def now_utc() -> datetime:
    """The present, for `check_server`."""
    return datetime.now(UTC)


def _context(method: int, identity: Identity | None) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    # No resumption (A): each connection is a full handshake, whose keys the evidence is bound to.
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if identity is not None:
        context.use_privatekey(identity.key)  # type: ignore[arg-type]
        context.use_certificate(identity.chain[0])
        for certificate in identity.chain[1:]:
            context.add_extra_chain_cert(certificate)
    return context


def _accept(_connection: SSL.Connection, _cert: object, _error: int, _depth: int, _ok: int) -> bool:
    return True
