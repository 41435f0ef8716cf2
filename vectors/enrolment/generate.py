"""Writes the vectors of this directory; the same every time.

Run: python -m vectors.enrolment.generate. Nothing of `crannog` is used, so that the vectors check
the code and not itself: the format is encoded here a second time, from docs/formats/enrolment.md.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

NOW = 1_800_000_000
ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = "crannog-cas"
SUBJECT = "system:serviceaccount:kube-system:las"

LAS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_LAS = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
NONCE = bytes(range(32))
CHANNEL = {"exporter": b"\1" * 32, "client_key": b"client", "server_key": b"server"}

# Made for this file and of use for nothing else.
_P = int(
    "f581c1eeef1aea1caeb5a49a484cc5491206d751b9740297d201732d78071813"
    "7f5720467f5c1016073adb14a20faa14b320097dd8b8938b1426372bd3f5a9dc"
    "86cbfc60f92a0f17515e4f9233d871c5156bef38dd4716ae9ae34739a708b903"
    "fe4145d9dccb27ed5b5e9c140d475b4ea4897d192702a8c5b6e9997274d3b87b",
    16,
)
_Q = int(
    "c75cb82a6c79ce44989e0df828fc8126977cd2eade923c66af9ee98f15663b23"
    "b3d45da328a822efc48944a1cf36a3256d95318065a18c8763843a078d0cf556"
    "4d75093431d1ab40c2167352160a4e3f6804f7e6125f9168013edc4b4d2d8833"
    "b31a58289560a53398d809bbfdf4d21823736388afac59f022c65afcd5bb0bc1",
    16,
)
_EC = ec.derive_private_key(0x1234567890ABCDEF << 128, ec.SECP256R1())
_OTHER_EC = ec.derive_private_key(0x1234567890ABCDF0 << 128, ec.SECP256R1())

Sign = Callable[[bytes], bytes]


def _rsa() -> rsa.RSAPrivateKey:
    d = pow(65537, -1, (_P - 1) * (_Q - 1))
    public = rsa.RSAPublicNumbers(65537, _P * _Q)
    inverse = pow(_Q, -1, _P)
    return rsa.RSAPrivateNumbers(
        _P, _Q, d, d % (_P - 1), d % (_Q - 1), inverse, public
    ).private_key()


_RSA = _rsa()


def canonical(value: Any) -> bytes:
    """Canonical JSON: sorted keys, no spaces, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def parts(*values: bytes) -> bytes:
    """Each value with its length as a 32-bit big-endian number before it."""
    return b"".join(len(one).to_bytes(4, "big") + one for one in values)


