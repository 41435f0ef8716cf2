"""Reading `secrets`: what is given, what the CAS generates, and with which parameters."""

from __future__ import annotations

import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from crannog.errors import FormatError
from crannog.session import access
from crannog.session.document import (
    DEFAULT_SECRET_SIZE,
    Endpoint,
    KeyType,
    Language,
    Migrate,
    Secret,
    SecretKind,
)
from crannog.session.fields import (
    ALWAYS,
    LATER,
    SINCE_0_3,
    Context,
    Fields,
    KeyTable,
    kind_of,
    unique,
)
from crannog.session.problems import did_you_mean, quoted
from crannog.session.template import DOTTED_SUFFIXES
from crannog.session.tree import Node, Scalar, Sequence

MAX_SIZE = 65536

_LATER_KEYS = (
    "export", "import", "import_akv", "issuer", "san", "tenant_id", "client_id",
    "application_secret", "certificate_thumbprint", "signer", "alg", "validity", "payload",
)  # fmt: skip
_SECRET = KeyTable(
    name=ALWAYS,
    kind=ALWAYS,
    value=ALWAYS,
    size=ALWAYS,
    key_type=SINCE_0_3,
    private_key=SINCE_0_3,
    common_name=SINCE_0_3,
    endpoint=SINCE_0_3,
    dns=SINCE_0_3,
    valid_for=SINCE_0_3,
    export_public=ALWAYS,
    migrate=ALWAYS,
    **dict.fromkeys(_LATER_KEYS, LATER),
)
_GENERATED_CERTIFICATE = ("common_name", "endpoint", "dns", "valid_for")
_PARAMETERS = {
    SecretKind.ASCII: ("value", "size", "export_public", "migrate"),
    SecretKind.BINARY: ("value", "size", "export_public", "migrate"),
    SecretKind.PRIVATE_KEY: ("value", "key_type", "export_public", "migrate"),
    SecretKind.X509: ("value", "private_key", *_GENERATED_CERTIFICATE, "export_public"),
}
_LATER_KINDS = frozenset(
    ("x509-ca", "session-ca", "public-key", "pgp-key", "aad-token", "config-fragment", "jwt")
)
_DNS = re.compile(
    r"(\*\.)?([A-Za-z0-9_]([A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?\.)*"
    r"[A-Za-z0-9_]([A-Za-z0-9_\-]{0,61}[A-Za-z0-9_])?\Z"
)
_DURATION = re.compile(r"([1-9][0-9]{0,8})\s*([a-z]+)\Z")
_UNITS = {
    1: ("s", "sec", "secs", "second", "seconds"),
    60: ("m", "min", "mins", "minute", "minutes"),
    3600: ("h", "hour", "hours"),
    86400: ("d", "day", "days"),
    7 * 86400: ("w", "week", "weeks"),
    30 * 86400: ("month", "months"),
    365 * 86400: ("y", "year", "years"),
}
_SECONDS = {name: seconds for seconds, names in _UNITS.items() for name in names}
_MAX_VALIDITY = 1000 * 365 * 86400
_MAX_KEY_PEM = 4096


def read_secrets(context: Context, root: Fields) -> tuple[Secret, ...]:
    """The secrets of the document, in its order."""
    node = root.get("secrets")
    if node is None:
        return ()
    secrets: list[Secret] = []
    names: list[tuple[str, Node, str]] = []
    for item, path in context.items(node, "secrets"):
        fields = context.fields(item, path, _SECRET, what="a secret")
        name_node = fields.need("name", expected="the secret's name")
        name = _name(context, name_node, fields.path_of("name")) if name_node else ""
        names.append((name, name_node or item, fields.path_of("name")))
        kind = _kind(context, fields)
        if kind is not None:
            secrets.append(_secret(context, fields, name, kind))
    unique(context, names, "secret")
    return tuple(secrets)


def _name(context: Context, node: Node, path: str) -> str:
    name = context.name(node, path)
    for suffix in DOTTED_SUFFIXES:
        if name.endswith(suffix):
            # $$SCONE::a.crt$$ would mean two things.
            context.problem(
                node,
                path,
                f"the name ends in {suffix}, which is how a form of a secret is written",
                suggestion=f"choose another name than {quoted(name)}",
            )
    return name


