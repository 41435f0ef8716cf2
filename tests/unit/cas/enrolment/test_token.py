"""Service account tokens: what is taken, and each thing that is not."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding

from crannog.cas.enrolment.key_set import IssuerKey, parse_key_set
from crannog.cas.enrolment.token import (
    MAX_LIFE_SECONDS,
    SKEW_SECONDS,
    Claims,
    Expected,
    check_subject,
    judge,
    parse_claims,
    read_header,
    verify_token,
)
from crannog.errors import Denied, Error, FormatError, IntegrityError, TooLarge
from crannog.testing.issuer import (
    AUDIENCE,
    ISSUER,
    Issuer,
    Pod,
    SigningKey,
    base64url,
    compact,
    ec_key,
    rsa_key,
    symmetric,
)

NOW = 1_800_000_000
POD = Pod()
EXPECTED = Expected(ISSUER, AUDIENCE, frozenset({POD.subject}))
RSA = rsa_key()
EC = ec_key()
BY_RSA, BY_EC = Issuer(key=RSA), Issuer(key=EC)


def published(*keys: SigningKey) -> dict[str, IssuerKey]:
    document = json.dumps({"keys": [one.jwk() for one in keys]}).encode()
    return dict(parse_key_set(document, "keys").keys)


KEYS = published(RSA, EC)


def authentic(token: str) -> bytes:
    header = read_header(token)
    return verify_token(token, header, KEYS[header.kid])


def taken(token: str, *, now: float = NOW) -> Claims:
    claims = parse_claims(authentic(token))
    judge(claims, EXPECTED, datetime.fromtimestamp(now, UTC))
    return claims


def refused(token: str, kind: type[Error], match: str, *, now: float = NOW) -> Error:
    with pytest.raises(kind, match=match) as caught:
        taken(token, now=now)
    assert type(caught.value) is kind
    said = f"{caught.value.message} {caught.value.hint}"
    assert not any(part in said for part in token.split(".") if len(part) > 20)
    return caught.value


def good() -> dict[str, Any]:
    return BY_EC.claims(POD, issued=NOW)


def changed(**changes: Any) -> str:
    return BY_EC.sign({**good(), **changes})


def bound(**changes: Any) -> str:
    return changed(**{"kubernetes.io": {**POD.claim(), **changes}})


def without(name: str) -> str:
    claims = good()
    del claims[name]
    return BY_EC.sign(claims)


def unbound(name: str) -> str:
    claims = good()
    del claims["kubernetes.io"][name]
    return BY_EC.sign(claims)


def headed(key: SigningKey = EC, **header: Any) -> str:
    return compact({"alg": key.algorithm, "kid": key.kid, **header}, good(), key.sign)


@pytest.mark.parametrize("issuer", [BY_RSA, BY_EC], ids=["RS256", "ES256"])
def test_a_projected_token_names_its_pod_and_its_node(issuer: Issuer) -> None:
    claims = taken(issuer.token(POD, issued=NOW))
    assert (claims.subject, claims.node, claims.pod) == (POD.subject, POD.node, POD.name)
    assert (claims.issued, claims.not_before, claims.expires) == (NOW, NOW, NOW + 3600)
    assert claims.pod_uid == POD.claim()["pod"]["uid"]


def test_a_header_may_say_that_it_is_a_jwt() -> None:
    assert taken(headed(typ="JWT")).node == POD.node


# --- the form -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "token",
    ["", ".", "..", "a.b", "a.b.c.d", "a..c", ".b.c", "a.b.", "a b.c.d", "ä.b.c", "a\n.b.c"],
)
def test_what_has_not_three_parts_is_no_token(token: str) -> None:
    with pytest.raises(FormatError, match=r"HEADER\.CLAIMS\.SIGNATURE"):
        read_header(token)


def test_a_token_over_the_limit_is_refused() -> None:
    refused("a" * 16_385, TooLarge, "16385 characters")


@pytest.mark.parametrize("part", [0, 1, 2])
def test_padding_is_refused(part: int) -> None:
    parts = BY_EC.token(POD, issued=NOW).split(".")
    parts[part] += "="
    refused(".".join(parts), FormatError, "not of the form")


@pytest.mark.parametrize("part", [0, 1, 2])
def test_another_spelling_of_the_same_bytes_is_refused(part: int) -> None:
    # 3k+1 bytes end in a character of which four bits mean nothing; so do a signature's 64.
    header, claims = (json.dumps(one).encode() for one in (BY_EC.header(), good()))
    padded = [one + b" " * ((1 - len(one)) % 3) for one in (header, claims)]
    parts = compact(padded[0], padded[1], EC.sign).split(".")
    data = base64.urlsafe_b64decode(parts[part] + "==")
    assert len(data) % 3 == 1
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    parts[part] = parts[part][:-1] + alphabet[alphabet.index(parts[part][-1]) + 1]
    assert base64.urlsafe_b64decode(parts[part] + "==") == data
    with pytest.raises(FormatError, match="not canonical base64url"):
        read_header(".".join(parts))


@pytest.mark.parametrize(
    ("header", "match"),
    [
        (b"", "not of the form"),
        (b"not json", "not JSON"),
        (b"[]", "is a list"),
        (b"null", "is null"),
        (b"\xff\xfe", "not JSON"),
        (b"{}", "no field 'alg'"),
        (b'{"alg":"ES256"}', "no field 'kid'"),
        (b'{"alg":["ES256"],"kid":"a"}', "alg is a list"),
        (b'{"alg":"ES256","kid":1}', "kid is an integer"),
        (b'{"alg":"ES256","kid":null}', "kid is null"),
        (b'{"alg":"ES256","kid":{"a":1}}', "kid is an object"),
        (b'{"alg":"ES256","kid":"a","typ":"at+jwt"}', "typ is 'at"),
        (b'{"alg":"ES256","kid":"a","typ":"JWE"}', "typ is 'JWE'"),
        (b"[" * 400 + b"]" * 400, "nested deeper"),
        (b'{"alg":' + b"[" * 300 + b"]" * 300 + b"}", "nested deeper"),
    ],
    ids=range(15),
)
def test_garbage_in_the_header_is_refused(header: bytes, match: str) -> None:
    refused(compact(header, good(), EC.sign), FormatError, match)


def test_a_header_over_its_limit_is_refused() -> None:
    header = b'{"alg":"ES256","kid":"a"}' + b" " * 1024
    refused(compact(header, good(), EC.sign), TooLarge, "expected at most 1024")


def test_a_long_kid_is_refused() -> None:
    refused(headed(kid="a" * 257), TooLarge, "kid has 257 characters")


def test_an_algorithm_that_stands_twice_is_refused() -> None:
    header = f'{{"alg":"none","alg":"ES256","kid":"{EC.kid}"}}'.encode()
    refused(compact(header, good(), EC.sign), FormatError, "twice")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("crit", ["exp"]),
        ("crit", []),
        ("b64", False),
        ("jwk", EC.jwk()),
        ("jku", "https://attacker.example/keys"),
        ("x5u", "https://attacker.example/chain"),
        ("x5c", ["MIIB"]),
        ("x5t", "a"),
        ("zip", "DEF"),
        ("cty", "JWT"),
        ("enc", "A128GCM"),
        ("anything", 1),
    ],
)
def test_a_header_with_more_than_the_key_s_name_is_refused(name: str, value: Any) -> None:
    refused(headed(**{name: value}), FormatError, f"unknown fields: '{name}'")


# --- algorithm, key and signature -----------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_without_a_signature_is_refused(algorithm: str) -> None:
    header = {"alg": algorithm, "kid": EC.kid}
    refused(compact(header, good(), lambda _: b"x"), Denied, "expected RS256 or ES256")
    with pytest.raises(FormatError):
        read_header(compact(header, good(), lambda _: b""))


@pytest.mark.parametrize("secret", [RSA.public_pem, RSA.public_pem.strip(), b""])
def test_hs256_with_the_public_key_as_its_secret_is_refused(secret: bytes) -> None:
    header = {"alg": "HS256", "kid": RSA.kid}
    refused(compact(header, good(), symmetric(secret)), Denied, "signed by 'HS256'")


@pytest.mark.parametrize("key", [RSA, EC], ids=["RS256", "ES256"])
def test_an_hmac_under_a_public_algorithm_s_name_is_refused(key: SigningKey) -> None:
    header = {"alg": key.algorithm, "kid": key.kid}
    forged = compact(header, good(), symmetric(key.public_pem))
    refused(forged, IntegrityError, "not signed by its issuer's key")


@pytest.mark.parametrize(
    "algorithm",
    [
        "RS384",
        "RS512",
        "PS256",
        "ES384",
        "ES512",
        "ES256K",
        "EdDSA",
        "Ed25519",
        "HS512",
        "RSA-OAEP",
    ],
)
def test_another_algorithm_is_refused(algorithm: str) -> None:
    refused(headed(alg=algorithm), Denied, f"signed by '{algorithm}'")


def test_the_algorithm_is_the_key_s_and_not_the_token_s() -> None:
    refused(headed(EC, alg="RS256"), IntegrityError, "its issuer's key is for ES256")
    refused(headed(RSA, alg="ES256"), IntegrityError, "its issuer's key is for RS256")


def test_a_token_that_another_key_signed_is_refused() -> None:
    for key, other in ((RSA, rsa_key()), (EC, ec_key())):
        forged = compact({"alg": key.algorithm, "kid": key.kid}, good(), other.sign)
        refused(forged, IntegrityError, "not signed")


def test_a_token_under_another_published_key_s_name_is_refused() -> None:
    other = ec_key()
    keys = published(EC, other)
    token = compact({"alg": "ES256", "kid": other.kid}, good(), EC.sign)
    with pytest.raises(IntegrityError):
        verify_token(token, read_header(token), keys[other.kid])


@pytest.mark.parametrize("position", [0, 1])
def test_a_changed_byte_is_noticed(position: int) -> None:
    parts = BY_EC.token(POD, issued=NOW).split(".")
    data = base64.urlsafe_b64decode(parts[position] + "==")
    later = data.replace(b"node1", b"node2") if position else data.replace(b'": "', b'" :"', 1)
    assert later != data
    parts[position] = base64url(later)
    refused(".".join(parts), IntegrityError, "not signed")


@pytest.mark.parametrize(
    "signature",
    [b"\0", bytes(64), b"\xff" * 64, bytes(63), bytes(65), b"\0" * 31 + b"\1" + b"\0" * 31 + b"\1"],
    ids=range(6),
)
def test_a_made_up_signature_is_refused(signature: bytes) -> None:
    for key in (EC, RSA):
        header = {"alg": key.algorithm, "kid": key.kid}
        refused(compact(header, good(), lambda _: signature), IntegrityError, "not signed")


def test_an_ecdsa_signature_in_der_is_refused() -> None:
    assert isinstance(EC.private, ec.EllipticCurvePrivateKey)
    key = EC.private
    token = compact(
        {"alg": "ES256", "kid": EC.kid},
        good(),
        lambda data: key.sign(data, ec.ECDSA(hashes.SHA256())),
    )
    refused(token, IntegrityError, "not signed")


def test_an_rsa_signature_with_another_padding_or_digest_is_refused() -> None:
    assert not isinstance(RSA.private, ec.EllipticCurvePrivateKey)
    key = RSA.private
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
    header = {"alg": "RS256", "kid": RSA.kid}
    for sign in (
        lambda data: key.sign(data, pss, hashes.SHA256()),
        lambda data: key.sign(data, padding.PKCS1v15(), hashes.SHA1()),
    ):
        refused(compact(header, good(), sign), IntegrityError, "not signed")


def test_claims_are_not_decoded_before_the_signature_holds() -> None:
    # They are no JSON at all, and what is said is that nobody has signed them.
    forged = compact({"alg": "ES256", "kid": EC.kid}, b"\xff" * 2000, ec_key().sign)
    refused(forged, IntegrityError, "not signed")


# --- the claims -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims", [b"not json", b"[]", b"1", b"\xff", b"[" * 3000 + b"]" * 3000, b'{"aud":1e999}']
)
def test_garbage_that_the_issuer_signed_is_refused(claims: bytes) -> None:
    with pytest.raises(FormatError):
        taken(compact(BY_EC.header(), claims, EC.sign))


@pytest.mark.parametrize("name", ["aud", "iss", "sub", "exp", "iat", "nbf", "jti", "kubernetes.io"])
def test_a_token_without_a_claim_is_refused(name: str) -> None:
    refused(without(name), FormatError, f"no field '{name}'")


def test_an_unknown_claim_is_refused() -> None:
    refused(changed(groups=["system:masters"]), FormatError, "unknown fields: 'groups'")


def test_an_unknown_claim_of_kubernetes_is_refused() -> None:
    refused(bound(warnafter=NOW), FormatError, "unknown fields: 'warnafter'")


@pytest.mark.parametrize("name", ["exp", "sub", "aud"])
def test_a_claim_that_stands_twice_is_refused(name: str) -> None:
    text = json.dumps(good())
    twice = text[:-1] + f', "{name}": {json.dumps(good()[name])}}}'
    refused(compact(BY_EC.header(), twice.encode(), EC.sign), FormatError, "twice")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exp", str(NOW + 3600)),
        ("exp", NOW + 3600.5),
        ("exp", True),
        ("exp", None),
        ("exp", -1),
        ("exp", 2**63),
        ("iat", [NOW]),
        ("nbf", None),
        ("iss", [ISSUER]),
        ("sub", 1),
        ("aud", AUDIENCE),
        ("aud", [1]),
        ("aud", None),
        ("jti", 5),
        ("jti", ""),
        ("jti", "a\nb"),
        ("jti", "ä"),
        ("kubernetes.io", []),
        ("kubernetes.io", "node1"),
    ],
    ids=range(19),
)
def test_a_claim_of_another_type_is_refused(name: str, value: Any) -> None:
    refused(changed(**{name: value}), FormatError, name)


def test_too_long_claims_are_refused() -> None:
    for name, length in (("iss", 1025), ("sub", 1025), ("jti", 129)):
        refused(changed(**{name: "a" * length}), TooLarge, f"{name} has {length}")
    refused(changed(aud=["a"] * 17), TooLarge, "aud has 17 items")


@pytest.mark.parametrize("name", ["pod", "node"])
def test_a_token_that_is_not_bound_to_a_pod_on_a_node_is_refused(name: str) -> None:
    # By `kubectl create token`, by a Secret, by an older Kubernetes.
    error = refused(unbound(name), Denied, f"not bound to a {name}")
    assert "project it" in error.hint


def test_a_token_that_is_bound_to_a_secret_is_refused() -> None:
    claims = good()
    del claims["kubernetes.io"]["pod"]
    claims["kubernetes.io"]["secret"] = {"name": "a", "uid": "b"}
    refused(BY_EC.sign(claims), Denied, "not bound to a pod")


@pytest.mark.parametrize("name", ["namespace", "serviceaccount"])
def test_a_token_without_its_service_account_is_refused(name: str) -> None:
    refused(unbound(name), FormatError, f"no field '{name}'")


@pytest.mark.parametrize(
    "value", [None, "node1", {}, {"name": "node1"}, {"uid": "u"}, {"name": 1, "uid": "u"}]
)
def test_an_incomplete_node_is_refused(value: Any) -> None:
    refused(bound(node=value), FormatError, "node")


@pytest.mark.parametrize(
    "name",
    ["", "Node1", "node 1", "node1\n", "-node", "node-", "a\u202eb", "a=b", "../node", "n" * 254],
)
def test_a_name_that_kubernetes_would_not_take_is_refused(name: str) -> None:
    with pytest.raises((FormatError, TooLarge)):
        taken(bound(node={"name": name, "uid": "u"}))


@pytest.mark.parametrize("uid", ["", "u\n", "ü"])
def test_a_uid_that_is_no_identifier_is_refused(uid: str) -> None:
    refused(bound(pod={"name": "a", "uid": uid}), FormatError, "pod's uid")


def test_more_in_a_node_than_name_and_uid_is_refused() -> None:
    refused(bound(node={"name": "a", "uid": "b", "role": "c"}), FormatError, "unknown fields")


# --- for whom -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "issuer", ["", ISSUER + "/", ISSUER.upper(), "https://other", ISSUER + "\0"]
)
def test_another_issuer_s_token_is_refused(issuer: str) -> None:
    refused(changed(iss=issuer), Denied, "issuer is")


@pytest.mark.parametrize(
    "audiences",
    [
        [],
        ["https://kubernetes.default.svc"],
        [AUDIENCE, "https://kubernetes.default.svc"],
        [AUDIENCE, AUDIENCE],
        [AUDIENCE.upper()],
        [AUDIENCE + " "],
    ],
)
def test_a_token_for_another_audience_or_for_more_is_refused(audiences: list[str]) -> None:
    refused(changed(aud=audiences), Denied, "audience is")


def test_a_service_account_that_is_not_named_is_refused() -> None:
    for pod in (POD._replace(namespace="default"), POD._replace(account="other")):
        error = refused(BY_EC.token(pod, issued=NOW), Denied, "may not enrol a LAS")
        assert pod.subject in error.hint


def test_a_subject_that_is_not_the_account_it_is_bound_to_is_refused() -> None:
    other = POD._replace(account="other")
    claims = {**good(), "kubernetes.io": other.claim()}
    refused(BY_EC.sign(claims), Denied, "and it is bound to")


@pytest.mark.parametrize(
    "subject", ["kubernetes-admin", "system:node:node1", POD.subject + ":x", ""]
)
def test_a_subject_that_is_no_service_account_is_refused(subject: str) -> None:
    refused(changed(sub=subject), Denied, "subject is")


# --- when -----------------------------------------------------------------------------------------


def test_an_expired_token_is_refused_from_its_very_second() -> None:
    token = BY_EC.token(POD, issued=NOW, life=600)
    taken(token, now=NOW + 599.9)
    error = refused(token, Denied, "expired 0 s ago", now=NOW + 600)
    assert "kubelet replaces it" in error.hint
    refused(token, Denied, "expired 30 s ago", now=NOW + 630)


def test_a_token_that_is_not_valid_yet_is_refused() -> None:
    early = changed(nbf=NOW + SKEW_SECONDS + 1)
    refused(early, Denied, "nbf is 31 s in the future")
    taken(early, now=NOW + 1)


def test_a_token_of_the_future_is_refused() -> None:
    future = BY_EC.token(POD, issued=NOW + SKEW_SECONDS + 1)
    error = refused(future, Denied, "iat is 31 s in the future")
    assert "clocks" in error.hint
    taken(future, now=NOW + 1)


def test_a_token_that_lives_too_long_is_refused() -> None:
    taken(BY_EC.token(POD, issued=NOW, life=MAX_LIFE_SECONDS))
    error = refused(
        BY_EC.token(POD, issued=NOW, life=MAX_LIFE_SECONDS + 1), Denied, "lives for 7201 s"
    )
    assert "expirationSeconds" in error.hint


def test_a_long_life_that_is_almost_over_is_refused_as_well() -> None:
    # What an API server gives by default: a year.
    year = 365 * 86400
    refused(BY_EC.token(POD, issued=NOW - year + 60, life=year), Denied, "lives for")


@pytest.mark.parametrize("life", [0, -1, -NOW])
def test_a_token_that_ends_before_it_begins_is_refused(life: int) -> None:
    refused(BY_EC.token(POD, issued=NOW, life=life), Denied, "lives for")


def test_the_largest_numbers_are_refused() -> None:
    refused(changed(iat=2**63 - 1, nbf=2**63 - 1, exp=2**63 - 1), Denied, "in the future")
    refused(changed(iat=0, exp=2**63 - 1), Denied, "lives for")


# --- the subjects that an operator names ----------------------------------------------------------


def test_a_service_account_s_subject_is_taken_as_it_is() -> None:
    assert check_subject(POD.subject) == POD.subject


@pytest.mark.parametrize(
    "text",
    [
        "",
        "las",
        "kube-system:las",
        "system:serviceaccount:",
        "system:serviceaccount:kube-system",
        "system:serviceaccount:kube-system:",
        "system:serviceaccount::las",
        "system:serviceaccount:kube-system:las:x",
        "system:serviceaccount:kube-system:*",
        "system:serviceaccount:kube-system:las\n",
        "system:serviceaccounts:kube-system",
        "system:serviceaccount:a:" + "b" * 254,
    ],
)
def test_what_can_be_no_service_account_s_subject_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="expected system:serviceaccount:NAMESPACE:NAME"):
        check_subject(text)
