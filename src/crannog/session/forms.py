"""Which forms of a value each kind of secret offers, by the suffix of the reference.

The reference's table (2.8), for the kinds that are built. Both spellings are taken in every
language: dots as in 0.2, colons as in 0.3. `.chain` and `:chain` differ on purpose, as there:
the dotted one begins with the root and ends with the certificate, the other runs from the first
issuer to the root and leaves the certificate out.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType

from crannog.errors import FormatError
from crannog.session.document import Language, Secret, SecretKind


class Form(Enum):
    """How a secret's value is written where it is put in."""

    TEXT = "text"
    RAW = "bin"
    HEX = "hex"
    BASE64 = "base64"
    BASE64URL = "base64url"
    BASE32 = "base32"
    BASE32NOPAD = "base32nopad"
    PRIVATE_KEY_PEM = "private key, PKCS#8 PEM"
    PRIVATE_KEY_DER = "private key, PKCS#8 DER"
    CERTIFICATE_PEM = "certificate, PEM"
    CERTIFICATE_DER = "certificate, DER"
    CHAIN_UPWARD = "chain: first issuer to root, PEM"
    CHAIN_DOWNWARD = "chain: root to certificate, PEM"


_FORMS: Mapping[SecretKind, Mapping[str, Form]] = MappingProxyType(
    {
        SecretKind.ASCII: {"": Form.TEXT},
        SecretKind.BINARY: {
            "": Form.RAW,
            ":bin": Form.RAW,
            ":hex": Form.HEX,
            ".hex": Form.HEX,
            ":base64": Form.BASE64,
            ":base64url": Form.BASE64URL,
            ":base32": Form.BASE32,
            ":base32nopad": Form.BASE32NOPAD,
        },
        SecretKind.PRIVATE_KEY: {
            "": Form.PRIVATE_KEY_PEM,
            ":pem": Form.PRIVATE_KEY_PEM,
            ":pkcs8:pem": Form.PRIVATE_KEY_PEM,
            ":der": Form.PRIVATE_KEY_DER,
            ":pkcs8:der": Form.PRIVATE_KEY_DER,
        },
        SecretKind.X509: {
            "": Form.CERTIFICATE_PEM,
            ".crt": Form.CERTIFICATE_PEM,
            ":crt": Form.CERTIFICATE_PEM,
            ":crt:pem": Form.CERTIFICATE_PEM,
            ":crt:der": Form.CERTIFICATE_DER,
            ".key": Form.PRIVATE_KEY_PEM,
            ":privatekey": Form.PRIVATE_KEY_PEM,
            ":privatekey:pem": Form.PRIVATE_KEY_PEM,
            ":privatekey:pkcs8:pem": Form.PRIVATE_KEY_PEM,
            ":privatekey:der": Form.PRIVATE_KEY_DER,
            ":privatekey:pkcs8:der": Form.PRIVATE_KEY_DER,
            ".chain": Form.CHAIN_DOWNWARD,
            ":chain": Form.CHAIN_UPWARD,
        },
    }
)
_LATER = frozenset({(SecretKind.X509, ":pkcs12-with-private-key")})
_KEYS = frozenset({Form.PRIVATE_KEY_PEM, Form.PRIVATE_KEY_DER})
_CHAINS = frozenset({Form.CHAIN_UPWARD, Form.CHAIN_DOWNWARD})


def suffixes(kind: SecretKind) -> tuple[str, ...]:
    """The suffixes that `kind` offers, the bare one as an empty string."""
    return tuple(_FORMS[kind])


def form_of(secret: Secret, suffix: str, language: Language) -> Form:
    """The form that `suffix` asks of `secret`, as `template.Reference` gives it.

    Raises:
        FormatError: the kind does not offer it; or this secret has no private key or no chain
            (an explicit certificate without `private_key`).
    """
    kind = secret.kind
    if (kind, suffix) in _LATER:
        raise FormatError(f"suffix {suffix} is not supported yet")
    form = _FORMS[kind].get(suffix)
    if form is None:
        offered = ", ".join(known or "no suffix" for known in _FORMS[kind])
        what = suffix[:40] or "no suffix"
        raise FormatError(f"{kind.value} secrets do not offer {what}, expected one of: {offered}")
    if kind is SecretKind.X509 and form in _KEYS and not _has_key(secret, language):
        raise FormatError(
            f"x509 secret {secret.name!r} has no private key: its certificate is given as a value",
            hint="name the key with private_key",
        )
    if kind is SecretKind.X509 and form in _CHAINS and secret.value is not None:
        raise FormatError(
            f"x509 secret {secret.name!r} has no chain: its certificate is given as a value"
        )
    return form


def encode_binary(value: bytes, form: Form) -> bytes:
    """A binary secret's bytes in `form`; `ValueError` for a form of another kind."""
    match form:
        case Form.RAW:
            return value
        case Form.HEX:
            return value.hex().encode()
        case Form.BASE64:
            return base64.b64encode(value)
        case Form.BASE64URL:
            return base64.urlsafe_b64encode(value)
        case Form.BASE32:
            return base64.b32encode(value)
        case Form.BASE32NOPAD:
            return base64.b32encode(value).rstrip(b"=")
        case _:
            raise ValueError(f"{form} is not a form of binary secrets")


def _has_key(secret: Secret, language: Language) -> bool:
    # In 0.2 the CAS makes certificate and key together.
    return secret.private_key is not None or (language is Language.V0_2 and secret.value is None)
