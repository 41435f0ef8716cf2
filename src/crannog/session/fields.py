"""Taking a tree apart, collecting every problem: typed readers for maps, texts, lists, numbers.

A reader never raises for what the document says. It notes a problem and returns a harmless value
of the right type, so that the rest of the document is looked at as well; `load_session` gives no
session away once there is a problem.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from crannog.session.document import Language
from crannog.session.problems import Collector, Problem, did_you_mean, quoted
from crannog.session.tree import Mapping, Mark, Node, Scalar, Sequence

NAME = re.compile(r"[A-Za-z0-9_\-.~]{1,128}\Z")
_HEX = re.compile(r"[0-9a-fA-F]*\Z")
MAX_STRING = 128 * 1024 - 1  # bytes: Linux's MAX_ARG_STRLEN without the terminating zero

_ALL = frozenset(Language)
_WITH_SERVICES = frozenset({Language.V0_2, Language.V0_3})
_MODERN = frozenset({Language.V0_3})


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the language: where it may stand, and whether it is built."""

    languages: frozenset[Language] = _ALL
    built: bool = True
    nullable: bool = False


ALWAYS = Key()
NULLABLE = Key(nullable=True)
SINCE_0_2 = Key(_WITH_SERVICES)
SINCE_0_3 = Key(_MODERN)
LATER = Key(built=False)


class KeyTable:
    """The keys that one kind of map has."""

    def __init__(self, **keys: Key) -> None:
        self._keys = keys

    def __getitem__(self, name: str) -> Key | None:
        return self._keys.get(name)

    def known(self, language: Language) -> tuple[str, ...]:
        """The names that may be suggested."""
        return tuple(n for n, key in self._keys.items() if key.built and language in key.languages)

    def later(self) -> tuple[str, ...]:
        """The names that the language has and this version does not build."""
        return tuple(name for name, key in self._keys.items() if not key.built)


@dataclass(frozen=True, slots=True)
class Template:
    """A text in which secrets are put in, to be checked once all secrets are known.

    `owner` is the name of the image that holds the text, or None for a service's own.
    """

    path: str
    scalar: Scalar
    text: str
    in_command: bool = False
    image: str | None = None
    service: str | None = None


@dataclass(slots=True)
class Context:
    """What every reader needs: where problems go, the language, and what is checked at the end."""

    collector: Collector
    language: Language = Language.V0_1
    templates: list[Template] = field(default_factory=list)
    arguments: int = 0

    def problem(
        self,
        at: Node | Mark,
        path: str,
        message: str = "",
        *,
        found: str = "",
        expected: str = "",
        suggestion: str = "",
    ) -> None:
        """Note a problem at `at`. With `found` the message may be left out."""
        mark = at if isinstance(at, Mark) else at.mark
        self.collector.add(
            Problem(path, mark.line, mark.column, message, found, expected, suggestion)
        )

    def warn(self, at: Node, path: str, message: str, *, suggestion: str = "") -> None:
        """Note a warning at `at`."""
        self.collector.warn(
            Problem(path, at.mark.line, at.mark.column, message, suggestion=suggestion)
        )

    def fields(self, node: Node, path: str, table: KeyTable, *, what: str) -> Fields:
        """The fields of the map `node`, its unknown keys noted; `what` says what it describes."""
        return Fields(self, node, path, table, what)

    def items(self, node: Node, path: str) -> Iterator[tuple[Node, str]]:
        """The items of the list `node` with their paths; an empty list is a problem."""
        if not isinstance(node, Sequence):
            self.problem(node, path, found=kind_of(node), expected="a list")
            return
        if not node.items:
            # An empty list of allowed things reads as "nothing" to one and "anything" to another.
            self.problem(node, path, "is empty", suggestion="leave it out, or list something")
        for index, item in enumerate(node.items):
            yield item, f"{path}[{index}]"

    def text(
        self,
        node: Node,
        path: str,
        *,
        expected: str = "a text",
        secret: bool = False,
        fits: Callable[[str], bool] | None = None,
        substituted: bool = False,
        suggestion: str = "",
    ) -> str:
        """The text of the scalar `node`, or an empty one after noting a problem.

        Args:
            node: where it stands.
            path: how to call it.
            expected: what `fits` accepts, in words.
            secret: the text must not be repeated in a problem.
            fits: whether the text is acceptable; without it any text that is not empty is.
            substituted: references to secrets may stand in it.
            suggestion: what to write instead when it does not fit.
        """
        if not isinstance(node, Scalar):
            self.problem(node, path, found=kind_of(node), expected=expected)
            return ""
        text = node.text
        if node.is_null and fits is None:
            self.problem(node, path, "has no value", expected=expected)
            return ""
        if not text and fits is None:
            self.problem(node, path, "is empty", expected=expected)
            return ""
        if not substituted and "$$SCONE:" in text:
            self.problem(
                node,
                path,
                "references to secrets are not supported yet at this place",
                expected=expected,
            )
            return ""
        if "\0" in text:
            self.problem(node, path, "holds a NUL character", expected=expected)
            return ""
        if fits is not None and not fits(text):
            found = _shape(text) if secret else quoted(text)
            self.problem(node, path, found=found, expected=expected, suggestion=suggestion)
            return ""
        return text

    def name(self, node: Node, path: str) -> str:
        """A name of a session, service or secret."""
        if isinstance(node, Scalar) and "/" in node.text:
            self.problem(node, path, "namespaces (a / in a name) are not supported yet")
            return ""
        return self.text(
            node,
            path,
            expected="1 to 128 of the characters A-Z a-z 0-9 _ - . ~, and not . or ..",
            # URLs are normalised on their way: a session called .. could never be read.
            fits=lambda text: NAME.match(text) is not None and text not in (".", ".."),
        )

    def choice(self, node: Node, path: str, choices: tuple[str, ...]) -> str:
        """One of `choices`, in their exact spelling; empty after noting a problem."""
        suggestion = ""
        if isinstance(node, Scalar):
            suggestion = did_you_mean(node.text, choices)
        listed = ", ".join(choices)
        return self.text(
            node,
            path,
            expected=f"one of {listed}" if len(choices) > 1 else listed,
            fits=lambda text: text in choices,
            suggestion=suggestion,
        )

    def hex(self, node: Node, path: str, length: int, *, secret: bool = False) -> str:
        """`length` bytes in hex of either case, as lower case."""
        digits = 2 * length
        # A long text of another length is better counted than shown.
        counted = isinstance(node, Scalar) and len(node.text) > 8 and len(node.text) != digits
        return self.text(
            node,
            path,
            expected=f"{digits} hex digits",
            secret=secret or counted,
            fits=lambda text: len(text) == digits and _HEX.match(text) is not None,
        ).lower()

    def flag(self, node: Node, path: str) -> bool:
        """True or false, in the spelling of YAML 1.2; not yes, no, on, off."""
        return (
            self.text(
                node, path, expected="true or false", fits=lambda t: t.lower() in ("true", "false")
            ).lower()
            == "true"
        )

    def number(self, node: Node, path: str, *, low: int, high: int) -> int:
        """A decimal integer from `low` to `high`; `low` after noting a problem."""
        text = self.text(
            node,
            path,
            expected=f"a whole number from {low} to {high}",
            fits=lambda t: re.fullmatch(r"[0-9]{1,9}", t) is not None and low <= int(t) <= high,
        )
        return int(text) if text else low

    def absolute_path(self, node: Node, path: str) -> str:
        """An absolute path in the program's file system."""
        return self.text(node, path, expected="an absolute path", fits=lambda t: t[:1] == "/")


