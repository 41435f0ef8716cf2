r"""Templates of the command line: `$VAR` in the values of a session file.

Done by the client before a session is posted; the CAS expands nothing, so that a value it is sent
stays what it is.

    variable = "$" ( ALPHA / "_" ) *( ALPHA / DIGIT / "_" )
    escape   = "\$"          ; stands for "$"

`$$` is left alone, and with it every `$$SCONE::…$$`; `${VAR}` is not a template and is left alone
too. Variables stand in values, not in keys or comments. What a variable holds becomes part of that
one value and cannot add keys or lines; it is not searched for further variables. A value without
quotes that becomes `~` altogether is null, as in `predecessor: $PREDECESSOR`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

from crannog.errors import Error
from crannog.session.tree import MAX_BYTES, Node, Scalar, Sequence, parse

_TOKEN = re.compile(r"\\\$|\$\$|\$(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_PLAIN = re.compile(r"[A-Za-z0-9_/][A-Za-z0-9_./~+=@-]*\Z")


class TemplateInvalid(Error):
    """Variables of a session file have no value. `details` names each of them and its place."""

    code: ClassVar[str] = "template-invalid"

    def __init__(self, details: tuple[str, ...]) -> None:
        self.details = details
        super().__init__(
            "variables of the session have no value",
            hint=r"give them with -e NAME=VALUE or --use-env; write \$ for a dollar sign",
        )


def expand(
    data: bytes,
    given: Mapping[str, str],
    environment: Mapping[str, str] | None = None,
    *,
    limit: int = MAX_BYTES,
) -> bytes:
    """The session file `data` with its variables replaced.

    Args:
        data: YAML in UTF-8.
        given: `-e VAR=VALUE`; wins over the environment.
        environment: with `--use-env` the process's environment, else None.
        limit: of the file and of what it becomes, in bytes.

    Raises:
        SessionInvalid: not YAML that a session may be.
        TooLarge: over `limit`.
        TemplateInvalid: a variable without a value, all of them.
    """
    root = parse(data, limit=limit)
    text = data.decode("utf-8-sig")
    missing: list[str] = []

    def value_of(name: str) -> str | None:
        if name in given:
            return given[name]
        return environment.get(name) if environment is not None else None

    edits: list[tuple[int, int, str]] = []
    for path, scalar in _values(root):
        replaced = _replace(scalar, path, text, value_of, missing)
        if replaced is not None:
            edits.append((scalar.mark.index, scalar.end.index, replaced))
    if missing:
        raise TemplateInvalid(tuple(missing))
    parts: list[str] = []
    position = 0
    for start, end, replaced in edits:
        parts += (text[position:start], replaced)
        position = end
    parts.append(text[position:])
    result = "".join(parts).encode()
    parse(result, limit=limit)
    return result


def _replace(
    scalar: Scalar,
    path: str,
    text: str,
    value_of: Callable[[str], str | None],
    missing: list[str],
) -> str | None:
    """How `scalar` is written in the new text, or None where it stays as it is."""
    parts: list[str] = []
    position = 0
    changed = False
    for token in _TOKEN.finditer(scalar.text):
        if token[0] == "$$":
            continue
        parts.append(scalar.text[position : token.start()])
        position = token.end()
        changed = True
        name = token["name"]
        if name is None:
            parts.append("$")
            continue
        value = value_of(name)
        if value is None:
            line, column = _place(scalar, name, text)
            missing.append(
                f"{path}: Value for variable ${name} is missing at line {line} column {column}"
            )
            continue
        if any("\ud800" <= character <= "\udfff" for character in value):
            missing.append(f"{path}: Value for variable ${name} is not UTF-8")
            continue
        parts.append(value)
    if not changed:
        return None
    parts.append(scalar.text[position:])
    value = "".join(parts)
    if scalar.plain and (value == "~" or (_PLAIN.match(value) and value.lower() != "null")):
        return value
    # A block ends with its line; what follows begins on the next.
    ending = "\n" if text[scalar.mark.index : scalar.end.index].endswith("\n") else ""
    return _double_quoted(value) + ending


def _double_quoted(value: str) -> str:
    """`value` as a double-quoted YAML scalar on one line."""
    parts = ['"']
    for character in value:
        if character in '"\\':
            parts.append("\\" + character)
        elif character.isprintable():
            parts.append(character)
        elif ord(character) > 0xFFFF:
            parts.append(f"\\U{ord(character):08x}")
        else:
            parts.append(f"\\u{ord(character):04x}")
    return "".join([*parts, '"'])


def _place(scalar: Scalar, name: str, text: str) -> tuple[int, int]:
    """Line and column, from 1, of variable `name` in the source of `scalar`."""
    source = text[scalar.mark.index : scalar.end.index]
    found = re.search(rf"\${name}(?![A-Za-z0-9_])", source)
    before = source[: found.start()] if found else ""
    lines = before.count("\n")
    if not lines:
        return scalar.mark.line, scalar.mark.column + len(before)
    return scalar.mark.line + lines, len(before) - before.rfind("\n")


def _values(root: Node) -> Iterator[tuple[str, Scalar]]:
    """Every value that is a text, with its path, in the order of the document."""
    stack: list[tuple[str, Node]] = [("", root)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, Scalar):
            yield path, node
        elif isinstance(node, Sequence):
            stack += reversed([(f"{path}[{i}]", item) for i, item in enumerate(node.items)])
        else:
            prefix = f"{path}." if path else ""
            stack += reversed([(prefix + key.text, value) for key, value in node.entries])
