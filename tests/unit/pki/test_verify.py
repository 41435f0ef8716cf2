from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from crannog.errors import FormatError, IntegrityError
from crannog.pki import issue, profiles
from crannog.pki.authority import Authority, create_authority, load_authority
from crannog.pki.issue import Issuer
from crannog.pki.keys import KeyType, generate_key, generate_p256, key_der, key_pem, parse_key
from crannog.pki.verify import verify_chain
from tests.unit.pki.support import NOW, self_signed


@pytest.fixture(scope="module")
def authority() -> Authority:
    return create_authority(now=NOW, random=os.urandom)


@pytest.fixture(scope="module")
def session(authority: Authority) -> Issuer:
    return authority.issue_session("s", generate_p256(), now=NOW, random=os.urandom)


@pytest.fixture(scope="module")
def leaf(session: Issuer) -> x509.Certificate:
    return issue.issue(session, profiles.LEAF, "x", generate_p256(), now=NOW, random=os.urandom)


def test_a_whole_chain_is_accepted(
    authority: Authority, session: Issuer, leaf: x509.Certificate
) -> None:
    root = authority.root.certificate
    chain = [leaf, session.certificate, authority.instance.certificate]
    assert verify_chain(chain, root=root, now=NOW) == leaf
    assert verify_chain([*chain, root], root=root, now=NOW) == leaf


def test_another_root_of_the_same_name_is_refused(
    authority: Authority, session: Issuer, leaf: x509.Certificate
) -> None:
    other = create_authority(now=NOW, random=os.urandom).root.certificate
    chain = [leaf, session.certificate, *authority.chain]
    with pytest.raises(IntegrityError, match="not signed by 'CN=cas'"):
        verify_chain(chain, root=other, now=NOW)


def test_a_missing_link_is_refused(authority: Authority, leaf: x509.Certificate) -> None:
    with pytest.raises(IntegrityError, match="not signed by"):
        verify_chain(
            [leaf, authority.instance.certificate], root=authority.root.certificate, now=NOW
        )


def test_a_leaf_that_signs_is_refused(authority: Authority, session: Issuer) -> None:
    key = generate_p256()
    middle = Issuer(issue.issue(session, profiles.LEAF, "x", key, now=NOW, random=os.urandom), key)
    forged = issue.issue(middle, profiles.LEAF, "y", generate_p256(), now=NOW, random=os.urandom)
    chain = [forged, middle.certificate, session.certificate, authority.instance.certificate]
    with pytest.raises(IntegrityError, match="not an authority's"):
        verify_chain(chain, root=authority.root.certificate, now=NOW)


def test_more_authorities_than_a_session_may_have_are_refused(
    authority: Authority, session: Issuer
) -> None:
    issuers = [session]
    for name in ("one", "two"):
        key = generate_p256()
        certificate = issue.issue(
            issuers[0], profiles.SESSION, name, key, now=NOW, random=os.urandom
        )
        issuers.insert(0, Issuer(certificate, key))
    leaf = issue.issue(issuers[0], profiles.LEAF, "y", generate_p256(), now=NOW, random=os.urandom)
    chain = [leaf, *(one.certificate for one in issuers), authority.instance.certificate]
    with pytest.raises(IntegrityError, match="allows 1 authorities below it, found 2"):
        verify_chain(chain, root=authority.root.certificate, now=NOW)


@pytest.mark.parametrize(
    ("offset", "why"),
    [(timedelta(hours=-2), "not valid before"), (timedelta(days=2), "expired on")],
)
def test_a_chain_out_of_its_time_is_refused(
    authority: Authority, session: Issuer, offset: timedelta, why: str
) -> None:
    leaf = issue.issue(
        session, profiles.LEAF, "x", generate_p256(), until=NOW + timedelta(days=1), now=NOW,
        random=os.urandom,
    )  # fmt: skip
    chain = [leaf, session.certificate, authority.instance.certificate]
    with pytest.raises(IntegrityError, match=why):
        verify_chain(chain, root=authority.root.certificate, now=NOW + offset)


def test_an_unknown_critical_extension_is_refused() -> None:
    key = generate_p256()
    name = profiles.name_of("x")
    strange = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    root = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(7).not_valid_before(NOW).not_valid_after(profiles.END)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(strange, critical=True).sign(key, hashes.SHA256())
    )  # fmt: skip
    leaf = self_signed("y")
    with pytest.raises(IntegrityError, match=r"unknown critical extension 1\.2\.3\.4"):
        verify_chain([leaf], root=root, now=NOW)


def test_an_empty_and_an_endless_chain_are_refused(authority: Authority) -> None:
    root = authority.root.certificate
    for chain in ([], [root], [self_signed("x")] * 9):
        with pytest.raises(IntegrityError, match="below its root"):
            verify_chain(chain, root=root, now=NOW)


def test_a_stored_authority_loads_again(authority: Authority) -> None:
    loaded = load_authority(authority.stored(), now=NOW)
    assert loaded.chain_pem == authority.chain_pem
    assert loaded.key_hash == authority.key_hash


def test_an_authority_with_another_key_is_refused(authority: Authority) -> None:
    root, instance, server = authority.stored()
    swapped = replace(instance, key=server.key)
    with pytest.raises(IntegrityError, match="not its certificate's"):
        load_authority([root, swapped, server], now=NOW)


def test_an_authority_of_two_cas_is_refused(authority: Authority) -> None:
    other = create_authority(now=NOW, random=os.urandom).stored()
    with pytest.raises(IntegrityError, match="not signed by"):
        load_authority([other[0], *authority.stored()[1:]], now=NOW)


def test_an_authority_with_a_key_missing_is_refused(authority: Authority) -> None:
    with pytest.raises(IntegrityError, match="expected"):
        load_authority(authority.stored()[:2], now=NOW)


@pytest.mark.parametrize("kind", list(KeyType))
def test_keys_of_each_type_read_back_in_both_forms(kind: KeyType) -> None:
    key = generate_key(kind)
    assert key_der(parse_key(key_der(key))) == key_der(key)
    assert key_pem(parse_key(key_pem(key))) == key_pem(key)


@pytest.mark.parametrize("data", [b"", b"-----BEGIN PRIVATE KEY-----", b"\x30\x00", b"k" * 20000])
def test_what_is_no_key_is_refused_without_repeating_it(data: bytes) -> None:
    with pytest.raises(FormatError, match="private key") as caught:
        parse_key(data)
    assert "kkk" not in str(caught.value)
