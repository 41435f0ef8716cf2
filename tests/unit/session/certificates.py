"""Self-signed certificates as clients of the tutorial make them."""

from __future__ import annotations

import datetime
import functools

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from crannog.session import access


@functools.cache
def client(key: int, serial: int = 1) -> access.Requester:
    """The holder of certificate `serial` of key `key`; the same for the same arguments."""
    private = ec.derive_private_key(1000 + key, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"key {key}")])
    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(serial)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=31))
        .sign(private, hashes.SHA256())
    )
    return access.requester(built.public_bytes(Encoding.DER))
