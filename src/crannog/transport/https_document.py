"""One document by HTTPS, from a server that has a certificate for its name.

For servers that are not ours, a cluster's API server: TLS 1.3, OpenSSL verifies the chain against
the given authorities and no others, and the certificate has to name the host (RFC 6125, subject
alternative names only). No redirect is followed and no proxy asked.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from typing import TYPE_CHECKING, NamedTuple

from OpenSSL import SSL, crypto

from crannog.errors import Denied, FormatError, Misconfigured, TooLarge, Unavailable
from crannog.transport.address import Address, is_numeric, parse_address
from crannog.transport.connect import connect
from crannog.transport.http_client import exchange
from crannog.transport.names import Resolve, resolve
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import client_context, client_stream

if TYPE_CHECKING:
    from cryptography import x509

HTTPS_PORT = 443
_MAX_URL = 2048


class Location(NamedTuple):
    """Where a document is: the server, and the path and query on it."""

    address: Address
    target: str

    def __str__(self) -> str:
        return f"https://{self.address}{self.target}"


def parse_location(text: str, what: str) -> Location:
    """The location that an https URL names; `what` (an option) is named in errors.

    Raises:
        Misconfigured: another scheme, user information, a fragment, or what is no URL.
    """
    try:
        parts = urllib.parse.urlsplit(text)
        plain = text.isascii() and text.isprintable() and " " not in text and len(text) <= _MAX_URL
    except ValueError:
        plain = False
    if not plain or parts.scheme != "https" or not parts.netloc or parts.fragment:
        raise Misconfigured(f"{what} is {text[:80]!r}, expected https://HOST[:PORT]/PATH")
    if "@" in parts.netloc:
        raise Misconfigured(f"{what} has a user in it, expected https://HOST[:PORT]/PATH")
    address = parse_address(parts.netloc, HTTPS_PORT, what)
    target = parts.path or "/"
    return Location(address, f"{target}?{parts.query}" if parts.query else target)


def parse_authorities(pem: bytes, what: str) -> list[x509.Certificate]:
    """The certificates in PEM that a server's chain may end in; `what` names them in errors.

    Raises:
        Misconfigured: there is none.
    """
    from cryptography import x509

    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise Misconfigured(f"there is no certificate in PEM in {what}") from error


def fetch(
    where: Location,
    *,
    accept: str,
    authorities: bytes,
    bearer: str | None,
    limit: int,
    deadline: Deadline,
    resolving: Resolve = resolve,
) -> bytes:
    """The body of the answer to a GET.

    Args:
        where: the document.
        accept: its media types; a server that has others may refuse.
        authorities: certificates in PEM, one of which the server's chain has to end in.
        bearer: a token to show, or None. A secret: it goes to that server alone.
        limit: bytes of the document.
        deadline: for all of it.
        resolving: from the host's name to addresses.

    Raises:
        Unavailable: not reached in time, or another status than 200.
        Denied: not a server with a certificate for that name; it got nothing but a handshake.
        Misconfigured: the authorities are none.
        FormatError, TooLarge: no HTTP, or over the limit.
    """
    more: tuple[tuple[str, str], ...] = ()
    if bearer is not None:
        more = (("Authorization", f"Bearer {bearer}"),)
    stream = _open(where.address, authorities, deadline, resolving)
    try:
        answer = exchange(
            stream,
            where.address,
            "GET",
            where.target,
            None,
            deadline,
            accept=accept,
            more=more,
            limit=limit,
        )
    except (FormatError, TooLarge) as error:
        raise type(error)(f"{where}: {error.message}") from error
    finally:
        stream.close()
    if answer.status != 200:
        raise Unavailable(
            f"{where} answers with status {answer.status}, expected 200",
            hint="it wants a token, or another one" if answer.status in (401, 403) else "",
        )
    return answer.body


def _open(
    address: Address, authorities: bytes, deadline: Deadline, resolving: Resolve
) -> TlsStream:
    context = client_context(None)
    store = context.get_cert_store()
    assert store is not None  # a context has one
    for certificate in parse_authorities(authorities, "the authorities for the server"):
        store.add_cert(_openssl(certificate))
    # Without a callback: OpenSSL ends the handshake where the chain does not verify.
    context.set_verify(SSL.VERIFY_PEER)
    sock = connect(address, deadline, "issuer", resolving)
    name = None if is_numeric(address.host) else address.host
    try:
        stream = client_stream(context, sock, name)
    except BaseException:
        sock.close()
        raise
    try:
        try:
            stream.handshake(deadline)
        except Unavailable as error:
            if _not_verified(error.__cause__):
                raise Denied(
                    f"the certificate of {address} does not chain to the given authorities"
                ) from error
            raise
        _check_name(stream, address)
    except BaseException:
        stream.close()
        raise
    return stream


def _not_verified(error: BaseException | None) -> bool:
    # A list of (library, function, reason); what verification stumbled over may stand before it.
    found = error.args[0] if isinstance(error, SSL.Error) and error.args else ()
    return isinstance(found, list) and any(
        str(one[-1]) == "certificate verify failed" for one in found
    )


def _check_name(stream: TlsStream, address: Address) -> None:
    from cryptography import x509

    from crannog.pki.identity import parse_certificate

    shown = stream.peer_certificate()
    if shown is None:
        raise Denied(f"{address} shows no certificate")
    certificate = parse_certificate(shown, what=f"the certificate of {address}")
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (
        x509.ExtensionNotFound,
        x509.DuplicateExtension,
        x509.UnsupportedGeneralNameType,
        ValueError,
    ) as error:
        raise Denied(f"the certificate of {address} names no host") from error
    if not _named(names, address.host):
        raise Denied(
            f"the certificate of {address} is for other hosts",
            hint="use one of the names in it: openssl s_client shows them",
        )


def _named(names: x509.SubjectAlternativeName, host: str) -> bool:
    from cryptography import x509

    if is_numeric(host):
        return ipaddress.ip_address(host) in names.get_values_for_type(x509.IPAddress)
    wanted = host.lower().rstrip(".")
    return any(_matches(one.lower(), wanted) for one in names.get_values_for_type(x509.DNSName))


def _matches(pattern: str, host: str) -> bool:
    if not pattern.startswith("*."):
        return pattern == host
    # One whole label, never a top level: *.svc does not name kubernetes.default.svc.
    first, dot, rest = host.partition(".")
    return bool(first and dot) and rest == pattern[2:] and "." in rest


def _openssl(certificate: x509.Certificate) -> crypto.X509:
    return crypto.X509.from_cryptography(certificate)
