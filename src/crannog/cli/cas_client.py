"""The command line's side of the client API: whom it talks to, as whom, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from crannog.errors import FormatError, NotFound
from crannog.pki.identity import certificate_pem, key_hash, parse_certificate, spki_der
from crannog.transport.address import CLIENT_API_PORT, Address, is_numeric, parse_address
from crannog.transport.connect import connect
from crannog.transport.stream import Deadline
from crannog.transport.tls import client_context, client_stream

if TYPE_CHECKING:
    from cryptography import x509

CONNECT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Chain:
    """The certificates that a CAS shows: its server's own first, its root last."""

    certificates: tuple[x509.Certificate, ...]

    @property
    def key_hash(self) -> str:
        """The hash of the root's key: what names a CAS."""
        return key_hash(spki_der(self.certificates[-1].public_key()))

    @property
    def authorities(self) -> str:
        """The CA certificates, instance before root, PEM."""
        return "".join(certificate_pem(certificate) for certificate in self.certificates[1:])


def client_address(text: str) -> Address:
    """HOST or HOST:PORT of a CAS's client API."""
    return parse_address(text, CLIENT_API_PORT, "CAS address")


def show_chain(address: str) -> Chain:
    """What the CAS at `address` shows to anybody. Nothing is verified by this.

    Raises:
        Unavailable: not reached.
        FormatError: not a CAS.
    """
    target = client_address(address)
    deadline = Deadline.after(CONNECT_SECONDS)
    name = None if is_numeric(target.host) else target.host
    stream = client_stream(client_context(None), connect(target, deadline, "CAS"), name)
    try:
        stream.handshake(deadline)
        certificates = tuple(parse_certificate(der) for der in stream.peer_chain())
    finally:
        stream.close()
    if len(certificates) < 2:
        raise FormatError(
            f"{address} shows {len(certificates)} certificates, expected a CAS's chain",
            hint="is this the address of a CAS's client API (8081)?",
        )
    return Chain(certificates)


def named(name: str) -> str:
    """The name of a CAS in messages, as the reference prints it."""
    target = client_address(name)
    return f"https://{target}/"


def missing(name: str) -> NotFound:
    """No CAS was attested under that name."""
    return NotFound(
        f"the CAS {name} was not attested" if name else "no CAS was attested",
        hint="crannog cas attest ADDRESS -c KEYHASH; the CAS prints its key hash at start",
    )
