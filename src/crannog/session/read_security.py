"""Reading `security`, and the extension `minimum_level` wherever it stands."""

from __future__ import annotations

from crannog.levels import Level, parse_level
from crannog.session.document import Mode, Security
from crannog.session.fields import ALWAYS, LATER, Context, Fields, KeyTable
from crannog.session.otp import MAX_BYTES, MIN_BYTES, parse_shared_secret
from crannog.session.tree import Node, Scalar

_SECURITY = KeyTable(
    attestation=ALWAYS,
    minimum_level=ALWAYS,
    service_access_token=ALWAYS,
    singleton_enclaves=LATER,
)
_ATTESTATION = KeyTable(
    mode=ALWAYS,
    tolerate=LATER,
    ignore_advisories=LATER,
    trusted_scone_qe_pubkeys=LATER,
    must_be_sgx_local=LATER,
    one_time_password_shared_secret=ALWAYS,
    url=LATER,
    certificates=LATER,
    min_rsa_signing_key_size=LATER,
)
_MAX_TOKEN = 1024


def read_security(context: Context, fields: Fields) -> Security:
    """What the session asks of every service; nothing where the document says nothing."""
    node = fields.get("security")
    if node is None:
        return Security()
    security = context.fields(node, "security", _SECURITY, what="a security section")
    token = security.get("service_access_token")
    attestation = _attestation(context, security)
    return Security(
        mode=None if attestation is None else _mode(context, attestation),
        minimum_level=read_minimum_level(context, security),
        service_access_token=_token(context, token) if token else None,
        one_time_password_shared_secret=None
        if attestation is None
        else read_shared_secret(context, attestation),
    )


def read_shared_secret(context: Context, fields: Fields) -> str | None:
    """`one_time_password_shared_secret` of `fields`, or None."""
    node = fields.get("one_time_password_shared_secret")
    if node is None:
        return None
    text = context.text(
        node,
        fields.path_of("one_time_password_shared_secret"),
        expected=f"base32 of {MIN_BYTES} to {MAX_BYTES} bytes",
        secret=True,
        fits=lambda text: parse_shared_secret(text) is not None,
        suggestion="head -c 20 /dev/urandom | base32 makes one",
    )
    return parse_shared_secret(text)


def _attestation(context: Context, security: Fields) -> Fields | None:
    node = security.get("attestation")
    if node is None:
        return None
    path = security.path_of("attestation")
    return context.fields(node, path, _ATTESTATION, what="an attestation section")


def _mode(context: Context, attestation: Fields) -> Mode | None:
    path = attestation.path
    mode = attestation.get("mode")
    if mode is None:
        return None
    if isinstance(mode, Scalar) and mode.text in ("none", "maa"):
        context.problem(
            mode,
            f"{path}.mode",
            f"mode {mode.text} is not supported yet",
            suggestion="leave it out; for development use a CAS of minimum level simulation",
        )
        return None
    text = context.choice(mode, f"{path}.mode", (Mode.HARDWARE.value,))
    return Mode.HARDWARE if text else None


def _token(context: Context, node: Node) -> str:
    return context.text(
        node,
        "security.service_access_token",
        expected=f"1 to {_MAX_TOKEN} characters",
        secret=True,
        fits=lambda text: 0 < len(text) <= _MAX_TOKEN,
    )


def read_minimum_level(context: Context, fields: Fields) -> Level | None:
    """The extension `minimum_level` of `fields`, or None."""
    node = fields.get("minimum_level")
    if node is None:
        return None
    path = fields.path_of("minimum_level")
    text = context.choice(node, path, tuple(level.value for level in Level))
    return parse_level(text) if text else None
