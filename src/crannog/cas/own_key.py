"""Does a program's pin of a CAS's key mean this CAS?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crannog.errors import Error
from crannog.pki.authority import Authority
from crannog.pki.keys import public_der
from crannog.transport.tls import parse_pin


def own_key(authority: Authority) -> Callable[[str], bool]:
    """A test of the text of CRANNOG_CAS_KEY, in each form that the launcher takes.

    True for a key of the CAS's chain: that of its ports, or one of its authorities. False for any
    other text, malformed ones included: their launcher does not start either.
    """
    issuers = (authority.server, authority.instance, authority.root)
    own = frozenset(hashlib.sha256(public_der(one.key)).digest() for one in issuers)

    def means_us(text: str) -> bool:
        try:
            pin = parse_pin(text, "the pin")
        except Error:
            return False
        if pin.key_sha256 is not None:
            return pin.key_sha256 in own
        try:
            shown = x509.load_pem_x509_certificates(pin.authority_pem or b"")
        except ValueError:
            return False
        return any(hashlib.sha256(_spki(one)).digest() in own for one in shown)

    return means_us


def _spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
