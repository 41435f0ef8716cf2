"""Who may read, update and extend a session. Everything that is not granted is denied.

Decides from the session, and from the certificate whose key the requester's TLS connection proved.
In 0.1 and 0.2 an entry means one whole certificate, in 0.3 its public key, so that a renewed
certificate keeps its rights there (reference, 1.4). Validity dates and issuers mean nothing here:
certificates are names for keys.
"""

from __future__ import annotations

import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass, replace
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from crannog import keyhash
from crannog.errors import AlreadyExists, Conflict, Denied, FormatError, NotFound
from crannog.session.document import (
    Certificate,
    KeyHash,
    Keyword,
    Language,
    PemHash,
    Principal,
    Service,
    Session,
)

SESSION_EXISTS: Final = "Session already exists, please specify predecessor hash"
SESSION_NOT_FOUND: Final = "Session not found"

_PEM = re.compile(
    r"-----BEGIN CERTIFICATE-----\n([A-Za-z0-9+/=\n]+)\n-----END CERTIFICATE-----\n?\Z"
)
_MAX_CERTIFICATE = 64 * 1024


@dataclass(frozen=True, slots=True)
class Requester:
    """The holder of a client certificate, as the TLS handshake proved it.

    Attributes:
        certificate: DER.
        pem: the same in the one form that `Certificate.pem` has.
        spki: the public key, DER SubjectPublicKeyInfo.
        pem_sha256: what `sha256sum cert.pem` prints: lower-case hex.
        key_hash: the public key's hash, as 0.3 access lists may name it.
    """

    certificate: bytes
    pem: str
    spki: bytes
    pem_sha256: str
    key_hash: str


def requester(certificate: bytes) -> Requester:
    """Who holds the DER `certificate`; `FormatError` where it is none that can be read."""
    if len(certificate) > _MAX_CERTIFICATE:
        raise FormatError(f"certificate has {len(certificate)} bytes, at most {_MAX_CERTIFICATE}")
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        spki = parsed.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise FormatError(
            "the certificate cannot be read: it is not X.509, or its kind of key is not known"
        ) from error
    pem = _to_pem(certificate)
    digest = hashlib.sha256(pem.encode()).hexdigest()
    return Requester(certificate, pem, spki, digest, keyhash.key_hash(spki))


def parse_certificate(text: str) -> Certificate:
    """The certificate that PEM `text` holds, in its one form.

    Raises:
        FormatError: not exactly one PEM certificate, or one that cannot be read.
    """
    lines = [line.strip() for line in text.replace("\r\n", "\n").strip().split("\n")]
    match = _PEM.match("\n".join(lines))
    if match is None:
        raise FormatError("not one PEM certificate and nothing else")
    try:
        der = binascii.a2b_base64(match[1].replace("\n", ""), strict_mode=True)
    except binascii.Error as error:
        raise FormatError("the base64 of a PEM certificate is malformed") from error
    return Certificate(requester(der).pem)


def certificate_der(certificate: Certificate) -> bytes:
    """The DER of `certificate`."""
    return binascii.a2b_base64("".join(certificate.pem.split("\n")[1:-2]))


def parse_key_hash(text: str) -> KeyHash:
    """The key hash `text`, its form and checksum verified; `FormatError` otherwise."""
    keyhash.parse_key_hash(text)
    return KeyHash(text)


def may_read(session: Session, who: Requester | None) -> bool:
    """Whether `who` may read the session's text and hash; None is a client without certificate."""
    return _granted(session, session.access_policy.read, who)


def may_update(session: Session, who: Requester | None) -> bool:
    """Whether `who` may replace this version by another."""
    return _granted(session, session.access_policy.update, who)


def may_create_sessions(session: Session, who: Requester | None) -> bool:
    """Whether `who` may create sessions below this one, once namespaces are built."""
    return _granted(session, session.access_policy.create_sessions, who)