def _kind(context: Context, fields: Fields) -> SecretKind | None:
    kinds = tuple(kind.value for kind in SecretKind)
    node = fields.need("kind", expected=f"one of {', '.join(kinds)}")
    if node is None:
        return None
    path = fields.path_of("kind")
    if isinstance(node, Scalar) and node.text in _LATER_KINDS:
        context.problem(node, path, f"secrets of kind {node.text} are not supported yet")
        return None
    text = context.choice(node, path, kinds)
    if not text:
        return None
    kind = SecretKind(text)
    if kind is SecretKind.PRIVATE_KEY and context.language is not Language.V0_3:
        context.problem(
            node,
            path,
            "kind private-key exists since version 0.3",
            suggestion='write version: "0.3"; in 0.2 an x509 secret has its key itself',
        )
        return None
    return kind


def _secret(context: Context, fields: Fields, name: str, kind: SecretKind) -> Secret:
    for key in ("value", "size", "key_type", "private_key", *_GENERATED_CERTIFICATE, "migrate"):
        if fields.get(key) is not None and key not in _PARAMETERS[kind]:
            context.problem(
                fields.key(key),
                fields.path_of(key),
                f"{key} is not a parameter of {kind.value} secrets",
                expected=f"only {', '.join(_PARAMETERS[kind])}",
            )
    public = fields.get("export_public")
    export_public = context.flag(public, fields.path_of("export_public")) if public else False
    if export_public and kind is SecretKind.PRIVATE_KEY:
        context.problem(
            fields.key("export_public"),
            fields.path_of("export_public"),
            "a private key cannot be public",
            suggestion="export the certificate",
        )
    migrate = _migrate(context, fields, kind)
    value = _value(context, fields, kind)
    match kind:
        case SecretKind.ASCII | SecretKind.BINARY:
            return Secret(
                name,
                kind,
                value=value,
                size=_size(context, fields),
                export_public=export_public,
                migrate=migrate,
            )
        case SecretKind.PRIVATE_KEY:
            key_type = _key_type(context, fields)
            return Secret(name, kind, value=value, key_type=key_type, migrate=migrate)
        case SecretKind.X509:
            return _x509(context, fields, name, value, export_public)


# --- parameters -----------------------------------------------------------------------------------


def _value(context: Context, fields: Fields, kind: SecretKind) -> str | None:
    node = fields.get("value")
    if node is None or "value" not in _PARAMETERS[kind]:
        return None
    path = fields.path_of("value")
    if context.language is not Language.V0_3 and kind is SecretKind.X509:
        context.problem(
            fields.key("value"),
            path,
            "certificates are generated by the CAS in version 0.2",
            suggestion='write version: "0.3" to give one',
        )
        return None
    match kind:
        case SecretKind.ASCII:
            # One literal text: a reference in it would not be looked at (no nested expansion).
            return context.text(node, path, secret=True, fits=lambda t: t != "")
        case SecretKind.BINARY:
            return context.text(
                node,
                path,
                expected="an even number of hex digits",
                secret=True,
                fits=lambda t: re.fullmatch(r"([0-9a-fA-F]{2})+", t) is not None,
            ).lower()
        case SecretKind.PRIVATE_KEY:
            return _private_key_value(context, node, path)
        case SecretKind.X509:
            text = context.text(node, path, expected="a PEM certificate", secret=True)
            try:
                return access.parse_certificate(text).pem if text else ""
            except FormatError as error:
                context.problem(node, path, error.message, expected="a PEM certificate")
                return ""


