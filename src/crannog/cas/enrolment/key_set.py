"""A cluster's published keys (RFC 7517): which of them may have signed a token. Pure.

Decides what counts as an issuer's key and for which algorithm. Where the bytes come from, and how
old they may be, is `issuer_keys`'s; what was signed is `token`'s.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from crannog.errors import FormatError
from crannog.wire import Fields, Json, parse_object

MAX_BYTES = 256 * 1024
MAX_KEYS = 64
MAX_KID = 256
_RSA_BITS = range(2048, 4097)
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})


class IssuerKey(NamedTuple):
    """A public key that signs tokens, with the one algorithm that it is for."""

    algorithm: str
    key: RSAKey | ECKey


class KeySet(NamedTuple):
    """What an issuer publishes.

    Attributes:
        keys: those that may have signed a token, by `kid`.
        unused: why the others may not, by `kid`.
    """

    keys: Mapping[str, IssuerKey]
    unused: Mapping[str, str]


_Found: TypeAlias = IssuerKey | str


def parse_key_set(data: bytes, what: str) -> KeySet:
    """The keys in the JSON Web Key Set `data`; `what` names it in errors.

    Raises:
        FormatError: no key set, a key that nobody should publish, a `kid` twice, no usable key.
        TooLarge: over 256 KiB.
    """
    document = parse_object(data, limit=MAX_BYTES, what=what)
    # A key set may have further members (RFC 7517 section 5), which mean nothing here.
    items = Fields(document, what).items("keys", limit=MAX_KEYS)
    keys: dict[str, IssuerKey] = {}
    unused: dict[str, str] = {}
    for item in items:
        if not isinstance(item, dict):
            raise FormatError(f"{what}: keys holds something that is no object")
        if _PRIVATE & item.keys():
            raise FormatError(
                f"{what} holds a private or symmetric key",
                hint="whoever has read it can sign tokens: give the issuer another key",
            )
        kid = item.get("kid")
        if not (isinstance(kid, str) and 0 < len(kid) <= MAX_KID):
            continue
        if kid in keys or kid in unused:
            raise FormatError(f"{what} has the kid {kid[:64]!r} twice")
        found = _usable(item)
        if isinstance(found, str):
            unused[kid] = found
        else:
            keys[kid] = found
    if not keys:
        reasons = "; ".join(sorted(set(unused.values()))[:5]) or "there is none with a kid"
        raise FormatError(f"{what} has no key that this CAS takes: {reasons}")
    return KeySet(keys, unused)


def _usable(item: dict[str, Json]) -> _Found:
    """The key, or why it signs no token that is taken here."""
    if item.get("use", "sig") != "sig":
        return "it is not for signatures"
    kind = item.get("kty")
    algorithm = {"RSA": "RS256", "EC": "ES256"}.get(kind) if isinstance(kind, str) else None
    if algorithm is None:
        return "its type is neither RSA nor EC"
    if item.get("alg", algorithm) != algorithm:
        return f"its algorithm is not {algorithm}"
    if algorithm == "ES256" and item.get("crv") != "P-256":
        return "its curve is not P-256"
    names = ("kty", "n", "e") if algorithm == "RS256" else ("kty", "crv", "x", "y")
    chosen: dict[str, str] = {}
    for name in names:
        value = item.get(name)
        if not isinstance(value, str) or len(value) > 1024:
            return f"its {name} is missing"
        chosen[name] = value
    try:
        if algorithm == "ES256":
            curve_key = ECKey.import_key({**chosen})
            curve_key.public_key  # noqa: B018  # a point off the curve is refused when it is made
            return IssuerKey(algorithm, curve_key)
        # Before it is imported: the library warns of a short one on standard error.
        bits = _bits(chosen["n"])
        if bits not in _RSA_BITS:
            return f"it has {bits} bits, expected {_RSA_BITS.start} to {_RSA_BITS.stop - 1}"
        return IssuerKey(algorithm, RSAKey.import_key({**chosen}))
    except (JoseError, ValueError, TypeError, KeyError):
        return "it is malformed"


def _bits(number: str) -> int:
    data = base64.urlsafe_b64decode(number + "=" * (-len(number) % 4))
    return int.from_bytes(data, "big").bit_length()
