from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

from crannog.cas.secrets import Bundle, generate, parse_bundle, random_ascii
from crannog.cas.values import Values
from crannog.errors import FormatError, TooLarge
from crannog.pki.authority import Authority, create_authority
from crannog.pki.keys import generate_p256, key_pem
from crannog.pki.verify import verify_chain
from crannog.session.document import Session
from crannog.session.load import load_session
from crannog.wire import encode_json
from tests.unit.cas.support import NOW, session

AUTHORITY = create_authority(now=NOW, random=os.urandom)

ASCII = "  - {name: A, kind: ascii}"
BINARY = "  - {name: B, kind: binary, size: 32}"
KEY = "  - {name: K, kind: private-key}"
CERTIFICATE = (
    "  - {name: C, kind: x509, private_key: K, endpoint: server, dns: [a.example, b.example]}"
)


def load(secrets: str, *, version: str = "0.3") -> Session:
    return load_session(session(version=version, secrets=secrets)).session


def made(secrets: str, *, version: str = "0.3") -> tuple[Session, Bundle]:
    loaded = load(secrets, version=version)
    return loaded, generate(loaded, None, AUTHORITY, now=NOW, random=os.urandom)


def updated(before: tuple[Session, Bundle], secrets: str, *, version: str = "0.3") -> Bundle:
    return generate(load(secrets, version=version), before, AUTHORITY, now=NOW, random=os.urandom)


def values(found: tuple[Session, Bundle], *, now: datetime = NOW) -> Values:
    return Values(*found, AUTHORITY, now=now, random=os.urandom)


