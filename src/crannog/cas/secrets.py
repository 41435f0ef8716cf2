"""Secrets of a session version: generated once, kept across updates as the reference says.

`generate` makes what a new version needs; `values.py` gives it in the forms that are asked for.
What is generated lives in a `Bundle`, sealed beside the version's document; explicit values stay in
the document itself. docs/secrets.md lists every key and where it is kept.

On an update (reference, section 2.7): ascii and binary keep their value where kind and size are the
same; a private key only where both versions say `migrate: true`; a certificate never, though it is
made for the same key where that is kept. `migrate: never` on either side generates anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from crannog.errors import FormatError, IntegrityError, TooLarge
from crannog.pki import issue, profiles
from crannog.pki.authority import Authority
from crannog.pki.identity import parse_certificate
from crannog.pki.issue import Issuer, Randomness
from crannog.pki.keys import (
    KeyType,
    PrivateKey,
    generate_key,
    generate_p256,
    key_der,
    parse_key,
)
from crannog.session.document import Endpoint, Migrate, Secret, SecretKind, Session
from crannog.session.document import KeyType as SessionKeyType
from crannog.wire import Fields, Json, encode_base64, encode_json, parse_object

FORMAT = "crannog secrets 1"
MAX_BUNDLE = 64 * 1024 * 1024
_MAX_VALUE = 1024 * 1024
MAX_KEYS = 256
MAX_RSA_KEYS = 8
MAX_GENERATED = 16 * 1024 * 1024

# Printable ASCII without the space, so that a value is one word wherever it is put.
_CHARACTERS = bytes(range(0x21, 0x7F))
_PROFILES = {
    None: profiles.LEAF,
    Endpoint.SERVER: profiles.SERVER_LEAF,
    Endpoint.CLIENT: profiles.CLIENT_LEAF,
}

GenerateKey = Callable[[KeyType], PrivateKey]


@dataclass(frozen=True, slots=True)
class Bundle:
    """What the CAS generated for one version of a session.

    Attributes:
        values: ascii and binary values by name.
        keys: private keys by the name of their secret, PKCS#8 DER; 0.2 certificates' too.
        certificates: certificates by the name of their secret, DER.
        authority: certificate DER and key PKCS#8 DER of `cas-session:NAME`, where one is needed.
    """

    values: Mapping[str, bytes] = field(default_factory=dict)
    keys: Mapping[str, bytes] = field(default_factory=dict)
    certificates: Mapping[str, bytes] = field(default_factory=dict)
    authority: tuple[bytes, bytes] | None = None

    def __repr__(self) -> str:
        """Names only: every value in here is a secret."""
        names = sorted({*self.values, *self.keys, *self.certificates})
        return f"Bundle({', '.join(names)})"

    def encode(self) -> bytes:
        """The canonical JSON that the store seals."""
        groups = (("values", self.values), ("keys", self.keys), ("certificates", self.certificates))
        message: dict[str, Json] = {
            name: {key: encode_base64(value) for key, value in group.items()}
            for name, group in groups
        }
        message["format"] = FORMAT
        message["authority"] = (
            [encode_base64(part) for part in self.authority] if self.authority else []
        )
        return encode_json(message)


def parse_bundle(data: bytes) -> Bundle:
    """The bundle of those bytes; `FormatError` for anything that `encode` does not write."""
    fields = Fields(parse_object(data, limit=MAX_BUNDLE, what="secrets"), "secrets")
    fields.constant("format", FORMAT)
    values, keys, certificates = (
        _group(fields.object(name), name) for name in ("values", "keys", "certificates")
    )
    authority = fields.items("authority", limit=2)
    if len(authority) not in (0, 2):
        raise FormatError(f"secrets: authority has {len(authority)} parts, expected 0 or 2")
    parts = [_decode(part, "authority") for part in authority]
    fields.end()
    return Bundle(values, keys, certificates, (parts[0], parts[1]) if parts else None)


def generate(
    session: Session,
    previous: tuple[Session, Bundle] | None,
    authority: Authority,
    *,
    now: datetime,
    random: Randomness,
    generate_key: GenerateKey = generate_key,
) -> Bundle:
    """What a new version of a session needs: kept from the previous one, or made.

    Args:
        session: the version that is about to be stored.
        previous: the version it replaces and its bundle; None for the first.
        authority: signs the session's own authority, where its certificates need one.
        now: the present: the beginning of certificates.
        random: randomness for values and serial numbers.
        generate_key: makes private keys.

    Raises:
        TooLarge: more keys than the CAS makes for one request.
    """
    _check_effort(session)
    values: dict[str, bytes] = {}
    keys: dict[str, bytes] = {}
    for secret in session.secrets:
        if secret.value is not None:
            continue
        kept = _kept(secret, previous)
        if secret.kind is SecretKind.ASCII:
            values[secret.name] = kept or random_ascii(secret.size or 0, random)
        elif secret.kind is SecretKind.BINARY:
            values[secret.name] = kept or random(secret.size or 0)
        elif secret.kind is SecretKind.PRIVATE_KEY:
            kind = KeyType(secret.key_type.value) if secret.key_type else KeyType.P256
            keys[secret.name] = kept or key_der(generate_key(kind))
        elif secret.private_key is None:
            keys[secret.name] = key_der(generate_key(KeyType.P256))
    certified = [one for one in session.secrets if _is_generated_certificate(one)]
    session_authority = None
    if any(one.private_key is None for one in certified):
        session_authority = _session_authority(session, previous, authority, now=now, random=random)
    certificates = {
        one.name: certify(session, one, keys, session_authority, now=now, random=random)
        for one in certified
    }
    return Bundle(
        values,
        keys,
        {name: found.public_bytes(Encoding.DER) for name, found in certificates.items()},
        _stored_issuer(session_authority),
    )


def random_ascii(size: int, random: Randomness) -> bytes:
    """`size` characters of printable ASCII, each equally likely, without the space."""
    found = bytearray()
    fair = 256 - 256 % len(_CHARACTERS)  # above it a remainder would favour the first characters
    while len(found) < size:
        found += bytes(_CHARACTERS[byte % len(_CHARACTERS)] for byte in random(size) if byte < fair)
    return bytes(found[:size])


def _is_generated_certificate(secret: Secret) -> bool:
    return secret.kind is SecretKind.X509 and secret.value is None


def _check_effort(session: Session) -> None:
    # Anybody may post a session, and an RSA key takes the CAS half a second.
    made = [one for one in session.secrets if one.value is None]
    keys = [one for one in made if one.kind in (SecretKind.PRIVATE_KEY, SecretKind.X509)]
    rsa = [one for one in keys if one.key_type in (SessionKeyType.RSA2048, SessionKeyType.RSA3072)]
    for what, found, limit in (("keys", keys, MAX_KEYS), ("RSA keys", rsa, MAX_RSA_KEYS)):
        if len(found) > limit:
            raise TooLarge(
                f"session {session.name!r} asks for {len(found)} {what}, expected at most {limit}",
                hint="give values, or spread them over several sessions",
            )
    size = sum(one.size or 0 for one in made)
    if size > MAX_GENERATED:
        raise TooLarge(
            f"session {session.name!r} asks for secrets of {size} bytes, "
            f"expected at most {MAX_GENERATED}"
        )


def _kept(secret: Secret, previous: tuple[Session, Bundle] | None) -> bytes | None:
    """The value of the previous version that this secret keeps, or None."""
    if previous is None:
        return None
    session, bundle = previous
    old = session.secret(secret.name)
    if old is None or old.value is not None or old.kind is not secret.kind:
        return None
    if Migrate.NEVER in (old.migrate, secret.migrate):
        return None
    if secret.kind in (SecretKind.ASCII, SecretKind.BINARY):
        return bundle.values.get(secret.name) if old.size == secret.size else None
    if secret.kind is SecretKind.PRIVATE_KEY:
        both = old.migrate is secret.migrate is Migrate.ALWAYS
        return bundle.keys.get(secret.name) if both and old.key_type is secret.key_type else None
    return None


def _session_authority(
    session: Session,
    previous: tuple[Session, Bundle] | None,
    authority: Authority,
    *,
    now: datetime,
    random: Randomness,
) -> Issuer:
    # Kept across versions: it is what clients of the session's services trust.
    kept = parse_issuer(previous[1].authority) if previous else None
    return kept or authority.issue_session(session.name, generate_p256(), now=now, random=random)


def _stored_issuer(issuer: Issuer | None) -> tuple[bytes, bytes] | None:
    if issuer is None:
        return None
    return issuer.certificate.public_bytes(Encoding.DER), key_der(issuer.key)


def parse_issuer(stored: tuple[bytes, bytes] | None) -> Issuer | None:
    """The session's own authority as a bundle holds it."""
    if stored is None:
        return None
    what = "the session's authority"
    return Issuer(parse_certificate(stored[0], what=what), parse_key(stored[1], what=what))


