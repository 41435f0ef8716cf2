"""The refusal: how either server says no, as codes and as lines for a person."""

from __future__ import annotations

from typing import NamedTuple

from crannog.errors import Error, Refused, Unavailable
from crannog.exchange import limits
from crannog.wire import Fields, Json

_CODE = 60
_LINE = 2000


class Refusal(NamedTuple):
    """Why not.

    Attributes:
        code: a stable code of docs/api.md.
        messages: the cause chain, outermost first; at least one line.
        hint: what would make it pass, or empty.
        request_id: what to quote to the operator, or empty.
        retry: whether trying again without changing anything may help.
    """

    code: str
    messages: tuple[str, ...]
    hint: str
    request_id: str
    retry: bool


def refusal_message(refusal: Refusal) -> dict[str, Json]:
    """The JSON object; lines too long or too many are cut, so that a refusal always fits."""
    return {
        "type": "refusal",
        "code": refusal.code[:_CODE],
        "messages": [line[:_LINE] for line in refusal.messages[: limits.MESSAGES // 4]],
        "hint": refusal.hint[:_LINE],
        "request_id": refusal.request_id[:_CODE],
        "retry": refusal.retry,
    }


def parse_refusal(value: dict[str, Json]) -> Refusal:
    """The refusal of that object; control characters become `?`, since terminals show it."""
    fields = Fields(value, "refusal")
    fields.constant("type", "refusal")
    refusal = Refusal(
        code=_printable(fields.text("code", limit=_CODE)),
        messages=tuple(
            _printable(line)
            for line in fields.texts("messages", limit=limits.MESSAGES, characters=_LINE)
        ),
        hint=_printable(fields.text("hint", limit=_LINE)),
        request_id=_printable(fields.text("request_id", limit=_CODE)),
        retry=fields.flag("retry"),
    )
    fields.end()
    return refusal


def refusal_error(refusal: Refusal, peer: str) -> Error:
    """The error to raise at the side that was refused; `peer` names who refused.

    `Refused` (exit code 78), or `Unavailable` (75) where trying again may help.
    """
    lines = refusal.messages or (refusal.code,)
    hint = refusal.hint
    if refusal.request_id:
        hint = f"{hint}; " if hint else ""
        hint += f"the request id is {refusal.request_id}"
    if refusal.retry:
        return _with_cause(
            Unavailable(f"{peer}: {lines[0]}", hint=hint), Refused(lines[0], lines[1:])
        )
    return Refused(f"{peer}: {lines[0]}", lines[1:], hint=hint)


def _with_cause(error: Error, cause: Refused) -> Error:
    if cause.messages:
        error.__cause__ = Refused(cause.messages[0], cause.messages[1:])
    return error


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else "?" for character in text)