def base64url(data: bytes) -> str:
    """RFC 7515's, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def frame(message: dict[str, Any]) -> str:
    """The frame in hex."""
    data = canonical(message)
    return (len(data).to_bytes(4, "big") + data).hex()


# --- keys and tokens ------------------------------------------------------------------------------


def es256(key: ec.EllipticCurvePrivateKey) -> Sign:
    """RFC 7518 section 3.4, with the deterministic nonce of RFC 6979."""

    def sign(data: bytes) -> bytes:
        algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        r, s = decode_dss_signature(key.sign(data, algorithm))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    return sign


def rs256(data: bytes) -> bytes:
    """RFC 7518 section 3.3."""
    return _RSA.sign(data, padding.PKCS1v15(), hashes.SHA256())


def hs256_with_the_public_key(data: bytes) -> bytes:
    """What is refused: the public key taken for a shared secret."""
    pem = _RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return hmac.digest(pem, data, "sha256")


def _ec_jwk(key: ec.EllipticCurvePrivateKey, kid: str) -> dict[str, str]:
    point = key.public_key().public_numbers()
    x, y = (base64url(one.to_bytes(32, "big")) for one in (point.x, point.y))
    return {"kty": "EC", "use": "sig", "alg": "ES256", "kid": kid, "crv": "P-256", "x": x, "y": y}


def _rsa_jwk(kid: str) -> dict[str, str]:
    n = base64url((_P * _Q).to_bytes(256, "big"))
    return {"kty": "RSA", "use": "sig", "alg": "RS256", "kid": kid, "n": n, "e": "AQAB"}


KEYS = {"keys": [_rsa_jwk("rsa"), _ec_jwk(_EC, "ec")]}
BOUND: dict[str, Any] = {
    "namespace": "kube-system",
    "node": {"name": "node1", "uid": "0a6ff2c9-0000-4000-8000-000000000001"},
    "pod": {"name": "las-x7k2p", "uid": "0a6ff2c9-0000-4000-8000-000000000002"},
    "serviceaccount": {"name": "las", "uid": "0a6ff2c9-0000-4000-8000-000000000003"},
}
CLAIMS: dict[str, Any] = {
    "aud": [AUDIENCE],
    "exp": NOW + 3600,
    "iat": NOW,
    "iss": ISSUER,
    "jti": "0a6ff2c9-0000-4000-8000-000000000004",
    "kubernetes.io": BOUND,
    "nbf": NOW,
    "sub": SUBJECT,
}
HEADER = {"alg": "ES256", "kid": "ec"}


def token(
    claims: dict[str, Any] | bytes = CLAIMS,
    header: dict[str, Any] | bytes = HEADER,
    sign: Sign | None = None,
) -> str:
    """A compact JWS; objects are canonical JSON, bytes are taken as they are."""
    both = [one if isinstance(one, bytes) else canonical(one) for one in (header, claims)]
    text = ".".join(base64url(one) for one in both)
    return f"{text}.{base64url((sign or es256(_EC))(text.encode()))}"


def _token(text: str, *, now: int = NOW, **expected: Any) -> dict[str, Any]:
    return {
        "kind": "token",
        "key_set": KEYS,
        "issuer": ISSUER,
        "audience": AUDIENCE,
        "subjects": [SUBJECT],
        "now": now,
        "token": text,
        **expected,
    }


def _bound(**changes: Any) -> dict[str, Any]:
    return {**CLAIMS, "kubernetes.io": {**BOUND, **changes}}


def _without(value: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: one for key, one in value.items() if key != name}


def _tokens() -> dict[str, dict[str, Any]]:
    good = {
        "subject": SUBJECT,
        "node": "node1",
        "pod": "las-x7k2p",
        "pod_uid": BOUND["pod"]["uid"],
        "token_id": CLAIMS["jti"],
        "issued": NOW,
        "expires": NOW + 3600,
    }
    by_rsa = {"alg": "RS256", "kid": "rsa"}
    head, claims, signature = token().split(".")
    twice = canonical(CLAIMS)[:-1] + b',"exp":1}'
    return {
        "token-es256": _token(token(), claims=good),
        "token-rs256": _token(token(header=by_rsa, sign=rs256), claims=good),
        "token-typ": _token(token(header={**HEADER, "typ": "JWT"}), claims=good),
        "token-none": _token(token(header={"alg": "none", "kid": "ec"}), error="denied"),
        "token-hs256-public-key": _token(
            token(header={"alg": "HS256", "kid": "rsa"}, sign=hs256_with_the_public_key),
            error="denied",
        ),
        "token-rs256-by-hmac": _token(
            token(header=by_rsa, sign=hs256_with_the_public_key), error="not-authentic"
        ),
        "token-other-algorithm": _token(
            token(header={"alg": "RS256", "kid": "ec"}), error="not-authentic"
        ),
        "token-unknown-kid": _token(token(header={**HEADER, "kid": "other"}), error="denied"),
        "token-other-key": _token(token(sign=es256(_OTHER_EC)), error="not-authentic"),
        "token-crit": _token(token(header={**HEADER, "crit": ["exp"]}), error="malformed"),
        "token-jwk": _token(
            token(header={**HEADER, "jwk": _ec_jwk(_OTHER_EC, "ec")}, sign=es256(_OTHER_EC)),
            error="malformed",
        ),
        "token-header-twice": _token(
            token(header=b'{"alg":"none","alg":"ES256","kid":"ec"}'), error="malformed"
        ),
        "token-padded": _token(f"{head}.{claims}.{signature}==", error="malformed"),
        "token-four-parts": _token(token() + ".a", error="malformed"),
        "token-no-signature": _token(f"{head}.{claims}.", error="malformed"),
        "token-too-long": _token("a" * 16_385, error="too-large"),
        "token-claim-twice": _token(token(twice), error="malformed"),
        "token-unknown-claim": _token(token({**CLAIMS, "scope": ""}), error="malformed"),
        "token-no-expiry": _token(token(_without(CLAIMS, "exp")), error="malformed"),
        "token-fraction": _token(token({**CLAIMS, "exp": NOW + 0.5}), error="malformed"),
        "token-no-pod": _token(
            token({**CLAIMS, "kubernetes.io": _without(BOUND, "pod")}), error="denied"
        ),
        "token-no-node": _token(
            token({**CLAIMS, "kubernetes.io": _without(BOUND, "node")}), error="denied"
        ),
        "token-node-name": _token(
            token(_bound(node={"name": "Node 1", "uid": "a"})), error="malformed"
        ),
        "token-other-issuer": _token(token({**CLAIMS, "iss": ISSUER + "/"}), error="denied"),
        "token-other-audience": _token(token({**CLAIMS, "aud": ["api"]}), error="denied"),
        "token-two-audiences": _token(token({**CLAIMS, "aud": [AUDIENCE, "api"]}), error="denied"),
        "token-other-account": _token(
            token({**_bound(serviceaccount={"name": "b", "uid": "c"}), "sub": SUBJECT[:-3] + "b"}),
            error="denied",
        ),
        "token-subject-of-another": _token(
            token(_bound(serviceaccount={"name": "b", "uid": "c"})), error="denied"
        ),
        "token-last-second": _token(token(), now=NOW + 3599, claims=good),
        "token-expired": _token(token(), now=NOW + 3600, error="denied"),
        "token-issued-ahead": _token(token(), now=NOW - 30, claims=good),
        "token-issued-too-far-ahead": _token(token(), now=NOW - 31, error="denied"),
        "token-lives-long": _token(token({**CLAIMS, "exp": NOW + 7201}), error="denied"),
    }


# --- messages and the proof -----------------------------------------------------------------------


def signed(text: str, nonce: bytes, channel: dict[str, bytes]) -> bytes:
    """What the LAS's key signs."""
    report = hashlib.sha512(
        parts(
            b"crannog report v1",
            b"las enrolment",
            nonce,
            channel["exporter"],
            channel["client_key"],
            channel["server_key"],
            b"",
        )
    ).digest()
    return parts(b"crannog enrolment v1", report, hashlib.sha256(text.encode()).digest())


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def _proof(**changes: Any) -> dict[str, Any]:
    text = token()
    return {
        "kind": "proof",
        "public_key": _public(LAS),
        "token": text,
        "proof": LAS.sign(signed(text, NONCE, CHANNEL)).hex(),
        "nonce": NONCE.hex(),
        **{name: value.hex() for name, value in CHANNEL.items()},
        **changes,
    }


