"""One-time passwords: the codes of RFC 6238, and what is taken for a shared secret."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.session.access import one_time_secret
from crannog.session.canonical import canonical, render, session_hash
from crannog.session.load import load_session
from crannog.session.otp import one_time_password, parse_shared_secret, time_step
from tests.unit.session.documents import load, refused, said, service

RFC = base64.b32encode(b"12345678901234567890").decode()
OTHER = base64.b32encode(b"another secret of 20").decode()
KEY = "one_time_password_shared_secret"


@pytest.mark.parametrize(
    ("seconds", "code"),
    [
        # RFC 6238 appendix B, SHA-1, of its 8 digits the last 6
        (59, "287082"),
        (1111111109, "081804"),
        (1111111111, "050471"),
        (1234567890, "005924"),
        (2000000000, "279037"),
        (20000000000, "353130"),
    ],
)
def test_the_codes_of_rfc_6238(seconds: int, code: str) -> None:
    assert one_time_password(RFC, time_step(seconds)) == code


@given(st.binary(min_size=16, max_size=128))
def test_every_secret_of_16_to_128_bytes_is_taken_in_one_form(key: bytes) -> None:
    text = base64.b32encode(key).decode()
    bare = text.rstrip("=")
    assert parse_shared_secret(text) == parse_shared_secret(text.lower()) == bare
    assert parse_shared_secret(bare) == bare
    assert len(one_time_password(bare, 1)) == 6


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A" * 24,  # 15 bytes
        "A" * 208,  # 130 bytes
        RFC + "=======",
        RFC[:-1] + "1",
        "é" * 32,
        RFC[:16] + " " + RFC[16:],
        "A" * 27,  # no whole number of bytes
        "A" * 25 + "B",  # bits that no byte holds
    ],
)
def test_what_is_no_shared_secret(text: str) -> None:
    assert parse_shared_secret(text) is None


def test_a_service_and_the_whole_session_may_ask_for_codes() -> None:
    whole = load(service() + f"security: {{attestation: {{{KEY}: {RFC.lower()}}}}}\n")
    assert whole.security.one_time_password_shared_secret == RFC
    assert one_time_secret(whole, whole.services[0]) == ("security", RFC)
    own = load(service(f"{KEY}: {OTHER}") + f"security: {{attestation: {{{KEY}: {RFC}}}}}\n")
    assert one_time_secret(own, own.services[0]) == ("services/app", OTHER)
    old = load(service(f"{KEY}: {OTHER}", version="0.2"))
    assert one_time_secret(old, old.services[0]) == ("services/app", OTHER)
    bare = load(service())
    assert one_time_secret(bare, bare.services[0]) is None


def test_services_with_one_secret_have_one_place() -> None:
    first = service(f"{KEY}: {OTHER}")
    second = "\n".join(line for line in first.splitlines()[3:]).replace("name: app", "name: b")
    session = load(f"{first}{second}\n")
    assert [one.name for one in session.services] == ["app", "b"]
    assert {one_time_secret(session, one) for one in session.services} == {("services/app", OTHER)}


def test_a_secret_that_is_none_is_not_repeated() -> None:
    text = said(service(f"{KEY}: hunter2"))
    assert "hunter2" not in text
    assert text.endswith(
        "found 7 characters, expected base32 of 16 to 128 bytes; "
        "head -c 20 /dev/urandom | base32 makes one"
    )
    (problem,) = refused(service() + f"security: {{attestation: {{{KEY}: hunter2}}}}\n")
    assert problem.path == f"security.attestation.{KEY}"


def test_it_is_read_back_and_hashed_in_one_form() -> None:
    one, other = (load(service(f"{KEY}: {text}")) for text in (RFC, RFC.lower()))
    assert session_hash(one) == session_hash(other)
    assert load_session(render(one).encode()).session == one
    assert KEY.encode() not in canonical(load(service()))


def test_it_is_in_no_repr() -> None:
    session = load(service(f"{KEY}: {OTHER}") + f"security: {{attestation: {{{KEY}: {RFC}}}}}\n")
    assert RFC not in repr(session)
    assert OTHER not in repr(session)