def token_matches(session: Session, token: str | None) -> bool:
    """Whether a program showed the session's service access token; True where there is none."""
    expected = session.security.service_access_token
    if expected is None:
        return True
    # compare_digest: the time it takes says nothing about where the two differ.
    return hmac.compare_digest(expected.encode(), (token or "").encode("utf-8", "replace"))


def one_time_secret(session: Session, service: Service) -> tuple[str, str] | None:
    """Whose codes a program of `service` has to show: the place of the shared secret, and it.

    Two services with one secret have one place, so that a code is good once for both of them: the
    first in the document's order. None where none is asked for.
    """
    common = session.security.one_time_password_shared_secret
    secret = service.one_time_password_shared_secret or common
    if secret is None:
        return None
    if secret == common:
        return "security", secret
    for one in session.services:
        if one.one_time_password_shared_secret == secret:
            return f"services/{one.name}", secret
    return f"services/{service.name}", secret


def with_creator(session: Session, who: Requester, previous: Session | None) -> Session:
    """`session` as uploaded by `who`, with the creator that its access lists may refer to.

    No list says CREATOR: no creator is kept, and the document may not give one (`load.py`).
    Otherwise the creator is, in this order: what the document gives, where that is the uploader or
    the previous version's creator (so a text that was read back can be posted again); the previous
    version's creator, so that an update by somebody else locks nobody out; the uploader.

    Args:
        session: as loaded.
        who: the uploader.
        previous: the version that this one replaces, None for the first.

    Raises:
        Denied: the document names a creator who is neither.
    """
    if not session.access_policy.needs_creator:
        return replace(session, creator=None)
    uploader = Certificate(who.pem)
    before = previous.creator if previous is not None else None
    if session.creator is None:
        return replace(session, creator=before or uploader)
    if session.creator == before or _same(session.language, session.creator, who):
        return session
    raise Denied(
        "creator is neither the certificate of this request nor the creator of the session so far",
        hint="leave creator out: the CAS writes it",
    )


def check_predecessor(session: Session, current: str | None) -> None:
    """The rule of linear history: a new version names the hash of the one it replaces.

    Args:
        session: the version to be stored.
        current: the hash of the newest stored version of that name, None where there is none.

    Raises:
        AlreadyExists: the name is taken and no predecessor is given (the reference's text).
        NotFound: a predecessor of a session that is not there.
        Conflict: another version than the newest.
    """
    if current is None:
        if session.predecessor is not None:
            raise NotFound(SESSION_NOT_FOUND, hint="leave predecessor out to create the session")
        return
    if session.predecessor is None:
        raise AlreadyExists(
            SESSION_EXISTS,
            hint="read the session's hash and write it as predecessor, or choose another name",
        )
    if session.predecessor != current:
        raise Conflict(
            "predecessor is not the newest version of this session",
            hint="somebody has updated it: read it again, merge, and name the new hash",
        )


def _granted(session: Session, entries: tuple[Principal, ...], who: Requester | None) -> bool:
    return any(_matches(session, entry, who) for entry in entries)


def _matches(session: Session, entry: Principal, who: Requester | None) -> bool:
    if entry is Keyword.ANY:
        return True
    if who is None:
        return False
    match entry:
        case Keyword.CREATOR:
            # Without a recorded creator nobody is it.
            return session.creator is not None and _same(session.language, session.creator, who)
        case Certificate():
            return _same(session.language, entry, who)
        case PemHash():
            return entry.digest == who.pem_sha256
        case KeyHash():
            return entry.text == who.key_hash
        case _:
            return False


def _same(language: Language, certificate: Certificate, who: Requester) -> bool:
    if certificate.pem == who.pem:
        return True
    if language is not Language.V0_3:
        return False
    return requester(certificate_der(certificate)).spki == who.spki


def _to_pem(der: bytes) -> str:
    text = binascii.b2a_base64(der, newline=False).decode()
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return "\n".join(["-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""])