def _private_key_value(context: Context, node: Node, path: str) -> str:
    expected = "an unencrypted private key in PKCS#8 PEM of P-256, P-384, Ed25519 or RSA"
    text = context.text(
        node, path, expected=expected, secret=True, fits=lambda t: 0 < len(t) <= _MAX_KEY_PEM
    )
    pem = text.replace("\r\n", "\n").strip() + "\n"
    if not text:
        return ""
    if pem.startswith("-----BEGIN PRIVATE KEY-----\n") and pem.count("-----BEGIN") == 1:
        try:
            key = load_pem_private_key(pem.encode(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            key = None  # said below; the cause could quote the key
        if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in (
            "secp256r1",
            "secp384r1",
        ):
            return pem
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return pem
        if isinstance(key, rsa.RSAPrivateKey) and 2048 <= key.key_size <= 4096:
            return pem
    context.problem(node, path, found="something else", expected=expected)
    return ""


def _size(context: Context, fields: Fields) -> int | None:
    node = fields.get("size")
    if fields.get("value") is not None:
        if node is not None:
            context.problem(
                fields.key("size"), fields.path_of("size"), "stands beside value, expected one"
            )
        return None
    if node is None:
        return DEFAULT_SECRET_SIZE
    return context.number(node, fields.path_of("size"), low=1, high=MAX_SIZE)


def _key_type(context: Context, fields: Fields) -> KeyType | None:
    node = fields.get("key_type")
    if fields.get("value") is not None:
        if node is not None:
            context.problem(
                fields.key("key_type"),
                fields.path_of("key_type"),
                "stands beside value, expected one",
            )
        return None
    if node is None:
        return KeyType.P256
    text = context.choice(node, fields.path_of("key_type"), tuple(kind.value for kind in KeyType))
    return KeyType(text) if text else KeyType.P256


def _migrate(context: Context, fields: Fields, kind: SecretKind) -> Migrate:
    node = fields.get("migrate")
    if node is None or "migrate" not in _PARAMETERS[kind]:
        return Migrate.DEFAULT
    # Other kinds keep their value anyway; `false` there could be taken for `never`.
    choices = ("true", "false", "never") if kind is SecretKind.PRIVATE_KEY else ("never",)
    text = context.choice(node, fields.path_of("migrate"), choices)
    return {"true": Migrate.ALWAYS, "never": Migrate.NEVER}.get(text, Migrate.DEFAULT)


def _x509(
    context: Context, fields: Fields, name: str, value: str | None, export_public: bool
) -> Secret:
    if value is not None:
        for key in _GENERATED_CERTIFICATE:
            if fields.get(key) is not None:
                context.problem(
                    fields.key(key), fields.path_of(key), "stands beside value, expected one"
                )
    key_node = fields.get("private_key")
    if context.language is Language.V0_3 and value is None:
        fields.need("private_key", expected="the name of a private-key secret of this session")
    endpoint_node = fields.get("endpoint")
    endpoint = None
    if endpoint_node is not None:
        text = context.choice(endpoint_node, fields.path_of("endpoint"), ("server", "client"))
        endpoint = Endpoint(text) if text else None
    if endpoint is Endpoint.CLIENT and fields.get("dns") is not None:
        context.problem(fields.key("dns"), fields.path_of("dns"), "client certificates take no dns")
    common_name = fields.get("common_name")
    valid_for = fields.get("valid_for")
    return Secret(
        name,
        SecretKind.X509,
        value=value,
        private_key=context.name(key_node, fields.path_of("private_key")) if key_node else None,
        common_name=context.text(
            common_name,
            fields.path_of("common_name"),
            expected="1 to 64 characters",
            fits=lambda t: 0 < len(t) <= 64 and t.isprintable(),
        )
        if common_name
        else None,
        endpoint=endpoint,
        dns=_dns(context, fields),
        valid_for=_valid_for(context, valid_for, fields) if valid_for else None,
        export_public=export_public,
    )


def _dns(context: Context, fields: Fields) -> tuple[str, ...]:
    node = fields.get("dns")
    if node is None:
        return ()
    path = fields.path_of("dns")
    if isinstance(node, Sequence):
        return tuple(_dns_name(context, item, at) for item, at in context.items(node, path))
    if isinstance(node, Scalar):
        return (_dns_name(context, node, path),)
    context.problem(node, path, found=kind_of(node), expected="a DNS name, or a list of them")
    return ()


def _dns_name(context: Context, node: Node, path: str) -> str:
    return context.text(
        node,
        path,
        expected="a DNS name in ASCII",
        fits=lambda t: len(t) <= 253 and _DNS.match(t) is not None,
    )


def _valid_for(context: Context, node: Node, fields: Fields) -> int | None:
    path = fields.path_of("valid_for")
    suggestion = ""
    if isinstance(node, Scalar):
        unit = node.text.lstrip("0123456789 ")
        suggestion = did_you_mean(unit, _SECONDS) if unit else "name the unit: 90 days"
    text = context.text(
        node,
        path,
        expected="a number and a unit, such as 90 days or 1 year, up to 1000 years",
        fits=lambda t: _seconds(t) is not None,
        suggestion=suggestion,
    )
    return _seconds(text)


def _seconds(text: str) -> int | None:
    match = _DURATION.match(text)
    if match is None or match[2] not in _SECONDS:
        return None
    seconds = int(match[1]) * _SECONDS[match[2]]
    return seconds if seconds <= _MAX_VALIDITY else None
