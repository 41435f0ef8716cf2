from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from crannog.errors import FormatError
from crannog.keyhash import key_hash, parse_key_hash
from crannog.pki.identity import (
    certificate_pem,
    parse_certificate,
    pem_sha256,
    spki_der,
    spki_sha256,
)
from crannog.pki.keys import generate_p256
from crannog.session.access import requester
from tests.unit.pki.support import self_signed


def test_a_key_hash_is_over_the_spki_and_reads_back() -> None:
    spki = spki_der(generate_p256().public_key())
    text = key_hash(spki)
    assert parse_key_hash(text) == hashlib.sha256(spki).digest() == spki_sha256(spki)


def test_a_session_knows_a_requester_by_that_key_hash() -> None:
    certificate = self_signed("me")
    who = requester(certificate.public_bytes(Encoding.DER))
    assert who.key_hash == key_hash(spki_der(certificate.public_key()))


def test_the_pem_hash_is_what_sha256sum_prints(tmp_path: Path) -> None:
    pem = certificate_pem(self_signed("me"))
    (tmp_path / "cert.pem").write_text(pem)
    printed = subprocess.run(
        ["sha256sum", tmp_path / "cert.pem"], capture_output=True, text=True, check=True
    )
    assert printed.stdout.split()[0] == pem_sha256(pem)
    assert pem_sha256(pem.replace("\n", "\r\n")) == pem_sha256(pem)


def test_a_certificate_in_pem_and_der_is_the_same() -> None:
    certificate = self_signed("me")
    pem = certificate_pem(certificate)
    assert parse_certificate(pem.encode()) == certificate
    assert parse_certificate(certificate.public_bytes(Encoding.DER)) == certificate


@pytest.mark.parametrize("data", [b"", b"-----BEGIN CERTIFICATE-----\n", b"\x30\x82", b"x" * 70000])
def test_what_is_no_certificate_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError, match="certificate"):
        parse_certificate(data)
