"""From hostile tokens, key sets and answers only our own errors escape, and no token gets in."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crannog.cas.enrolment.key_set import parse_key_set
from crannog.cas.enrolment.token import Expected, judge, parse_claims, read_header, verify_token
from crannog.errors import Error
from crannog.exchange.enrolment import Enrolled
from crannog.las.enrolling import pause_until, read_token
from crannog.testing.issuer import (
    AUDIENCE,
    ISSUER,
    Issuer,
    Pod,
    base64url,
    compact,
    ec_key,
    rsa_key,
)
from crannog.testing.issuer_server import IssuerServer, response
from crannog.transport.https_document import fetch, parse_location
from crannog.transport.stream import Deadline, TlsStream

NOW = 1_800_000_000
POD = Pod()
BY = Issuer(key=ec_key())
BY_RSA = Issuer(key=rsa_key())
GOOD = BY.claims(POD, issued=NOW)
HEADER: dict[str, Any] = dict(BY.header())
KEYS = parse_key_set(BY.key_set(), "keys").keys
EXPECTED = Expected(ISSUER, AUDIENCE, frozenset({POD.subject}))

_json = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(max_size=10),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def _nearly(draw: st.DrawFn, start: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """An object with some fields replaced, removed or added, also within its objects."""
    found = dict(start)
    for _ in range(draw(st.integers(0, 3))):
        name = draw(st.sampled_from([*sorted(found), *names]) | st.text(max_size=8))
        inner = found.get(name)
        what = draw(st.integers(0, 2))
        if what == 0:
            found.pop(name, None)
        elif what == 1 and isinstance(inner, dict):
            found[name] = draw(_nearly(inner, ["name", "uid", "secret", "warnafter"]))
        else:
            found[name] = draw(_json)
    return found


_headers = _nearly(HEADER, ["typ", "crit", "b64", "jwk", "jku", "x5c", "zip"])
_claims = _nearly(GOOD, ["scope", "azp", "kubernetes.io"])
_keys = _nearly(BY.key.jwk(), ["n", "e", "d", "k", "x5c"]) | _nearly(
    BY_RSA.key.jwk(), ["crv", "x", "y", "d", "p", "oth"]
)
_text = st.text("AQab-_.=+/ \n\0é", max_size=60)


def _taken(token: str) -> None:
    header = read_header(token)
    key = KEYS.get(header.kid)
    if key is not None:
        claims = parse_claims(verify_token(token, header, key))
        judge(claims, EXPECTED, datetime.fromtimestamp(NOW, UTC))


def _verified(token: str) -> bytes:
    """The claims, by the key that is published, whatever the header calls it."""
    header = read_header(token)
    return verify_token(token, header, KEYS.get(header.kid) or KEYS[BY.key.kid])


def _bytes(value: object) -> bytes:
    return json.dumps(value).encode()


@settings(max_examples=300)
@given(_text | st.text(max_size=60) | st.lists(_text, min_size=3, max_size=3).map(".".join))
def test_any_text_as_a_token(text: str) -> None:
    with contextlib.suppress(Error):
        _taken(text)


@settings(max_examples=400)
@given(_headers.map(_bytes) | _json.map(_bytes) | st.binary(max_size=80))
def test_any_header(header: bytes) -> None:
    with contextlib.suppress(Error):
        _taken(compact(header, GOOD, BY.key.sign))


@settings(max_examples=400)
@given(_claims.map(_bytes) | _json.map(_bytes) | st.binary(max_size=80))
def test_any_claims_that_the_issuer_signed(claims: bytes) -> None:
    with contextlib.suppress(Error):
        _taken(compact(HEADER, claims, BY.key.sign))


@settings(max_examples=300)
@given(_headers, _claims, st.binary(max_size=200))
def test_no_token_passes_that_nobody_has_signed(
    header: dict[str, Any], claims: dict[str, Any], signature: bytes
) -> None:
    made = compact(header, claims, lambda _: signature)
    with pytest.raises(Error):
        _verified(made)


@settings(max_examples=300)
@given(st.data())
def test_no_token_passes_of_which_a_character_was_changed(data: st.DataObject) -> None:
    token = BY.sign(GOOD)
    place = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from("ABab01-_.= é").filter(lambda one: one != token[place]))
    with pytest.raises(Error):
        _verified(token[:place] + other + token[place + 1 :])


@settings(max_examples=300)
@given(st.lists(_keys | _json, max_size=4), _json)
def test_any_keys_in_a_key_set(keys: list[Any], more: Any) -> None:
    token = BY.sign(GOOD)
    with contextlib.suppress(Error):
        found = parse_key_set(_bytes({"keys": keys, "more": more}), "keys")
        for kid, key in found.keys.items():
            header = read_header(token)
            with contextlib.suppress(Error):
                verify_token(token, header._replace(kid=kid), key)


@given(_json.map(_bytes) | st.binary(max_size=200) | _text.map(str.encode))
def test_any_bytes_as_a_key_set(data: bytes) -> None:
    with contextlib.suppress(Error):
        parse_key_set(data, "keys")


@settings(max_examples=200)
@given(st.sampled_from(["n", "e", "x", "y"]), _text | st.binary(max_size=520).map(base64url))
def test_any_numbers_in_a_key(name: str, value: str) -> None:
    issuer = BY_RSA if name in ("n", "e") else BY
    token = issuer.sign(GOOD)
    with contextlib.suppress(Error):
        found = parse_key_set(_bytes({"keys": [{**issuer.key.jwk(), name: value}]}), "keys")
        for key in found.keys.values():
            verify_token(token, read_header(token), key)


@given(
    st.integers(0, 253402300799) | st.none(),
    st.floats(-1e12, 1e12, allow_nan=False),
)
def test_whatever_a_cas_says_a_las_waits_for_a_while(expires: int | None, now: float) -> None:
    assert 60 <= pause_until(Enrolled(expires, "n"), now) <= 600


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=40) | _text.map(str.encode))
def test_any_bytes_as_a_token_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "token").write_bytes(data)
    with contextlib.suppress(Error):
        assert read_token(tmp_path / "token").isprintable()


# --- the issuer's server --------------------------------------------------------------------------

_WORDS = (
    "HTTP/1.1 200 OK", "HTTP/1.1 100 Continue", "HTTP/1.0 200 OK", "HTTP/1.1 304 X", "\r\n",
    "\r\n\r\n", "Content-Length: ", "5", "-1", "0", "99999999999", "Transfer-Encoding: chunked",
    "Content-Encoding: gzip", "Location: https://x/", ":", "\0", "a" * 300, "5\r\nhello\r\n",
    "0\r\n\r\n", '{"keys":[]}', "é", " ",
)  # fmt: skip
_answers = (
    st.lists(st.sampled_from(_WORDS), max_size=12).map(lambda words: "".join(words).encode())
    | st.binary(max_size=200)
    | _json.map(_bytes).map(response)
)


@pytest.fixture(scope="module")
def server() -> Iterator[IssuerServer]:
    with IssuerServer(BY) as running:
        yield running


@settings(max_examples=150, deadline=None)
@given(answer=_answers)
def test_any_answer_of_the_issuer_s_server(server: IssuerServer, answer: bytes) -> None:
    def say(stream: TlsStream, deadline: Deadline) -> None:
        stream.send(answer, deadline)

    server.answer = say
    with contextlib.suppress(Error):
        body = fetch(
            parse_location(server.url, "url"),
            accept="application/json",
            authorities=server.authority.pem,
            bearer=None,
            limit=1000,
            deadline=Deadline.after(10),
        )
        parse_key_set(body, "keys")


@settings(max_examples=300)
@given(
    st.text(max_size=30)
    | st.lists(
        st.sampled_from(
            [
                "https://",
                "http:",
                "a",
                "@",
                ":",
                "443",
                "/",
                "?",
                "#",
                "[",
                "::1",
                "]",
                "%",
                "é",
                "\n",
            ]
        ),
        max_size=8,
    ).map("".join)
)
def test_any_text_as_a_url(text: str) -> None:
    with contextlib.suppress(Error):
        location = parse_location(text, "url")
        assert 0 <= location.address.port < 65536
        assert location.target.startswith("/")
        assert str(location).isascii()
        assert not set("\r\n ") & set(str(location))
