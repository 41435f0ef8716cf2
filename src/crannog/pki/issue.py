"""Issuing certificates: every statement in them comes from an argument or the profile."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from crannog.errors import FormatError
from crannog.pki import profiles
from crannog.pki.keys import PrivateKey
from crannog.pki.profiles import Profile

Randomness: TypeAlias = Callable[[int], bytes]

_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\Z")


@dataclass(frozen=True, slots=True)
class Issuer:
    """An authority that can sign: its certificate and its private key."""

    certificate: x509.Certificate
    key: PrivateKey


def serial_number(random: Randomness) -> int:
    """A positive serial number of 159 random bits (RFC 5280 section 4.1.2.2: at most 20 octets)."""
    return (int.from_bytes(random(20), "big") >> 1) | 1 << 158


def alternative_names(
    dns: Iterable[str] = (), ip: Iterable[str] = ()
) -> tuple[x509.GeneralName, ...]:
    """The subject alternative names of host names (a leading `*.` is allowed) and IP addresses.

    Raises:
        FormatError: not a host name, not an address.
    """
    names: list[x509.GeneralName] = []
    for host in dns:
        labels = host.removeprefix("*.").split(".")
        if len(host) > 253 or not all(_LABEL.match(label) for label in labels):
            raise FormatError(f"alternative name {host[:80]!r} is not a host name")
        names.append(x509.DNSName(host))
    for address in ip:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(address)))
        except ValueError as error:
            raise FormatError(f"alternative name {address[:80]!r} is not an IP address") from error
    return tuple(names)


def issue_root(
    key: ec.EllipticCurvePrivateKey, *, now: datetime, random: Randomness
) -> x509.Certificate:
    """The CAS's own certificate: self-signed, common name `cas`."""
    return issue(None, profiles.ROOT, profiles.ROOT_NAME, key, now=now, random=random)


def issue_instance(
    root: Issuer, key: ec.EllipticCurvePrivateKey, *, now: datetime, random: Randomness
) -> x509.Certificate:
    """The certificate of this installation, common name `cas-instance`, signed by `cas`."""
    return issue(root, profiles.INSTANCE, profiles.INSTANCE_NAME, key, now=now, random=random)


def issue_session(
    instance: Issuer,
    session: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    now: datetime,
    random: Randomness,
) -> x509.Certificate:
    """The authority of one session, common name `cas-session:NAME`, signed by `cas-instance`."""
    return issue(
        instance, profiles.SESSION, profiles.session_name(session), key, now=now, random=random
    )


def issue_server(
    instance: Issuer,
    key: PrivateKey,
    *,
    names: Iterable[str] = profiles.SERVER_NAMES,
    addresses: Iterable[str] = (),
    now: datetime,
    random: Randomness,
) -> x509.Certificate:
    """What the CAS shows on 8081 and 18765: common name `cas`, SAN `cas`, `localhost` and more."""
    return issue(
        instance,
        profiles.SERVER,
        profiles.ROOT_NAME,
        key,
        san=alternative_names(names, addresses),
        now=now,
        random=random,
    )


def issue(
    issuer: Issuer | None,
    profile: Profile,
    subject: str,
    key: PrivateKey,
    *,
    san: tuple[x509.GeneralName, ...] = (),
    until: datetime = profiles.END,
    now: datetime,
    random: Randomness,
) -> x509.Certificate:
    """One certificate for the public half of `key`.

    Args:
        issuer: who signs; None for a self-signed certificate.
        profile: what kind of certificate.
        subject: the common name, shortened as `profiles.common_name` says.
        key: the subject's key; only its public half goes into the certificate, the private half
            signs where there is no issuer.
        san: the subject alternative names; the extension is left out where there are none.
        until: the end of validity.
        now: the present; validity begins one hour earlier.
        random: randomness for the serial number.
    """
    public = key.public_key()
    signer = issuer.key if issuer else key
    name = profiles.name_of(subject)
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer.certificate.subject if issuer else name)
        .public_key(public)
        .serial_number(serial_number(random))
        .not_valid_before(now - profiles.SKEW)
        .not_valid_after(until)
        .add_extension(
            x509.BasicConstraints(ca=profile.authority, path_length=profile.path_length),
            critical=True,
        )
        .add_extension(_usage(profile), critical=True)
        .add_extension(identifier, critical=False)
    )
    if issuer:
        parent = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(parent.value),
            critical=False,
        )
    if profile.extended:
        builder = builder.add_extension(x509.ExtendedKeyUsage(profile.extended), critical=False)
    if san:
        builder = builder.add_extension(x509.SubjectAlternativeName(san), critical=False)
    return builder.sign(signer, _digest(signer))


def _usage(profile: Profile) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not profile.authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=profile.authority,
        crl_sign=profile.authority,
        encipher_only=False,
        decipher_only=False,
    )


def _digest(key: PrivateKey) -> hashes.SHA256 | hashes.SHA384 | None:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return None
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name == "secp384r1":
        return hashes.SHA384()
    return hashes.SHA256()