def certify(
    session: Session,
    secret: Secret,
    keys: Mapping[str, bytes],
    issuer: Issuer | None,
    *,
    now: datetime,
    random: Randomness,
) -> x509.Certificate:
    """The certificate of an x509 secret: signed by the session in 0.2, by itself in 0.3.

    Args:
        session: the version that the secret is of.
        secret: of kind x509, without a value.
        keys: the generated keys, PKCS#8 DER, by the name of their secret.
        issuer: the session's own authority, where a certificate needs it.
        now: the beginning of its validity.
        random: randomness for the serial number.
    """
    if secret.private_key is None:
        key = parse_key(stored_value(keys, secret.name), what=f"secret {secret.name!r}")
        signer = issuer
    else:
        named = session.secret(secret.private_key)
        if named is not None and named.value is not None:
            key = parse_key(named.value.encode(), what=f"secret {named.name!r}")
        else:
            key = parse_key(stored_value(keys, secret.private_key), what=f"secret {secret.name!r}")
        signer = None
    until = profiles.END
    if secret.valid_for is not None:
        until = min(until, now + timedelta(seconds=secret.valid_for))
    return issue.issue(
        signer,
        _PROFILES[secret.endpoint],
        secret.common_name or (secret.dns[0] if secret.dns else secret.name),
        key,
        san=issue.alternative_names(secret.dns),
        until=until,
        now=now,
        random=random,
    )


def stored_value(group: Mapping[str, bytes], name: str) -> bytes:
    """The value of that secret; `IntegrityError` where the bundle has none."""
    found = group.get(name)
    if found is None:
        raise IntegrityError(f"the value of secret {name!r} is missing from what was stored")
    return found


def _group(value: dict[str, Json], what: str) -> dict[str, bytes]:
    return {name: _decode(one, what) for name, one in value.items()}


def _decode(value: Json, what: str) -> bytes:
    return Fields({"value": value}, f"secrets: {what}").data("value", limit=_MAX_VALUE)
