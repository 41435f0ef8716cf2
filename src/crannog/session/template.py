r"""`$$SCONE::NAME$$`: finding references to secrets in a text, and putting values in.

Grammar, on the text of a command's argument, an environment value or an injected file:

    text      = *( literal / escape / reference )
    escape    = "$$SCONE::$$"                 ; stands for "$$"
    reference = "$$SCONE::" name suffix "$$"
    name      = 1*128( ALPHA / DIGIT / "_" / "-" / "." / "~" )
    suffix    = "" / dotted / 1*3( ":" 1*( ALPHA / DIGIT / "-" ) )
    dotted    = ".crt" / ".key" / ".chain" / ".hex"   ; as in language 0.2

A name that ends in one of the dotted suffixes is a name and a suffix; no secret may be called so.
Anything else that begins with `$$SCONE:` is refused: a mistyped reference must not reach a program
as text. Everything else is literal, so `$$` alone, `$HOME` and `\$` are.

Values are put in once. What they hold is never looked at again, so a secret cannot name another.
The tokenizer knows no kinds of secrets; which suffix a kind offers is in `forms.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from crannog.errors import EXIT_REFUSED, Error, FormatError, TooLarge

NAME_PATTERN = r"[A-Za-z0-9_\-.~]{1,128}"
DOTTED_SUFFIXES = (".crt", ".key", ".chain", ".hex")
MAX_SUBSTITUTED = 4 * 1024 * 1024  # bytes; many references to one large secret multiply

_OPENING = "$$SCONE:"
_MAX_REFERENCE = 512
_BODY = re.compile(rf":(?P<name>{NAME_PATTERN})(?P<suffix>(?::[A-Za-z0-9\-]+){{0,3}})\Z")

Lookup: TypeAlias = Callable[[str, str], bytes]


class SubstitutionFailed(Error):
    """A value cannot stand where the session puts it. The secret itself is never repeated."""

    code: ClassVar[str] = "substitution-failed"
    exit_code: ClassVar[int] = EXIT_REFUSED


@dataclass(frozen=True, slots=True)
class Reference:
    """One reference in a text.

    Attributes:
        name: the secret's name.
        suffix: as written, with its separator: ``""``, ``".crt"``, ``":crt:der"``.
        offset: where it begins in the text, in characters.
    """

    name: str
    suffix: str
    offset: int

    def __str__(self) -> str:
        """As it stands in the document."""
        return f"$$SCONE::{self.name}{self.suffix}$$"


def tokenize(text: str) -> Iterator[str | Reference]:
    """The literals and references of `text` in order; joined again they are the text.

    Raises:
        FormatError: for anything that begins as a reference and is none; `offset` in characters.
        Unsupported forms of the reference's language are `FormatError` too, and named.
    """
    position = 0
    while True:
        start = text.find(_OPENING, position)
        if start < 0:
            break
        if start > position:
            yield text[position:start]
        body_start = start + len(_OPENING)
        end = text.find("$$", body_start, body_start + _MAX_REFERENCE)
        if end < 0:
            raise FormatError(
                "a reference that begins with $$SCONE: is never closed",
                offset=start,
                hint="end it with $$, or write $$SCONE::$$ for a literal $$",
            )
        body = text[body_start:end]
        yield "$$" if body == ":" else _reference(body, start)
        position = end + 2
    if position < len(text):
        yield text[position:]


def references(text: str) -> tuple[Reference, ...]:
    """The references of `text`, in order, repeated ones too; raises as `tokenize`."""
    return tuple(token for token in tokenize(text) if isinstance(token, Reference))


def substitute(text: str, lookup: Lookup, *, limit: int = MAX_SUBSTITUTED) -> bytes:
    """`text` in UTF-8 with each reference replaced by the bytes that `lookup(name, suffix)` gives.

    Raises:
        FormatError: as `tokenize`.
        TooLarge: when the result would exceed `limit` bytes.
        Whatever `lookup` raises.
    """
    parts: list[bytes] = []
    size = 0
    for token in tokenize(text):
        value = token.encode() if isinstance(token, str) else lookup(token.name, token.suffix)
        size += len(value)
        if size > limit:
            raise TooLarge(
                f"SCONE value replacement gives more than {limit} bytes",
                hint="refer to large secrets less often",
            )
        parts.append(value)
    return b"".join(parts)


def substitute_environment(name: str, value: str, lookup: Lookup) -> str:
    """The value of environment variable `name`; `SubstitutionFailed` where it cannot be one."""
    return _text(f"Environment variable '{name}'", value, lookup)


def substitute_argument(position: int, value: str, lookup: Lookup) -> str:
    """Argument `position` of the command, from 0; `SubstitutionFailed` where it cannot be one."""
    return _text(f"Command argument {position}", value, lookup)


def _text(what: str, value: str, lookup: Lookup) -> str:
    # The reference's texts, which its users search for; the outer one is the API's to add.
    data = substitute(value, lookup)
    hint = "refer to the secret in a form that is text, such as :hex or :base64"
    text = _decoded(data)
    if text is None:
        raise SubstitutionFailed(
            f"{what} contains malformed UTF-8 after SCONE value replacement", hint=hint
        )
    if "\0" in text:
        raise SubstitutionFailed(
            f"{what} contains a NUL byte after SCONE value replacement", hint=hint
        )
    return text


def _decoded(data: bytes) -> str | None:
    # Not raised from the codec's error, which would carry the secret along as its object.
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def _reference(body: str, offset: int) -> Reference:
    if "|" in body:
        raise FormatError("the filter |escape(…) is not supported yet", offset=offset)
    if body.startswith((":self::", ":/")) or "=" in body:
        kind = "own properties" if body.startswith(":self") else "another session's secrets"
        raise FormatError(f"references to {kind} are not supported yet", offset=offset)
    match = _BODY.match(body)
    if match is None:
        raise FormatError(
            "a reference that begins with $$SCONE: is malformed, expected $$SCONE::NAME$$, "
            "$$SCONE::NAME.suffix$$ or $$SCONE::NAME:suffix$$",
            offset=offset,
            hint="write $$SCONE::$$ for a literal $$",
        )
    name, suffix = match["name"], match["suffix"]
    for dotted in DOTTED_SUFFIXES:
        if not suffix and name.endswith(dotted) and name != dotted:
            return Reference(name.removesuffix(dotted), dotted, offset)
    return Reference(name, suffix, offset)
