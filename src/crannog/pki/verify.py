"""Checking a chain against RFC 5280 section 6, for chains that this project issues.

Decides whether a leaf chains up to a given root at a given time. Leaves host names, pins and key
possession to the caller. Deliberately small: names must chain, signatures must verify, extensions
that are critical and unknown refuse; there is no revocation, no policy and no name constraint.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtensionOID, NameOID

from crannog.errors import FormatError, IntegrityError
from crannog.pki.profiles import SERVER_AUTH, SESSION_PREFIX

MAX_DEPTH = 8
_CLOCK = "is this machine's clock right? It says {}"
_KNOWN = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
}


def verify_chain(
    chain: Sequence[x509.Certificate], *, root: x509.Certificate, now: datetime
) -> x509.Certificate:
    """The leaf, where `chain` (leaf first, the root may be its last) ends in `root`.

    Raises:
        IntegrityError: which rule of RFC 5280 section 6.1 it breaks, and which certificate.
    """
    # (1) a bounded path that ends in the trusted root, which nobody's chain can replace
    path = [certificate for certificate in chain if certificate != root]
    if not path or len(path) > MAX_DEPTH:
        raise IntegrityError(
            f"chain has {len(path)} certificates below its root, expected 1 to {MAX_DEPTH}"
        )
    path.append(root)
    for depth, certificate in enumerate(path):
        _check_form(certificate, now)
        if depth == 0:
            continue
        # (2) who signs is an authority and may have that many below
        _check_authority(certificate, below=depth - 1)
        # (3) the names chain and the signature verifies
        _check_signed(path[depth - 1], certificate)
    _check_signed(root, root)
    return path[0]


def verify_server(path: Sequence[x509.Certificate]) -> None:
    """Return when the leaf of a verified `path` (leaf first, without its root) is a server's own.

    (A) A CAS signs for itself and for the sessions of whoever posts one, below one root. So that a
    session's certificate is never taken for the CAS's, the leaf has to be one for servers, and no
    session's authority may be on its way.

    Raises:
        IntegrityError: it is an authority's, not for servers, or a session's.
    """
    leaf, *authorities = path
    extensions = leaf.extensions
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound as error:
        raise IntegrityError(f"certificate {_name(leaf)} does not say what it is for") from error
    if constraints.ca or SERVER_AUTH not in usages:
        raise IntegrityError(f"certificate {_name(leaf)} is not a server's")
    for certificate in authorities:
        for attribute in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
            if str(attribute.value).startswith(SESSION_PREFIX):
                raise IntegrityError(f"certificate {_name(leaf)} belongs to a session")


def _check_form(certificate: x509.Certificate, now: datetime) -> None:
    who = _name(certificate)
    try:
        extensions = certificate.extensions
    except (ValueError, x509.DuplicateExtension) as error:
        raise FormatError(f"certificate {who} has malformed extensions") from error
    if certificate.version is not x509.Version.v3:
        raise IntegrityError(f"certificate {who} is not of version 3")
    if not 0 < certificate.serial_number < 1 << 160:
        raise IntegrityError(f"certificate {who} has a serial number that is not 1 to 20 octets")
    if now < certificate.not_valid_before_utc:
        raise IntegrityError(
            f"certificate {who} is not valid before {_time(certificate.not_valid_before_utc)}",
            hint=_CLOCK.format(_time(now)),
        )
    if now > certificate.not_valid_after_utc:
        raise IntegrityError(
            f"certificate {who} expired on {_time(certificate.not_valid_after_utc)}",
            hint=_CLOCK.format(_time(now)),
        )
    for extension in extensions:
        if extension.critical and extension.oid not in _KNOWN:
            raise IntegrityError(
                f"certificate {who} has an unknown critical extension {extension.oid.dotted_string}"
            )


def _check_authority(certificate: x509.Certificate, *, below: int) -> None:
    who = _name(certificate)
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage)
    except x509.ExtensionNotFound as error:
        raise IntegrityError(f"certificate {who} says nothing about being an authority") from error
    if not constraints.value.ca or not constraints.critical:
        raise IntegrityError(f"certificate {who} is not an authority's")
    length = constraints.value.path_length
    if length is not None and below > length:
        raise IntegrityError(
            f"certificate {who} allows {length} authorities below it, found {below}"
        )
    if not usage.value.key_cert_sign:
        raise IntegrityError(f"certificate {who} may not sign certificates")


def _check_signed(child: x509.Certificate, parent: x509.Certificate) -> None:
    try:
        child.verify_directly_issued_by(parent)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise IntegrityError(
            f"certificate {_name(child)} is not signed by {_name(parent)}"
        ) from error


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%SZ")


def _name(certificate: x509.Certificate) -> str:
    return repr(certificate.subject.rfc4514_string()[:80])
