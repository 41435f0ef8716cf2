"""The document as a whole: the language's version, the top-level keys, what they make together."""

from __future__ import annotations

import re

from crannog.session.crosscheck import cross_check
from crannog.session.document import Language, Session
from crannog.session.fields import (
    ALWAYS,
    LATER,
    NULLABLE,
    SINCE_0_2,
    SINCE_0_3,
    Context,
    Fields,
    KeyTable,
)
from crannog.session.problems import Collector
from crannog.session.read_images import read_images
from crannog.session.read_policy import read_creator, read_policy
from crannog.session.read_secrets import read_secrets
from crannog.session.read_security import read_security
from crannog.session.read_services import read_services
from crannog.session.tree import Mapping

NEWEST_PATCH = 12

_ROOT = KeyTable(
    name=ALWAYS,
    version=ALWAYS,
    predecessor=NULLABLE,
    services=SINCE_0_2,
    images=SINCE_0_2,
    secrets=SINCE_0_2,
    access_policy=ALWAYS,
    security=SINCE_0_3,
    creator=NULLABLE,
    volumes=LATER,
    salt=LATER,
    namespace_hash=LATER,
    secret_config=LATER,
    digest=LATER,
    tags=LATER,
    keys=LATER,
    board_members=LATER,
    board_policy=LATER,
)
_VERSION = re.compile(r"0\.3\.(0|[1-9][0-9]?)\Z")


def validate(root: Mapping, collector: Collector) -> Session:
    """The session that `root` describes; worth nothing once `collector.failed`."""
    context = Context(collector)
    version = _version(context, root)
    context.language = Language(".".join(version.split(".")[:2]))
    fields = context.fields(root, "", _ROOT, what="a session")
    name = _name(context, fields)
    collector.name = name
    predecessor = fields.get("predecessor")
    policy = read_policy(context, fields)
    session = Session(
        name=name,
        version=version,
        predecessor=context.hex(predecessor, "predecessor", 32) if predecessor else None,
        services=read_services(context, fields),
        images=read_images(context, fields),
        secrets=read_secrets(context, fields),
        access_policy=policy,
        security=read_security(context, fields),
        creator=read_creator(context, fields, policy),
    )
    cross_check(context, fields, session)
    return session


def _version(context: Context, root: Mapping) -> str:
    node = next((value for key, value in root.entries if key.text == "version"), None)
    if node is None:
        return Language.V0_1.value
    found = context.text(
        node,
        "version",
        expected=f"0.2, 0.3 or 0.3.0 to 0.3.{NEWEST_PATCH}",
        fits=_is_version,
    )
    return found or Language.V0_3.value


def _is_version(text: str) -> bool:
    if text in (Language.V0_1.value, Language.V0_2.value, Language.V0_3.value):
        return True
    patch = _VERSION.match(text)
    return patch is not None and int(patch[1]) <= NEWEST_PATCH


def _name(context: Context, fields: Fields) -> str:
    node = fields.need("name", expected="the session's name")
    return context.name(node, "name") if node else ""