def certificate(data: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(data)


# --- generated ------------------------------------------------------------------------------------


def test_an_ascii_secret_has_twenty_printable_characters_without_a_space() -> None:
    value = values(made(ASCII)).lookup("A", "")
    assert len(value) == 20
    assert all(0x21 <= byte <= 0x7E for byte in value)


def test_every_character_is_equally_likely() -> None:
    # Every byte once: without rejection the first characters would come twice as often.
    stream = iter(bytes(range(256)) * 10)
    text = random_ascii(188, lambda size: bytes(next(stream) for _ in range(size)))
    counts = {character: text.count(character) for character in set(text)}
    assert len(counts) == 94
    assert set(counts.values()) == {2}


@pytest.mark.parametrize(
    ("suffix", "decode"),
    [
        ("", bytes),
        (":bin", bytes),
        (":hex", lambda data: bytes.fromhex(data.decode())),
        (".hex", lambda data: bytes.fromhex(data.decode())),
    ],
)
def test_a_binary_secret_in_each_form(suffix: str, decode: Callable[[bytes], bytes]) -> None:
    found = values(made(BINARY))
    assert decode(found.lookup("B", suffix)) == found.lookup("B", "")
    assert len(found.lookup("B", "")) == 32


def test_two_sessions_get_different_values() -> None:
    one, other = (
        values(made(f"{ASCII}\n{BINARY}\n{KEY}")),
        values(made(f"{ASCII}\n{BINARY}\n{KEY}")),
    )
    for name in "ABK":
        assert one.lookup(name, "") != other.lookup(name, "")


@pytest.mark.parametrize("kind", ["P-256", "P-384", "Ed25519", "RSA-2048", "RSA-3072"])
def test_a_private_key_of_each_type(kind: str) -> None:
    found = values(made(f"  - {{name: K, kind: private-key, key_type: {kind}}}"))
    pem = load_pem_private_key(found.lookup("K", ""), None)
    der = load_der_private_key(found.lookup("K", ":der"), None)
    assert pem.public_key() == der.public_key()
    assert found.lookup("K", ":pkcs8:pem") == found.lookup("K", ":pem") == found.lookup("K", "")


# --- the tutorial's certificate -------------------------------------------------------------------


def test_a_certificate_of_language_0_2_is_signed_by_its_session() -> None:
    found = values(made("  - {name: SERVER_CERT, kind: x509}", version="0.2"))
    leaf = certificate(found.lookup("SERVER_CERT", ".crt"))
    assert leaf.subject.rfc4514_string() == "CN=SERVER_CERT"
    assert leaf.issuer.rfc4514_string() == "CN=cas-session:hello"
    key = load_pem_private_key(found.lookup("SERVER_CERT", ".key"), None)
    assert key.public_key() == leaf.public_key()


def test_the_old_chain_runs_down_and_the_new_one_up() -> None:
    found = values(made("  - {name: C, kind: x509}", version="0.2"))
    down = x509.load_pem_x509_certificates(found.lookup("C", ".chain"))
    up = x509.load_pem_x509_certificates(found.lookup("C", ":chain"))
    names = ["CN=cas", "CN=cas-instance", "CN=cas-session:hello", "CN=C"]
    assert [one.subject.rfc4514_string() for one in down] == names
    assert [one.subject.rfc4514_string() for one in up] == names[2::-1]
    verify_chain([down[-1], *up], root=AUTHORITY.root.certificate, now=NOW)


def test_a_certificate_of_language_0_3_is_self_signed_with_its_names() -> None:
    found = values(made(f"{KEY}\n{CERTIFICATE}"))
    leaf = certificate(found.lookup("C", ""))
    assert leaf.subject == leaf.issuer
    assert leaf.subject.rfc4514_string() == "CN=a.example"
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.example", "b.example"]
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert [one.dotted_string for one in usage] == ["1.3.6.1.5.5.7.3.1"]
    assert found.lookup("C", ":privatekey") == found.lookup("K", "")
    assert found.lookup("C", ":chain") == b""


def test_without_an_endpoint_there_is_no_extended_usage() -> None:
    found = values(made("  - {name: C, kind: x509}", version="0.2"))
    with pytest.raises(x509.ExtensionNotFound):
        certificate(found.lookup("C", "")).extensions.get_extension_for_class(x509.ExtendedKeyUsage)


def test_a_certificate_of_limited_validity_is_renewed_in_time_for_the_same_key() -> None:
    stored = made(f"{KEY}\n  - {{name: C, kind: x509, private_key: K, valid_for: 30 days}}")
    fresh, later = values(stored), values(stored, now=NOW + timedelta(days=21))
    old, new = certificate(fresh.lookup("C", "")), certificate(later.lookup("C", ""))
    assert old.not_valid_after_utc == NOW + timedelta(days=30)
    assert new.not_valid_after_utc == NOW + timedelta(days=51)
    assert new.public_key() == old.public_key()
    assert fresh.fresh_until == NOW + timedelta(days=20)
    assert later.fresh_until == NOW + timedelta(days=41)


def test_a_renewed_certificate_of_an_explicit_key_is_for_that_key() -> None:
    pem = key_pem(generate_p256()).decode().replace("\n", "\n      ")
    text = (
        f"  - name: K\n    kind: private-key\n    value: |\n      {pem}\n"
        "  - {name: C, kind: x509, private_key: K, valid_for: 3 days}"
    )
    found = values(made(text), now=NOW + timedelta(days=100))
    leaf = certificate(found.lookup("C", ""))
    key = load_pem_private_key(found.lookup("K", ""), None)
    assert leaf.public_key() == key.public_key()
    assert leaf.not_valid_after_utc == NOW + timedelta(days=103)


# --- explicit -------------------------------------------------------------------------------------


def test_explicit_values_are_given_as_they_are_and_not_stored_twice() -> None:
    found = made(
        '  - {name: A, kind: ascii, value: "a b $$ ü"}\n  - {name: B, kind: binary, value: 00ff}'
    )
    assert found[1] == Bundle()
    assert values(found).lookup("A", "") == "a b $$ ü".encode()
    assert values(found).lookup("B", "") == b"\0\xff"


# --- updates --------------------------------------------------------------------------------------


def test_ascii_and_binary_keep_their_values() -> None:
    before = made(f"{ASCII}\n{BINARY}")
    assert updated(before, f"{ASCII}\n{BINARY}").values == before[1].values


def test_values_are_kept_across_language_versions() -> None:
    before = made(ASCII, version="0.2")
    assert updated(before, ASCII).values == before[1].values


@pytest.mark.parametrize(
    "after",
    [
        "  - {name: A, kind: ascii, size: 21}",
        "  - {name: A, kind: binary, size: 20}",
        "  - {name: A, kind: ascii, migrate: never}",
    ],
)
def test_another_size_or_kind_or_never_makes_a_new_value(after: str) -> None:
    before = made(ASCII)
    assert updated(before, after).values["A"] != before[1].values["A"]


def test_a_value_that_was_never_to_migrate_does_not_when_the_update_says_nothing() -> None:
    before = made("  - {name: A, kind: ascii, migrate: never}")
    assert updated(before, ASCII).values["A"] != before[1].values["A"]


@pytest.mark.parametrize(
    ("old", "new", "kept"),
    [
        ("", "", False),
        (", migrate: true", "", False),
        ("", ", migrate: true", False),
        (", migrate: true", ", migrate: true", True),
        (", migrate: true", ", migrate: true, key_type: P-384", False),
        (", migrate: true", ", migrate: never", False),
    ],
)
def test_a_private_key_is_kept_only_where_both_versions_say_so(
    old: str, new: str, kept: bool
) -> None:
    before = made(f"  - {{name: K, kind: private-key{old}}}")
    after = updated(before, f"  - {{name: K, kind: private-key{new}}}")
    assert (after.keys["K"] == before[1].keys["K"]) is kept


def test_a_certificate_is_never_kept_but_its_authority_is() -> None:
    text = "  - {name: C, kind: x509}"
    before = made(text, version="0.2")
    after = updated(before, text, version="0.2")
    assert after.certificates["C"] != before[1].certificates["C"]
    assert after.keys["C"] != before[1].keys["C"]
    assert after.authority == before[1].authority


def test_an_explicit_value_is_not_kept_as_a_generated_one() -> None:
    before = made("  - {name: A, kind: ascii, value: aaaaaaaaaaaaaaaaaaaa}")
    assert updated(before, ASCII).values["A"] != b"a" * 20


# --- bounds and the stored form -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("secrets", "what"),
    [
        ("\n".join(f"  - {{name: K{n}, kind: private-key}}" for n in range(257)), "257 keys"),
        (
            "\n".join(
                f"  - {{name: K{n}, kind: private-key, key_type: RSA-3072}}" for n in range(9)
            ),
            "9 RSA keys",
        ),
        ("\n".join(f"  - {{name: B{n}, kind: binary, size: 65536}}" for n in range(257)), "bytes"),
    ],
)
def test_a_session_cannot_keep_the_cas_busy(secrets: str, what: str) -> None:
    with pytest.raises(TooLarge, match=what):
        made(secrets)


