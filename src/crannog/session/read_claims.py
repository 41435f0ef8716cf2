"""Reading the extension `claims`: the containers that a service may run in."""

from __future__ import annotations

import re
from collections.abc import Callable

from crannog.session.document import CLAIM_NAMES, ContainerClaims
from crannog.session.fields import ALWAYS, Context, Fields, KeyTable
from crannog.session.tree import Mapping, Node

ENGINES = ("docker", "podman", "containerd")
_CLAIMS = KeyTable(
    image=ALWAYS,
    image_id=ALWAYS,
    container=ALWAYS,
    namespace=ALWAYS,
    pod=ALWAYS,
    engine=ALWAYS,
)
_IMAGE_ID = re.compile(r"sha256:[0-9a-f]{64}\Z")
_MAX_TEXT = 1024  # what a LAS's statement has room for


def read_claims(context: Context, fields: Fields) -> tuple[ContainerClaims, ...]:
    """The containers of which any one suffices; nothing where the service asks for none."""
    node = fields.get("claims")
    if node is None:
        return ()
    found: dict[ContainerClaims, None] = {}  # in order, and quick to look into
    for item, path in context.items(node, fields.path_of("claims")):
        claims = _container(context, item, path)
        if claims in found:
            # Dropped, so that there is one form of one set for the hash and for reading back.
            context.warn(item, path, "the same container stands twice")
        elif claims is not None:
            found[claims] = None
    return tuple(found)


def _container(context: Context, node: Node, path: str) -> ContainerClaims | None:
    fields = context.fields(node, path, _CLAIMS, what="claims of a container")
    if isinstance(node, Mapping) and not node.entries:
        # It would accept every container, which is not what somebody writes claims for.
        context.problem(node, path, "is empty", expected=f"some of {', '.join(CLAIM_NAMES)}")
    pairs: list[tuple[str, str]] = []
    for name in CLAIM_NAMES:
        value = fields.get(name)
        if value is not None:
            pairs.append((name, _text(context, value, fields.path_of(name), name)))
    return ContainerClaims(tuple(pairs)) if pairs else None


def _text(context: Context, node: Node, path: str, name: str) -> str:
    if name == "engine":
        return context.choice(node, path, ENGINES)
    expected, fits = _FORMS.get(name, _PLAIN)
    return context.text(node, path, expected=expected, fits=fits)


def _is_plain(text: str) -> bool:
    return 0 < len(text) <= _MAX_TEXT and text.isprintable() and " " not in text


_PLAIN: tuple[str, Callable[[str], bool]] = (
    f"1 to {_MAX_TEXT} printable characters without spaces",
    _is_plain,
)
_FORMS: dict[str, tuple[str, Callable[[str], bool]]] = {
    "image_id": (
        "sha256: and 64 lower-case hex digits",
        lambda text: _IMAGE_ID.match(text) is not None,
    )
}
