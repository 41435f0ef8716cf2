"""From bytes to a tree that keeps what YAML would throw away: the raw text and the line.

Scalars stay the text they were, so `3.10`, `no`, `12:30:00` and `0o400` are strings. Anchors,
aliases, tags, merge keys, duplicate keys and further documents are refused. The tree is built from
the parser's events on a stack of our own, so that depth and number of nodes are counted before
anything is built and nothing recurses: a YAML bomb costs no more than its own bytes.

libyaml's scanner is needed: it is linear in the input, and the pure one of PyYAML loses characters
(a NEL becomes a line end), which would change a hash. Marks count characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn, Protocol, TypeAlias

import yaml

from crannog.errors import TooLarge, Unsupported
from crannog.session.problems import Problem, SessionInvalid, quoted

MAX_BYTES = 1024 * 1024
MAX_RENDERED = 8 * MAX_BYTES  # what a document of MAX_BYTES may become when it is written again
MAX_DEPTH = 20
MAX_NODES = 20_000
# A path becomes a map with defaults, a command a list: a text that was written again has more.
MAX_RENDERED_NODES = 8 * MAX_NODES

_Loader: type[yaml.SafeLoader] | None = getattr(yaml, "CSafeLoader", None)
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_DIRECTIVE = re.compile("(?:\\A|[\n\r\x85\u2028\u2029])\ufeff*%")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in the document: line and column from 1, index in characters from 0."""

    line: int
    column: int
    index: int


@dataclass(frozen=True, slots=True)
class Scalar:
    """A text. `plain` says that it stood there without quotes, `block` that it is a `|` or `>`."""

    text: str
    plain: bool
    block: bool
    mark: Mark
    end: Mark

    @property
    def is_null(self) -> bool:
        """Whether YAML would read it as null: nothing, `~` or `null`, unquoted."""
        return self.plain and self.text in _NULL


@dataclass(frozen=True, slots=True)
class Sequence:
    """A list."""

    items: tuple[Node, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class Mapping:
    """A map with distinct keys, in the order of the document."""

    entries: tuple[tuple[Scalar, Node], ...]
    mark: Mark


Node: TypeAlias = Scalar | Sequence | Mapping


class _HasPlace(Protocol):
    """The marks of PyYAML's two scanners, which share no class."""

    line: int
    column: int
    index: int


class _Open:
    """A collection that is being read."""

    __slots__ = ("items", "key", "keys", "mapping", "mark", "pairs")

    def __init__(self, mapping: bool, mark: Mark) -> None:
        self.mapping = mapping
        self.mark = mark
        self.items: list[Node] = []
        self.pairs: list[tuple[Scalar, Node]] = []
        self.keys: dict[str, int] = {}
        self.key: Scalar | None = None


def parse(data: bytes, *, limit: int = MAX_BYTES, nodes: int = MAX_NODES) -> Mapping:
    """The root of the document `data`, which has to be a map of at most `nodes` values.

    Raises:
        TooLarge: more than `limit` bytes.
        SessionInvalid: not UTF-8, not YAML, or YAML that the language does not use; the first such
            thing only, as what follows could not be trusted.
        Unsupported: PyYAML was built without libyaml.
    """
    if _Loader is None:
        raise Unsupported(
            "this PyYAML was built without libyaml, which sessions need",
            hint="install PyYAML from its binary package",
        )
    if len(data) > limit:
        raise TooLarge(f"session has {len(data)} bytes, expected at most {limit}")
    text = _decoded(data)
    if isinstance(text, int):
        line = data.count(b"\n", 0, text) + 1
        _refuse(Mark(line, 1, 0), "the document is not UTF-8")
    directive = _DIRECTIVE.search(text)
    if directive is not None:
        # Also because libyaml takes quadratic time over many %TAG lines.
        line = text.count("\n", 0, directive.end()) + 1
        _refuse(Mark(line, 1, 0), "directives (%YAML, %TAG) are not part of the session language")
    try:
        roots = list(_roots(text, nodes, _Loader))
    except yaml.MarkedYAMLError as error:
        _refuse(_mark(error.problem_mark or error.context_mark), _said(error))
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1 if error.position > 0 else 1
        _refuse(Mark(line, 1, 0), "the document holds a character that YAML does not allow")
    except yaml.YAMLError:
        _refuse(Mark(1, 1, 0), "the document is not YAML")
    root = roots[0] if roots else None
    if root is None or (isinstance(root, Scalar) and root.is_null):
        _refuse(Mark(1, 1, 0), "the document is empty, expected a session")
    if not isinstance(root, Mapping):
        what = "a list" if isinstance(root, Sequence) else "a text"
        _refuse(root.mark, f"the document is {what}, expected a map with the key name")
    return root


def _decoded(data: bytes) -> str | int:
    """The text, or the offset of the first byte that is not UTF-8."""
    # Not raised from the codec's error, which would carry the whole document along.
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return error.start


def _roots(text: str, nodes: int, loader: type[yaml.SafeLoader]) -> Iterator[Node]:
    """The root of each document; a second one is refused."""
    stack: list[_Open] = []
    count = 0
    documents = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.DocumentStartEvent):
            documents += 1
            if documents > 1:
                _refuse(_mark(event.start_mark), "a second document begins, expected one")
            continue
        if not isinstance(event, yaml.NodeEvent | yaml.CollectionEndEvent):
            continue
        mark = _mark(event.start_mark)
        node: Node
        if isinstance(event, yaml.CollectionEndEvent):
            opened = stack.pop()
            if opened.mapping:
                node = Mapping(tuple(opened.pairs), opened.mark)
            else:
                node = Sequence(tuple(opened.items), opened.mark)
        else:
            count += 1
            if count > nodes:
                _refuse(mark, f"the document has more than {nodes} values")
            _refuse_references(event, mark)
            if isinstance(event, yaml.ScalarEvent):
                node = _scalar(event, mark)
            else:
                if len(stack) >= MAX_DEPTH:
                    _refuse(mark, f"the document is nested deeper than {MAX_DEPTH} levels")
                mapping = isinstance(event, yaml.MappingStartEvent)
                if stack and stack[-1].mapping and stack[-1].key is None:
                    _refuse(mark, "a key is a list or a map, expected a text")
                stack.append(_Open(mapping, mark))
                continue
        if not stack:
            yield node
        elif not stack[-1].mapping:
            stack[-1].items.append(node)
        elif stack[-1].key is None:
            stack[-1].key = _key(node, stack[-1])
        else:
            stack[-1].pairs.append((stack[-1].key, node))
            stack[-1].key = None


