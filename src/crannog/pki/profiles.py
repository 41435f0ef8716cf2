"""What each certificate of the CAS says: names, validity, extensions. RFC 5280 section 4.

The chain is `cas` (self-signed) → `cas-instance` → `cas-session:NAME` → a session's own
certificate, whose common name is its secret's; `cas-instance` also signs the certificate that the
CAS shows on 8081 and 18765. All keys of the CAS are P-256, signatures ECDSA with SHA-256.

| profile | CA | path length | key usage | extended | ends |
|---|---|---|---|---|---|
| root | yes, critical | – | keyCertSign, cRLSign | – | 4096 |
| instance | yes, critical | – | keyCertSign, cRLSign | – | 4096 |
| session | yes, critical | 1 (a session's own CA may follow) | keyCertSign, cRLSign | – | 4096 |
| server | no, critical | – | digitalSignature | serverAuth | 4096 |
| leaf | no, critical | – | digitalSignature | as the session says, or none | as it says, or 4096 |
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

# Practically unlimited, as the reference has it (year 4096).
END = datetime(4096, 1, 1, tzinfo=UTC)
# Programs may run on machines whose clock is behind.
SKEW = timedelta(hours=1)
MAX_COMMON_NAME = 64  # ub-common-name, RFC 5280 appendix A.1

ROOT_NAME = "cas"
INSTANCE_NAME = "cas-instance"
SESSION_PREFIX = "cas-session:"
SERVER_NAMES = ("cas", "localhost")

SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH


@dataclass(frozen=True, slots=True)
class Profile:
    """What a certificate of a kind says besides its name and key.

    Attributes:
        authority: whether it may sign certificates.
        path_length: how many authorities may follow; None for any number.
        extended: the extended key usages; none leaves the extension out.
    """

    authority: bool
    path_length: int | None = None
    extended: tuple[ObjectIdentifier, ...] = ()


ROOT = Profile(authority=True)
INSTANCE = Profile(authority=True)
SESSION = Profile(authority=True, path_length=1)
SERVER = Profile(authority=False, extended=(SERVER_AUTH,))
LEAF = Profile(authority=False)
SERVER_LEAF = SERVER
CLIENT_LEAF = Profile(authority=False, extended=(CLIENT_AUTH,))


def common_name(text: str) -> str:
    """`text` where a common name may hold it, else its beginning and 16 hex digits of its SHA-256.

    RFC 5280 allows 64 characters; session names have up to 512.
    """
    if len(text) <= MAX_COMMON_NAME:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return f"{text[: MAX_COMMON_NAME - 17]}~{digest}"


def name_of(text: str) -> x509.Name:
    """The distinguished name that consists of the common name `text` only."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name(text))])


def session_name(session: str) -> str:
    """The common name of a session's authority."""
    return common_name(SESSION_PREFIX + session)
