from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from crannog.errors import FormatError
from crannog.pki import issue, profiles
from crannog.pki.authority import create_authority
from crannog.pki.identity import certificate_pem
from crannog.pki.issue import Issuer
from crannog.pki.keys import KeyType, generate_key, generate_p256
from tests.unit.pki.support import NOW


@pytest.fixture(scope="module")
def chain() -> list[x509.Certificate]:
    """Leaf, session, instance, root, as a 0.2 session's program gets them."""
    authority = create_authority(now=NOW, random=os.urandom)
    session = authority.issue_session("NS~hello", generate_p256(), now=NOW, random=os.urandom)
    leaf = issue.issue(
        session, profiles.LEAF, "SERVER_CERT", generate_p256(), now=NOW, random=os.urandom
    )
    return [leaf, session.certificate, *authority.chain]


def test_the_chain_has_the_names_of_the_reference(chain: list[x509.Certificate]) -> None:
    names = [one.subject.rfc4514_string() for one in chain]
    assert names == ["CN=SERVER_CERT", "CN=cas-session:NS~hello", "CN=cas-instance", "CN=cas"]
    assert [one.issuer for one in chain] == [one.subject for one in [*chain[1:], chain[-1]]]


def test_every_key_is_p256_with_sha256(chain: list[x509.Certificate]) -> None:
    for one in chain:
        key = one.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert key.curve.name == "secp256r1"
        assert one.signature_hash_algorithm is not None
        assert one.signature_hash_algorithm.name == "sha256"


def test_authorities_say_so_critically_and_the_leaf_says_it_is_none(
    chain: list[x509.Certificate],
) -> None:
    for one, expected in zip(chain, [False, True, True, True], strict=True):
        constraints = one.extensions.get_extension_for_class(x509.BasicConstraints)
        usage = one.extensions.get_extension_for_class(x509.KeyUsage)
        assert constraints.critical
        assert usage.critical
        assert constraints.value.ca is expected
        assert usage.value.key_cert_sign is expected
        assert usage.value.digital_signature is not expected


def test_validity_begins_an_hour_ago_and_ends_in_4096(chain: list[x509.Certificate]) -> None:
    for one in chain:
        assert one.not_valid_before_utc == NOW - timedelta(hours=1)
        assert one.not_valid_after_utc.year == 4096


def test_serial_numbers_are_random_positive_and_fit(chain: list[x509.Certificate]) -> None:
    serials = [one.serial_number for one in chain]
    assert len(set(serials)) == len(serials)
    assert all(1 << 158 <= serial < 1 << 159 for serial in serials)


def test_a_long_session_name_still_gives_a_legal_common_name() -> None:
    authority = create_authority(now=NOW, random=os.urandom)
    names = set()
    for last in "ab":
        session = authority.issue_session(
            "x" * 200 + last, generate_p256(), now=NOW, random=os.urandom
        )
        (attribute,) = session.certificate.subject
        assert len(str(attribute.value)) == 64
        names.add(attribute.value)
    assert len(names) == 2


@pytest.mark.parametrize("kind", list(KeyType))
def test_openssl_accepts_a_self_signed_certificate_of_each_key_type(
    kind: KeyType, tmp_path: Path
) -> None:
    openssl = needs_openssl()
    certificate = issue.issue(
        None,
        profiles.SERVER_LEAF,
        "host.example",
        generate_key(kind),
        san=issue.alternative_names(["host.example"]),
        now=NOW,
        random=os.urandom,
    )
    file = tmp_path / "leaf.pem"
    file.write_text(certificate_pem(certificate))
    openssl("verify", "-CAfile", file, "-verify_hostname", "host.example", "-attime", EPOCH, file)


def test_openssl_accepts_the_whole_chain_strictly(
    chain: list[x509.Certificate], tmp_path: Path
) -> None:
    openssl = needs_openssl()
    for name, part in (("leaf", chain[:1]), ("between", chain[1:3]), ("root", chain[3:])):
        (tmp_path / name).write_text("".join(certificate_pem(one) for one in part))
    openssl(
        "verify", "-x509_strict", "-attime", EPOCH, "-CAfile", tmp_path / "root",
        "-untrusted", tmp_path / "between", tmp_path / "leaf",
    )  # fmt: skip


@pytest.mark.parametrize("host", ["cas", "localhost", "cas.example"])
def test_openssl_accepts_the_listeners_certificate_for_its_names(host: str, tmp_path: Path) -> None:
    openssl = needs_openssl()
    authority = create_authority(now=NOW, random=os.urandom)
    identity = authority.server_identity(names=["cas.example"], now=NOW, random=os.urandom)
    (tmp_path / "chain").write_bytes(identity.chain_pem)
    (tmp_path / "root").write_text(certificate_pem(authority.root.certificate))
    openssl(
        "verify", "-x509_strict", "-purpose", "sslserver", "-attime", EPOCH,
        "-verify_hostname", host, "-CAfile", tmp_path / "root",
        "-untrusted", tmp_path / "chain", tmp_path / "chain",
    )  # fmt: skip


def test_the_listeners_key_stays_when_its_certificate_is_made_anew() -> None:
    authority = create_authority(now=NOW, random=os.urandom)
    one = authority.server_identity(now=NOW, random=os.urandom)
    other = authority.server_identity(names=["x"], now=NOW, random=os.urandom)
    assert one.key_pem == other.key_pem
    assert one.chain_pem != other.chain_pem


@pytest.mark.parametrize("host", ["", "a b", "-a", "a..b", "ä", "a" * 64, "*"])
def test_what_is_no_host_name_is_refused(host: str) -> None:
    with pytest.raises(FormatError, match="host name"):
        issue.alternative_names([host])


def test_what_is_no_address_is_refused() -> None:
    with pytest.raises(FormatError, match="IP address"):
        issue.alternative_names(ip=["1.2.3"])


def test_a_leaf_of_one_session_is_not_issued_by_another() -> None:
    authority = create_authority(now=NOW, random=os.urandom)
    one, other = (
        authority.issue_session(name, generate_p256(), now=NOW, random=os.urandom)
        for name in ("one", "other")
    )
    leaf = issue.issue(one, profiles.LEAF, "x", generate_p256(), now=NOW, random=os.urandom)
    impostor = Issuer(one.certificate, other.key)
    forged = issue.issue(impostor, profiles.LEAF, "x", generate_p256(), now=NOW, random=os.urandom)
    leaf.verify_directly_issued_by(one.certificate)
    with pytest.raises(Exception, match=r"^$|[Ss]ignature"):
        forged.verify_directly_issued_by(one.certificate)


EPOCH = str(int(NOW.timestamp()))


def needs_openssl() -> Callable[..., None]:
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("openssl is not installed")

    def run(*arguments: str | Path) -> None:
        done = subprocess.run(
            [program, *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr

    return run