class Fields:
    """The fields of one map. Unknown, later and misplaced keys are noted when it is made."""

    def __init__(self, context: Context, node: Node, path: str, table: KeyTable, what: str) -> None:
        self.node = node
        self.path = path
        self._context = context
        self._what = what
        self._found: dict[str, tuple[Scalar, Node]] = {}
        if not isinstance(node, Mapping):
            context.problem(node, path, found=kind_of(node), expected=f"a map that is {what}")
            return
        for key, value in node.entries:
            self._take(key, value, table)

    def _take(self, key: Scalar, value: Node, table: KeyTable) -> None:
        context = self._context
        path = self.path_of(key.text if NAME.match(key.text) else "…")
        entry = table[key.text]
        if entry is None:
            near = did_you_mean(key.text, table.known(context.language))
            context.problem(
                key, self.path, f"unknown key {quoted(key.text)} in {self._what}", suggestion=near
            )
        elif not entry.built:
            context.problem(key, path, f"{key.text} is not supported yet")
        elif context.language not in entry.languages:
            message, suggestion = _misplaced(key.text, context.language, entry)
            context.problem(key, path, message, suggestion=suggestion)
        elif isinstance(value, Scalar) and value.is_null:
            if not entry.nullable:
                context.problem(
                    key, path, "has no value", suggestion="leave the key out, or give a value"
                )
        else:
            self._found[key.text] = key, value

    def path_of(self, name: str) -> str:
        """The path of field `name`."""
        return f"{self.path}.{name}" if self.path else name

    def get(self, name: str) -> Node | None:
        """The value of field `name`, or None where it is missing or null."""
        pair = self._found.get(name)
        return pair[1] if pair else None

    def key(self, name: str) -> Node:
        """Where field `name` is named; the map itself where it is missing."""
        pair = self._found.get(name)
        return pair[0] if pair else self.node

    def need(self, name: str, *, expected: str) -> Node | None:
        """As `get`; a missing field is a problem."""
        value = self.get(name)
        # A key that was refused already is not reported as missing too.
        if value is None and isinstance(self.node, Mapping) and not self.stands(name):
            self._context.problem(
                self.node, self.path, f"{self._what} has no {name}", expected=expected
            )
        return value

    def stands(self, name: str) -> bool:
        """Whether the document has the key at all, acceptable or not."""
        if not isinstance(self.node, Mapping):
            return False
        return any(key.text == name for key, _ in self.node.entries)


def unique(context: Context, names: list[tuple[str, Node, str]], what: str) -> None:
    """Note each name of `names` (name, place, path) that stood before."""
    seen: dict[str, int] = {}
    for name, node, path in names:
        if name and name in seen:
            context.problem(
                node, path, f"{what} {quoted(name)} stands twice, first in line {seen[name]}"
            )
        seen.setdefault(name, node.mark.line)


def kind_of(node: Node) -> str:
    """What sort of value `node` is, for a problem; never the value."""
    if isinstance(node, Mapping):
        return "a map"
    if isinstance(node, Sequence):
        return "a list"
    return "nothing" if node.is_null else "a text"


def _shape(text: str) -> str:
    """What can be said of a text that may be secret."""
    return f"{len(text)} character{'s' if len(text) != 1 else ''}" if text else "nothing"


def _misplaced(name: str, language: Language, entry: Key) -> tuple[str, str]:
    since = min(language.value for language in entry.languages)
    if language is Language.V0_1:
        message = f"{name} is not supported yet in a session of version 0.1 or without a version"
        return message, f'write version: "{since}"'
    message = f"{name} exists since version {since}, this session says {language.value}"
    return message, f'write version: "{since}", or leave {name} out'
