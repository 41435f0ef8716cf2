"""Reading `access_policy` and `creator`: who may do what, as it is written in each language."""

from __future__ import annotations

import re

from crannog.errors import FormatError
from crannog.session import access
from crannog.session.document import (
    AccessPolicy,
    Certificate,
    Keyword,
    Language,
    PemHash,
    Principal,
)
from crannog.session.fields import ALWAYS, LATER, SINCE_0_3, Context, Fields, KeyTable
from crannog.session.problems import did_you_mean, quoted
from crannog.session.tree import Mapping, Node, Scalar

_POLICY = KeyTable(
    read=ALWAYS,
    update=ALWAYS,
    create_sessions=SINCE_0_3,
    list_sessions=LATER,
    secrets=LATER,
    delete=LATER,
)
_KEYWORDS = {keyword.value: keyword for keyword in Keyword}
_GOVERNANCE = re.compile(r"require-(all|at-least-[0-9]+)\Z")
_HEX64 = re.compile(r"[0-9a-fA-F]{64}\Z")


def read_policy(context: Context, fields: Fields) -> AccessPolicy:
    """The access lists of a session; [CREATOR] where the document says nothing."""
    node = fields.get("access_policy")
    if node is None:
        return AccessPolicy()
    lists = context.fields(node, "access_policy", _POLICY, what="an access policy")
    default: tuple[Principal, ...] = (Keyword.CREATOR,)
    read = _entries(context, lists, "read") or default
    update = _entries(context, lists, "update") or default
    create = _entries(context, lists, "create_sessions") or update
    if context.language is not Language.V0_3 and Keyword.ANY not in read:
        readers = frozenset(read)
        for entry in update:
            if entry not in readers and entry is not Keyword.NONE:
                context.problem(
                    lists.key("update"),
                    "access_policy.update",
                    "names somebody who may not read",
                    suggestion=f"in version {context.language.value} list every entry of update "
                    "under read as well",
                )
                break
    if Keyword.ANY in update:
        context.warn(
            lists.key("update"),
            "access_policy.update",
            "ANY lets everybody who reaches the CAS replace this session, and so get its secrets",
        )
    return AccessPolicy(read, update, create)


def _entries(context: Context, lists: Fields, name: str) -> tuple[Principal, ...]:
    node = lists.get(name)
    if node is None:
        return ()
    path = lists.path_of(name)
    if isinstance(node, Scalar):
        entry = _principal(context, node, path)
        return (entry,) if entry else ()
    entries: list[Principal] = []
    for item, item_path in context.items(node, path):
        entry = _principal(context, item, item_path)
        if entry is not None:
            entries.append(entry)
    for alone in (Keyword.ANY, Keyword.NONE):
        if alone in entries and len(entries) > 1:
            context.problem(node, path, f"{alone.value} stands with others, expected it alone")
    return tuple(entries)


def _principal(context: Context, node: Node, path: str) -> Principal | None:
    if isinstance(node, Mapping):
        key = node.entries[0][0].text if node.entries else ""
        if key == "signer" or _GOVERNANCE.match(key):
            context.problem(node, path, f"{key} entries are not supported yet")
        else:
            context.problem(node, path, found="a map", expected=_entry_forms(context.language))
        return None
    text = context.text(node, path, expected=_entry_forms(context.language))
    if not text:
        return None
    if text in _KEYWORDS:
        return _KEYWORDS[text]
    modern = context.language is Language.V0_3
    try:
        if "-----BEGIN CERTIFICATE-----" in text:
            return access.parse_certificate(text)
        if "-----BEGIN PUBLIC KEY-----" in text:
            context.problem(node, path, "public keys as entries are not supported yet")
            return None
        if _HEX64.match(text):
            if modern:
                context.problem(
                    node,
                    path,
                    "is the hash of a certificate, which version 0.3 does not take",
                    expected=_entry_forms(context.language),
                )
                return None
            return PemHash(text.lower())
        if modern and len(text) >= 40:
            entry = access.parse_key_hash(text)
            context.warn(
                node,
                path,
                "a key hash is Crannog's own (SHA-256 of the key): one that another "
                "implementation printed matches nobody",
                suggestion="give the certificate itself, or the hash that crannog prints",
            )
            return entry
    except FormatError as error:
        context.problem(node, path, error.message, expected=_entry_forms(context.language))
        return None
    context.problem(
        node,
        path,
        found=quoted(text),
        expected=_entry_forms(context.language),
        suggestion=did_you_mean(text, _KEYWORDS),
    )
    return None


def _entry_forms(language: Language) -> str:
    other = "a key hash" if language is Language.V0_3 else "the SHA-256 of a PEM file"
    return f"CREATOR, ANY, NONE, a PEM certificate or {other}"


def read_creator(context: Context, fields: Fields, policy: AccessPolicy) -> Certificate | None:
    """The creator that the document gives, which only a text that was read back does."""
    node = fields.get("creator")
    if node is None:
        return None
    if isinstance(node, Mapping):
        context.problem(node, "creator", "signed sessions (creator: signer) are not supported yet")
        return None
    text = context.text(node, "creator", expected="a PEM certificate")
    if not text:
        return None
    try:
        creator = access.parse_certificate(text)
    except FormatError as error:
        context.problem(node, "creator", error.message, expected="a PEM certificate")
        return None
    if not policy.needs_creator:
        context.problem(
            fields.key("creator"),
            "creator",
            "no entry of access_policy says CREATOR, so the creator has no meaning",
            suggestion="leave creator out: the CAS writes it where it is needed",
        )
    return creator
