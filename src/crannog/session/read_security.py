"""Reading `security`, and the extension `minimum_level` wherever it stands."""

from __future__ import annotations

from crannog.levels import Level, parse_level
from crannog.session.document import Mode, Security
from crannog.session.fields import ALWAYS, LATER, Context, Fields, KeyTable
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
    one_time_password_shared_secret=LATER,
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
    return Security(
        mode=_mode(context, security),
        minimum_level=read_minimum_level(context, security),
        service_access_token=_token(context, token) if token else None,
    )


def _mode(context: Context, security: Fields) -> Mode | None:
    node = security.get("attestation")
    if node is None:
        return None
    path = security.path_of("attestation")
    attestation = context.fields(node, path, _ATTESTATION, what="an attestation section")
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
