"""What a key or a certificate is called.

Three names, each for a place where the reference uses it:

* `spki_sha256`: SHA-256 over the DER of the SubjectPublicKeyInfo (RFC 5280 section 4.1). Pins.
* `crannog.keyhash.key_hash`: the same 32 bytes in Base58Check. What 0.3 access policies list.
* `pem_sha256`: SHA-256 over the text of a PEM file with LF line ends, as `sha256sum cert.pem`
  prints it. What 0.2 access policies list.
"""

from __future__ import annotations

import hashlib

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crannog.errors import FormatError

MAX_CERTIFICATE = 64 * 1024


def spki_der(key: PublicKeyTypes) -> bytes:
    """The DER of the key's SubjectPublicKeyInfo."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def spki_sha256(spki: bytes) -> bytes:
    """The 32 bytes that identify a key, from the DER of its SubjectPublicKeyInfo."""
    return hashlib.sha256(spki).digest()


def pem_sha256(text: str) -> str:
    """The 64 hex digits that `sha256sum` prints for a PEM file of that text, with LF line ends."""
    return hashlib.sha256(text.replace("\r\n", "\n").encode("utf-8", "replace")).hexdigest()


def certificate_pem(certificate: x509.Certificate) -> str:
    """The certificate in PEM, LF line ends, one LF at the end."""
    return certificate.public_bytes(Encoding.PEM).decode("ascii")


def parse_certificate(data: bytes, *, what: str = "certificate") -> x509.Certificate:
    """The one certificate in PEM or DER.

    Decides the form only: a self-signed, expired or strange certificate passes, since what counts
    of a client's certificate is its key.

    Raises:
        FormatError: not a certificate, or more than 64 KiB.
    """
    if len(data) > MAX_CERTIFICATE:
        raise FormatError(f"{what} has {len(data)} bytes, expected at most {MAX_CERTIFICATE}")
    try:
        if data.lstrip().startswith(b"-----"):
            certificate = x509.load_pem_x509_certificate(data)
        else:
            certificate = x509.load_der_x509_certificate(data)
        certificate.public_key()
    except Exception as error:  # the library documents no closed list
        raise FormatError(f"{what} is not an X.509 certificate with a known key type") from error
    return certificate