def test_a_bundle_reads_back() -> None:
    _, bundle = made(f"{ASCII}\n{BINARY}\n{KEY}\n{CERTIFICATE}")
    assert parse_bundle(bundle.encode()) == bundle
    _, signed = made("  - {name: C, kind: x509}", version="0.2")
    assert parse_bundle(signed.encode()) == signed


@pytest.mark.parametrize(
    "change",
    [
        {"format": "crannog secrets 2"},
        {"authority": ["AA=="]},
        {"values": {"A": 1}},
        {"keys": {"K": "not base64"}},
        {"more": 1},
    ],
)
def test_what_is_no_bundle_is_refused(change: dict[str, object]) -> None:
    message = json.loads(Bundle().encode())
    with pytest.raises(FormatError):
        parse_bundle(encode_json({**message, **change}))
    with pytest.raises(FormatError):
        parse_bundle(b"{}")


def test_no_secret_is_in_a_repr() -> None:
    _, bundle = made(ASCII)
    assert bundle.values["A"].decode() not in repr(bundle)


def test_a_reference_to_nothing_is_refused() -> None:
    with pytest.raises(FormatError, match="'missing' is not one of"):
        values(made(ASCII)).lookup("missing", "")


def test_an_authority_of_another_cas_is_not_mixed_in() -> None:
    other: Authority = create_authority(now=NOW, random=os.urandom)
    loaded = load("  - {name: C, kind: x509}", version="0.2")
    bundle = generate(loaded, None, other, now=NOW, random=os.urandom)
    up = x509.load_pem_x509_certificates(
        Values(loaded, bundle, other, now=NOW, random=os.urandom).lookup("C", ":chain")
    )
    assert up[-1] == other.root.certificate