def _key(node: Node, parent: _Open) -> Scalar:
    if not isinstance(node, Scalar):
        _refuse(node.mark, "a key is a list or a map, expected a text")
    if node.plain and node.text == "<<":
        _refuse(node.mark, "merge keys (<<) are not part of the session language")
    if node.is_null:
        _refuse(node.mark, "a key is empty, expected a text")
    if node.text in parent.keys:
        _refuse(
            node.mark,
            f"key {quoted(node.text)} stands twice, first in line {parent.keys[node.text]}",
        )
    parent.keys[node.text] = node.mark.line
    return node


def _scalar(event: yaml.ScalarEvent, mark: Mark) -> Scalar:
    if _SURROGATE.search(event.value):
        _refuse(mark, "a text holds half of a character (a lone surrogate)")
    # implicit[0]: plain and without a tag.
    block = event.style in ("|", ">")
    return Scalar(event.value, bool(event.implicit[0]), block, mark, _mark(event.end_mark))


def _refuse_references(event: yaml.NodeEvent, mark: Mark) -> None:
    if isinstance(event, yaml.AliasEvent):
        _refuse(mark, "aliases (*name) are not part of the session language")
    if event.anchor is not None:
        _refuse(mark, "anchors (&name) are not part of the session language")
    tag = getattr(event, "tag", None)
    if tag is not None:
        if tag in ("!cas", "!akv"):
            _refuse(mark, f"the tag {tag} is not supported yet")
        # Not repeated: a password without quotes that begins with ! is a tag to YAML.
        _refuse(mark, "tags are not part of the session language: quote a text that begins with !")


def _said(error: yaml.MarkedYAMLError) -> str:
    # The scanner's own words name characters and tokens, never whole values.
    return f"not YAML: {error.problem or error.context}"


def _mark(mark: _HasPlace | None) -> Mark:
    return Mark(mark.line + 1, mark.column + 1, mark.index) if mark else Mark(1, 1, 0)


def _refuse(mark: Mark, message: str) -> NoReturn:
    raise SessionInvalid([Problem("", mark.line, mark.column, message)])
