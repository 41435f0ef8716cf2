"""Kubernetes service account tokens: who signed one, for whom, until when, for which pod. Pure.

    read      three parts; the header says which key, and nothing else        read_header
    verify    the signature, with that key and its own algorithm              verify_token
    claims    only then: decoded strictly, unknown ones refused               parse_claims
    judge     issuer, audience, subject, time, binding                        judge

Every function raises `FormatError`, `IntegrityError` or `Denied`, and no message holds the token.
"""

from __future__ import annotations

import base64
import binascii
import re
from datetime import datetime
from typing import NamedTuple

from joserfc.errors import JoseError
from joserfc.jws import JWSRegistry, deserialize_compact

from crannog.cas.enrolment.key_set import MAX_KID, IssuerKey
from crannog.errors import Denied, FormatError, IntegrityError, TooLarge
from crannog.exchange.limits import SERVICE_TOKEN
from crannog.wire import Fields, Json, parse_object

ALGORITHMS = ("RS256", "ES256")
SKEW_SECONDS = 30
"""How far the issuer's clock may be ahead of ours. An expired token is expired."""

MAX_LIFE_SECONDS = 7200
"""From `iat` to `exp`. What is stolen is of use for no longer."""

_SUBJECT = "system:serviceaccount:"
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")
_NAME_SIZE = 253
_UID_SIZE = 128
_HEADER_SIZE = 1024
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+\Z")


class Header(NamedTuple):
    """What a token says of its signature, before anything is authentic."""

    algorithm: str
    kid: str


class Expected(NamedTuple):
    """What a CAS wants of a token.

    Attributes:
        issuer: the exact `iss`.
        audience: the only audience.
        subjects: the service accounts that may enrol, `system:serviceaccount:NAMESPACE:NAME`.
    """

    issuer: str
    audience: str
    subjects: frozenset[str]


class Claims(NamedTuple):
    """The claims of an authentic token; times in seconds since the epoch."""

    issuer: str
    audiences: tuple[str, ...]
    subject: str
    issued: int
    not_before: int
    expires: int
    token_id: str
    namespace: str
    account: str
    pod: str
    pod_uid: str
    node: str
    node_uid: str


def read_header(token: str) -> Header:
    """Which key signed the token, by its own word.

    Raises:
        FormatError, TooLarge: no compact JWS, or one with more in its header than the key's name.
        Denied: an algorithm that is not taken.
    """
    if len(token) > SERVICE_TOKEN:
        raise TooLarge(f"token has {len(token)} characters, expected at most {SERVICE_TOKEN}")
    parts = token.split(".")
    if len(parts) != 3 or not all(_BASE64URL.match(part) for part in parts):
        raise FormatError(
            "token is not of the form HEADER.CLAIMS.SIGNATURE",
            hint="it has to be the text of a projected service account token",
        )
    data, *_ = (
        _decode(part, f"token's {what}")
        for part, what in zip(parts, ("header", "claims", "signature"), strict=True)
    )
    fields = Fields(parse_object(data, limit=_HEADER_SIZE, what="token's header"), "token's header")
    algorithm, kid = fields.text("alg", limit=20), fields.text("kid", limit=MAX_KID)
    if fields.has("typ"):
        fields.constant("typ", "JWT")
    fields.end()
    if algorithm not in ALGORITHMS:
        raise Denied(f"token is signed by {algorithm!r}, expected {' or '.join(ALGORITHMS)}")
    return Header(algorithm, kid)


def verify_token(token: str, header: Header, key: IssuerKey) -> bytes:
    """The claims' bytes, signed by `key`; nothing of them was looked at.

    Args:
        token: its text.
        header: as `read_header` gives it.
        key: the issuer's of that name.

    Raises:
        IntegrityError: the key is for another algorithm, or did not sign this.
    """
    if header.algorithm != key.algorithm:
        raise IntegrityError(
            f"token is signed by {header.algorithm}, and its issuer's key is for {key.algorithm}"
        )
    registry = JWSRegistry(algorithms=[key.algorithm])
    try:
        return bytes(deserialize_compact(token, key.key, registry=registry).payload)
    except (JoseError, ValueError, TypeError, RecursionError) as error:
        raise IntegrityError("token is not signed by its issuer's key") from error


