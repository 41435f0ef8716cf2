"""A cluster's issuer of service account tokens, for tests: keys, and tokens as an API server makes.

It signs whatever it is told to, right or wrong, with `cryptography` alone: nothing of the code that
verifies tokens is used. Its HTTPS end is `crannog.testing.issuer_server`.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

ISSUER = "https://kubernetes.default.svc.cluster.local"
AUDIENCE = "crannog-cas"

Sign: TypeAlias = Callable[[bytes], bytes]
Json: TypeAlias = dict[str, Any]


class SigningKey(NamedTuple):
    """A key that signs tokens; its `kid` is made as Kubernetes does, from the public key."""

    algorithm: str
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

    @property
    def kid(self) -> str:
        """Under which name it is published."""
        return base64url(hashlib.sha256(self._public(Encoding.DER)).digest())

    @property
    def public_pem(self) -> bytes:
        """The public key's SubjectPublicKeyInfo in PEM."""
        return self._public(Encoding.PEM)

    def _public(self, encoding: Encoding) -> bytes:
        return self.private.public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)

    def sign(self, data: bytes) -> bytes:
        """The signature of a JWS (RFC 7518 sections 3.3 and 3.4) over `data`."""
        if isinstance(self.private, rsa.RSAPrivateKey):
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        size = (self.private.curve.key_size + 7) // 8
        r, s = decode_dss_signature(self.private.sign(data, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(size, "big") + s.to_bytes(size, "big")

    def jwk(self) -> dict[str, str]:
        """The public key as the API server publishes it."""
        common = {"use": "sig", "kid": self.kid, "alg": self.algorithm}
        if isinstance(self.private, rsa.RSAPrivateKey):
            public = self.private.public_key().public_numbers()
            return {"kty": "RSA", **common, "n": _number(public.n), "e": _number(public.e)}
        size = (self.private.curve.key_size + 7) // 8
        point = self.private.public_key().public_numbers()
        names = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
        curve = {"crv": names.get(self.private.curve.name, self.private.curve.name)}
        x, y = (base64url(one.to_bytes(size, "big")) for one in (point.x, point.y))
        return {"kty": "EC", **common, **curve, "x": x, "y": y}


def rsa_key(bits: int = 2048) -> SigningKey:
    """A new RSA key, for RS256."""
    return SigningKey("RS256", rsa.generate_private_key(65537, bits))


def ec_key(curve: ec.EllipticCurve | None = None) -> SigningKey:
    """A new key on P-256, or on another curve, for ES256."""
    return SigningKey("ES256", ec.generate_private_key(curve or ec.SECP256R1()))


class Pod(NamedTuple):
    """A pod to which a token is bound; uids are made from the names where none are given."""

    name: str = "las-x7k2p"
    node: str = "node1"
    namespace: str = "kube-system"
    account: str = "las"
    uid: str = ""

    @property
    def subject(self) -> str:
        """The `sub` of its service account."""
        return f"system:serviceaccount:{self.namespace}:{self.account}"

    def claim(self) -> Json:
        """What stands under `kubernetes.io` in its tokens."""
        return {
            "namespace": self.namespace,
            "node": {"name": self.node, "uid": _uid(self.node)},
            "pod": {"name": self.name, "uid": self.uid or _uid(self.name)},
            "serviceaccount": {"name": self.account, "uid": _uid(self.account)},
        }


class Issuer:
    """A cluster as far as tokens go.

    Args:
        name: its `iss`.
        key: the first that it signs with; a new P-256 key where none is given.

    Attributes:
        name: its `iss`.
        key: what it signs with now.
        published: the keys in its key set, in that order.
    """

    def __init__(self, name: str = ISSUER, *, key: SigningKey | None = None) -> None:
        self.name = name
        self.key = key or ec_key()
        self.published = [self.key]
        self._count = 0

    def rotate(self, key: SigningKey | None = None) -> None:
        """Sign with another key from now on; the old ones stay published."""
        self.key = key or ec_key()
        self.published.append(self.key)

    def key_set(self) -> bytes:
        """The JSON Web Key Set."""
        return json.dumps({"keys": [one.jwk() for one in self.published]}).encode()

    def claims(self, pod: Pod, *, issued: int, life: int = 3600, audience: str = AUDIENCE) -> Json:
        """The claims of a token for `pod`: `issued` in seconds since the epoch, `life` in seconds.

        As with an API server no two have the same `jti`.
        """
        self._count += 1
        return {
            "aud": [audience],
            "exp": issued + life,
            "iat": issued,
            "iss": self.name,
            "jti": _uid(f"token {self._count}"),
            "kubernetes.io": pod.claim(),
            "nbf": issued,
            "sub": pod.subject,
        }

    def token(self, pod: Pod, *, issued: int, life: int = 3600, audience: str = AUDIENCE) -> str:
        """A token as a projected volume has it."""
        return self.sign(self.claims(pod, issued=issued, life=life, audience=audience))

    def sign(self, claims: Json, header: Mapping[str, Any] | None = None) -> str:
        """A token with these claims, signed with the key of now; `header` replaces its header."""
        return compact(header or self.header(), claims, self.key.sign)

    def header(self) -> dict[str, str]:
        """The header of its tokens."""
        return {"alg": self.key.algorithm, "kid": self.key.kid}


def compact(
    header: Mapping[str, Any] | bytes, claims: Mapping[str, Any] | bytes, sign: Sign
) -> str:
    """A compact JWS (RFC 7515 section 7.1) of objects, or of bytes as they are."""
    both = (header, claims)
    parts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in both]
    text = ".".join(base64url(part) for part in parts)
    return f"{text}.{base64url(sign(text.encode()))}"


def symmetric(secret: bytes) -> Sign:
    """What signs by HS256 with that secret."""
    return lambda data: hmac.digest(secret, data, "sha256")


def base64url(data: bytes) -> str:
    """RFC 7515's base64url, without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _number(value: int) -> str:
    return base64url(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def _uid(text: str) -> str:
    found = hashlib.sha256(text.encode()).hexdigest()
    return f"{found[:8]}-{found[8:12]}-4{found[12:15]}-8{found[15:18]}-{found[18:30]}"