def _messages() -> dict[str, dict[str, Any]]:
    enrolment = {
        "type": "enrolment",
        "public_key": _public(LAS),
        "token": "a.b.c",
        "proof": "07" * 64,
    }
    enrolled = {"type": "enrolled", "expires": NOW + 3600, "node": "node1"}
    fields = {"public_key": _public(LAS), "token": "a.b.c", "proof": "07" * 64}
    bad = "not-authentic"
    return {
        "enrol": {
            "kind": "opening",
            "bytes": frame({"type": "enrol", "protocol": "crannog-enrolment/1"}),
        },
        "challenge": _client("challenge", frame({"type": "challenge", "nonce": NONCE.hex()}))
        | {"event": {"nonce": NONCE.hex()}},
        "challenge-short": _client("challenge", frame({"type": "challenge", "nonce": "00"}))
        | {"error": "malformed"},
        "enrolment": _server(frame(enrolment)) | {"event": fields},
        "enrolment-unknown-field": _server(frame({**enrolment, "node": "a"}))
        | {"error": "malformed"},
        "enrolment-no-proof": _server(frame(_without(enrolment, "proof"))) | {"error": "malformed"},
        "enrolment-long-token": _server(frame({**enrolment, "token": "a" * 16_385}))
        | {"error": "too-large"},
        "enrolment-twice": _server(frame(enrolment) * 2) | {"error": "malformed"},
        "frame-too-large": _server("00010001") | {"error": "too-large"},
        "enrolled": _client("result", frame(enrolled))
        | {"event": {"expires": NOW + 3600, "node": "node1"}},
        "enrolled-by-hand": _client("result", frame({**enrolled, "expires": None}))
        | {"event": {"expires": None, "node": "node1"}},
        "enrolled-after-9999": _client("result", frame({**enrolled, "expires": 253402300800}))
        | {"error": "malformed"},
        "proof": _proof(),
        "proof-other-nonce": _proof(nonce="00" * 32, error=bad),
        "proof-other-exporter": _proof(exporter="02" * 32, error=bad),
        "proof-other-client": _proof(client_key=b"another".hex(), error=bad),
        "proof-other-server": _proof(server_key=b"another".hex(), error=bad),
        "proof-other-token": _proof(token="a.b.c", error=bad),
        "proof-other-key": _proof(public_key=_public(OTHER_LAS), error=bad),
    }