def parse_claims(data: bytes) -> Claims:
    """The claims of an authentic token.

    Raises:
        FormatError, TooLarge: one is missing, unknown or of another type.
        Denied: the token is not bound to a pod on a node.
    """
    fields = Fields(parse_object(data, limit=SERVICE_TOKEN, what="token"), "token")
    audiences = fields.texts("aud", limit=16, characters=1024)
    issuer = fields.text("iss", limit=1024)
    subject = fields.text("sub", limit=1024)
    expires, issued = fields.number("exp"), fields.number("iat")
    not_before = fields.number("nbf")
    token_id = _plain(fields.text("jti", limit=_UID_SIZE), "token: jti")
    bound = Fields(fields.object("kubernetes.io"), "token: kubernetes.io")
    fields.end()
    for what in ("pod", "node"):
        if not bound.has(what):
            raise Denied(
                f"token is not bound to a {what}",
                hint="project it into the LAS's pod (volumes: projected: serviceAccountToken); "
                "the node is named by Kubernetes 1.30 and later",
            )
    namespace = _name(bound.text("namespace", limit=_NAME_SIZE), "namespace")
    account, _ = _object(bound.object("serviceaccount"), "serviceaccount")
    pod, pod_uid = _object(bound.object("pod"), "pod")
    node, node_uid = _object(bound.object("node"), "node")
    bound.end()
    return Claims(
        issuer=issuer,
        audiences=audiences,
        subject=subject,
        issued=issued,
        not_before=not_before,
        expires=expires,
        token_id=token_id,
        namespace=namespace,
        account=account,
        pod=pod,
        pod_uid=pod_uid,
        node=node,
        node_uid=node_uid,
    )


def judge(claims: Claims, expected: Expected, now: datetime) -> None:
    """Return when a token with these claims may enrol a LAS now.

    Raises:
        Denied: which claim is not what it has to be.
    """
    seconds = now.timestamp()
    if claims.issuer != expected.issuer:
        raise Denied(
            f"token's issuer is {_short(claims.issuer)}, expected {expected.issuer!r}",
            hint="kubectl get --raw /.well-known/openid-configuration tells the issuer",
        )
    if claims.audiences != (expected.audience,):
        found = ", ".join(_short(one) for one in claims.audiences) or "none"
        raise Denied(
            f"token's audience is {found}, expected {expected.audience!r} and no other",
            hint="set audience of the serviceAccountToken volume",
        )
    own = f"{_SUBJECT}{claims.namespace}:{claims.account}"
    if claims.subject != own:
        raise Denied(f"token's subject is {_short(claims.subject)}, and it is bound to {own!r}")
    if claims.subject not in expected.subjects:
        raise Denied(
            f"service account {own!r} may not enrol a LAS at this CAS",
            hint=f"crannog cas serve --las-subject {own}",
        )
    for name, moment in (("iat", claims.issued), ("nbf", claims.not_before)):
        if moment > seconds + SKEW_SECONDS:
            raise Denied(
                f"token's {name} is {moment - int(seconds)} s in the future",
                hint="are the clocks of the CAS and of the cluster right?",
            )
    life = claims.expires - claims.issued
    if not 0 < life <= MAX_LIFE_SECONDS:
        raise Denied(
            f"token lives for {life} s, expected at most {MAX_LIFE_SECONDS}",
            hint="set expirationSeconds of the serviceAccountToken volume to 3600",
        )
    if seconds >= claims.expires:
        raise Denied(
            f"token expired {int(seconds) - claims.expires} s ago",
            hint="the kubelet replaces it in time: does the LAS read the mounted file itself?",
        )


def check_subject(text: str) -> str:
    """`text`, where it can be the subject of a service account's token.

    Raises:
        FormatError: it cannot.
    """
    namespace, _, account = text.removeprefix(_SUBJECT).partition(":")
    whole = text.startswith(_SUBJECT) and _NAME.match(namespace) and _NAME.match(account)
    if not whole or max(len(namespace), len(account)) > _NAME_SIZE:
        raise FormatError(f"subject is {_short(text)}, expected {_SUBJECT}NAMESPACE:NAME")
    return text


def _object(value: dict[str, Json], what: str) -> tuple[str, str]:
    fields = Fields(value, f"token: kubernetes.io: {what}")
    name = _name(fields.text("name", limit=_NAME_SIZE), what)
    uid = _plain(fields.text("uid", limit=_UID_SIZE), f"token: {what}'s uid")
    fields.end()
    return name, uid


def _name(text: str, what: str) -> str:
    # What the API server takes for a name; it stands in log lines and in the audit log.
    if not _NAME.match(text):
        raise FormatError(f"token: name of {what} is {_short(text)}, expected a Kubernetes name")
    return text


def _plain(text: str, what: str) -> str:
    if not (text and text.isascii() and text.isprintable()):
        raise FormatError(f"{what} is {_short(text)}, expected an identifier")
    return text


def _short(text: str) -> str:
    return repr(text[:120])


def _decode(text: str, what: str) -> bytes:
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{what} is not base64url") from error
    # One text for one value.
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != text:
        raise FormatError(f"{what} is not canonical base64url")
    return data
