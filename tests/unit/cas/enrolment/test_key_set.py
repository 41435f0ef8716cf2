"""Which published keys may have signed a token, and key sets that are refused whole."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from crannog.cas.enrolment.key_set import MAX_BYTES, MAX_KEYS, KeySet, parse_key_set
from crannog.cas.enrolment.token import read_header, verify_token
from crannog.errors import FormatError, TooLarge
from crannog.testing.issuer import Issuer, Pod, base64url, ec_key, rsa_key

EC, RSA = ec_key(), rsa_key()
GOOD = EC.jwk()


def parsed(*keys: Any, **more: Any) -> KeySet:
    return parse_key_set(json.dumps({"keys": list(keys), **more}).encode(), "key set")


def unused(key: dict[str, Any]) -> str:
    """Why that key is not taken beside a good one."""
    found = parsed(GOOD, key)
    assert list(found.keys) == [EC.kid]
    (reason,) = found.unused.values()
    return reason


def number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def test_rsa_and_p256_keys_are_for_one_algorithm_each() -> None:
    found = parsed(EC.jwk(), RSA.jwk())
    assert {kid: one.algorithm for kid, one in found.keys.items()} == {
        EC.kid: "ES256",
        RSA.kid: "RS256",
    }
    assert not found.unused


def test_use_and_alg_may_be_left_out() -> None:
    for key in (EC, RSA):
        jwk = {name: value for name, value in key.jwk().items() if name not in ("use", "alg")}
        assert list(parsed(jwk).keys) == [key.kid]


def test_further_members_mean_nothing() -> None:
    found = parsed({**GOOD, "x5c": ["MIIB"], "key_ops": ["verify"], "more": 1}, more={"a": 1})
    assert list(found.keys) == [EC.kid]


# --- refused as a whole ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "not JSON"),
        (b"<html>", "not JSON"),
        (b"[]", "is a list"),
        (b"{}", "no field 'keys'"),
        (b'{"keys":{}}', "keys is an object"),
        (b'{"keys":null}', "keys is null"),
        (b'{"keys":[],"keys":[]}', "twice"),
        (b'{"keys":["a"]}', "no object"),
        (b'{"keys":[[]]}', "no object"),
        (b"[" * 5000 + b"]" * 5000, "nested deeper"),
        (b'{"keys":' + b"[" * 5000 + b"]" * 5000 + b"}", "nested deeper"),
        (b"\xff" * 10, "not JSON"),
    ],
    ids=range(12),
)
def test_what_is_no_key_set_is_refused(data: bytes, match: str) -> None:
    with pytest.raises(FormatError, match=match):
        parse_key_set(data, "key set")


def test_an_empty_key_set_is_refused() -> None:
    with pytest.raises(FormatError, match="no key that this CAS takes: there is none with a kid"):
        parsed()


def test_a_key_set_without_a_usable_key_is_refused_and_says_why() -> None:
    with pytest.raises(FormatError, match="its curve is not P-256"):
        parsed(ec_key(ec.SECP384R1()).jwk())


def test_a_huge_key_set_is_refused() -> None:
    with pytest.raises(TooLarge):
        parse_key_set(b" " * (MAX_BYTES + 1), "key set")


def test_a_key_set_of_too_many_keys_is_refused() -> None:
    many = [{**GOOD, "kid": f"k{number}"} for number in range(MAX_KEYS + 1)]
    assert len(parsed(*many[:-1]).keys) == MAX_KEYS
    with pytest.raises(TooLarge, match="65 items"):
        parsed(*many)


@pytest.mark.parametrize(
    "second", [GOOD, {"kid": EC.kid, "kty": "oct"}, {**RSA.jwk(), "kid": EC.kid}]
)
def test_a_kid_that_stands_twice_is_refused(second: dict[str, Any]) -> None:
    for keys in ((GOOD, second), (second, GOOD)):
        with pytest.raises(FormatError, match="twice"):
            parsed(*keys)


@pytest.mark.parametrize("name", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
def test_a_private_or_symmetric_key_is_refused(name: str) -> None:
    # Even beside good ones, and even where it could not be used: somebody has published it.
    with pytest.raises(FormatError, match="private or symmetric") as caught:
        parsed(GOOD, {"kty": "RSA", name: "c2VjcmV0"})
    assert "c2VjcmV0" not in caught.value.message
    assert "another key" in caught.value.hint


# --- keys that sign no token ----------------------------------------------------------------------


@pytest.mark.parametrize("kid", [None, "", 5, ["a"], "a" * 257])
def test_a_key_without_a_name_is_not_used(kid: Any) -> None:
    assert list(parsed(GOOD, {**RSA.jwk(), "kid": kid}).keys) == [EC.kid]
    nameless = {name: value for name, value in RSA.jwk().items() if name != "kid"}
    assert list(parsed(GOOD, nameless).keys) == [EC.kid]


@pytest.mark.parametrize("bits", [1024, 2047])
def test_a_weak_rsa_key_is_not_used(bits: int) -> None:
    assert unused(rsa_key(bits).jwk()) == f"it has {bits} bits, expected 2048 to 4096"


def test_an_rsa_key_that_takes_long_to_verify_with_is_not_used() -> None:
    modulus = {**RSA.jwk(), "n": number((1 << 4097) + 1)}
    assert unused(modulus) == "it has 4098 bits, expected 2048 to 4096"
    assert "n is missing" in unused({**RSA.jwk(), "n": "A" * 1025})


def test_a_larger_rsa_key_verifies() -> None:
    key = rsa_key(3072)
    token = Issuer(key=key).token(Pod(), issued=0)
    assert verify_token(token, read_header(token), parsed(key.jwk()).keys[key.kid])


@pytest.mark.parametrize("exponent", [0, 1, 2, 65536])
def test_an_rsa_exponent_that_is_none_is_not_used(exponent: int) -> None:
    # With 1 every padded digest would be its own signature.
    key = {**RSA.jwk(), "e": number(exponent) if exponent else "AA"}
    assert unused(key) == "it is malformed"


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1(), ec.SECP256K1()])
def test_a_key_on_another_curve_is_not_used(curve: ec.EllipticCurve) -> None:
    assert unused(ec_key(curve).jwk()) == "its curve is not P-256"


def test_a_point_that_is_not_on_the_curve_is_not_used() -> None:
    other = ec_key().jwk()
    assert unused({**other, "y": GOOD["y"]}) == "it is malformed"
    for x in ("AA", "_" * 43, base64url(b"\xff" * 32)):
        assert unused({**other, "x": x}) == "it is malformed"


@pytest.mark.parametrize("kind", ["oct", "OKP", "rsa", "ec", "", None, 1, ["RSA"]])
def test_a_key_of_another_type_is_not_used(kind: Any) -> None:
    assert unused({**RSA.jwk(), "kty": kind}) == "its type is neither RSA nor EC"


@pytest.mark.parametrize("use", ["enc", "", None, ["sig"]])
def test_a_key_that_is_not_for_signatures_is_not_used(use: Any) -> None:
    assert unused({**RSA.jwk(), "use": use}) == "it is not for signatures"


@pytest.mark.parametrize("algorithm", ["RS512", "PS256", "ES256", "none", "HS256", None, ["RS256"]])
def test_a_key_for_another_algorithm_is_not_used(algorithm: Any) -> None:
    assert unused({**RSA.jwk(), "alg": algorithm}) == "its algorithm is not RS256"


@pytest.mark.parametrize("name", ["n", "e"])
@pytest.mark.parametrize("value", [None, 1, ["AQAB"], {}])
def test_an_rsa_key_without_its_numbers_is_not_used(name: str, value: Any) -> None:
    assert unused({**RSA.jwk(), name: value}) == f"its {name} is missing"


@pytest.mark.parametrize("name", ["n", "e", "x", "y"])
@pytest.mark.parametrize("value", ["", "ä", "a b", "=", "A", "\0"])
def test_numbers_that_are_no_base64url_are_not_used(name: str, value: str) -> None:
    key = RSA if name in ("n", "e") else ec_key()
    found = parsed(GOOD, {**key.jwk(), name: value})
    assert list(found.keys) == [EC.kid]