def _server(data: str) -> dict[str, Any]:
    return {"kind": "message", "end": "server", "bytes": data}


def _client(waiting: str, data: str) -> dict[str, Any]:
    return {"kind": "message", "end": "client", "waiting": waiting, "bytes": data}


# --- the list -------------------------------------------------------------------------------------

K1, K2, K3 = "11" * 32, "22" * 32, "33" * 32


def _admit(key: str, pod: str, at: int, outcome: Any, **more: Any) -> dict[str, Any]:
    """A LAS with `key` shows, `at` seconds after NOW, a token issued then, or at `issued`."""
    issued = more.get("issued", at)
    return {
        "do": "admit",
        "key": key,
        "at": at,
        "node": more.get("node", "node1"),
        "pod": pod,
        "issued": issued,
        "expires": issued + more.get("life", 3600),
        **({"error": outcome} if isinstance(outcome, str) else {"enrolled": outcome}),
    }


def _do(what: str, key: str) -> dict[str, Any]:
    return {"do": what, "key": key, "at": 0}


def _list(*steps: dict[str, Any], trusted: list[str], at: int) -> dict[str, Any]:
    return {"kind": "list", "steps": list(steps), "trusted": trusted, "at": at}


def _lists() -> dict[str, dict[str, Any]]:
    first = _admit(K1, "a", 0, 3600)
    return {
        "list-expires": _list(first, trusted=[], at=3600),
        "list-last-second": _list(first, trusted=[K1], at=3599),
        "list-renewed": _list(first, _admit(K1, "a", 3000, 6600), trusted=[K1], at=6599),
        "list-older-token": _list(
            first, _admit(K1, "a", 10, 3600, issued=-5, life=7200), trusted=[K1], at=3599
        ),
        "list-expiry-does-not-move-back": _list(
            first, _admit(K1, "b", 10, 3600, life=600), trusted=[K1], at=3599
        ),
        "list-same-pod-other-key": _list(
            first, _admit(K2, "a", 10, "conflict"), trusted=[K1], at=20
        ),
        "list-later-pod": _list(first, _admit(K2, "b", 10, 3610), trusted=[K2], at=20),
        "list-older-pod": _list(
            first, _admit(K2, "b", 10, "conflict", issued=-1), trusted=[K1], at=20
        ),
        "list-other-node-same-key": _list(
            first, _admit(K1, "b", 10, "conflict", node="node2"), trusted=[K1], at=20
        ),
        "list-two-nodes": _list(
            first, _admit(K2, "b", 10, 3610, node="node2"), trusted=[K1, K2], at=20
        ),
        "list-removed": _list(
            first, _do("remove", K1), _admit(K1, "a", 10, "denied"), trusted=[], at=20
        ),
        "list-removed-same-pod": _list(
            first, _do("remove", K1), _admit(K2, "a", 10, "denied"), trusted=[], at=20
        ),
        "list-removed-later-pod": _list(
            first, _do("remove", K1), _admit(K2, "b", 10, 3610), trusted=[K2], at=20
        ),
        "list-readmitted": _list(
            first,
            _do("remove", K1),
            _do("readmit", K1),
            _admit(K2, "a", 10, "conflict"),
            _admit(K1, "a", 10, 3610),
            trusted=[K1],
            at=20,
        ),
        "list-by-hand": _list(
            _do("add", K1),
            _admit(K1, "a", 0, None),
            _admit(K2, "a", 10, "conflict"),
            trusted=[K1],
            at=100_000,
        ),
        "list-moved-pod": _list(
            first,
            _admit(K1, "b", 10, 3600, life=600),
            _admit(K2, "b", 20, "conflict"),
            _admit(K3, "c", 30, 3630),
            trusted=[K3],
            at=40,
        ),
    }


def vectors() -> dict[str, dict[str, Any]]:
    """Every vector by its file's name."""
    return {**_messages(), **_tokens(), **_lists()}


def text(vector: dict[str, Any]) -> str:
    """The file's text."""
    return json.dumps(vector, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, vector in vectors().items():
        (Path(__file__).parent / f"{name}.json").write_text(text(vector))
