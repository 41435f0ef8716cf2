"""Laws of the small parsers: references, commands, templates, names of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import FormatError
from crannog.keyhash import key_hash
from crannog.session import access
from crannog.session.command import split_command
from crannog.session.template import Reference, references, substitute, tokenize
from crannog.session.tree import Scalar, parse
from crannog.session.variables import expand
from tests.property.session.strategies import names, texts

_LITERALS = texts().filter(lambda text: "$" not in text)
_SUFFIXES = st.sampled_from(("", ".crt", ".key", ".chain", ".hex", ":hex", ":crt:der", ":a:b:c"))
_REFERENCES = st.tuples(names(), _SUFFIXES)


@given(st.lists(st.one_of(_LITERALS, _REFERENCES), max_size=6))
def test_references_are_found_where_they_were_put(parts: list[str | tuple[str, str]]) -> None:
    text = "".join(p if isinstance(p, str) else f"$$SCONE::{p[0]}{p[1]}$$" for p in parts)
    expected = [part for part in parts if not isinstance(part, str)]
    assert [(found.name, found.suffix) for found in references(text)] == expected
    assert "".join(str(token) for token in tokenize(text)) == text
    assert all(text[r.offset :].startswith(str(r)) for r in references(text))


@given(st.text(alphabet="$SCONE:A.x|/", max_size=40))
def test_whatever_is_accepted_is_its_tokens(text: str) -> None:
    """Tokens that are joined again, escapes written as they were, are the text."""
    try:
        tokens = list(tokenize(text))
    except FormatError:
        return
    rebuilt = "".join(str(t) if isinstance(t, Reference) else t for t in tokens)
    assert rebuilt.count("$$SCONE:") <= text.count("$$SCONE:")
    assert rebuilt.replace("$$SCONE::$$", "$$") == text.replace("$$SCONE::$$", "$$")


@given(texts())
def test_any_text_can_be_written_as_a_literal(text: str) -> None:
    hostile = text + "$$SCONE::A$$" + text
    assert substitute(hostile.replace("$$", "$$SCONE::$$"), _never) == hostile.encode()


@given(texts(), st.binary(max_size=20))
def test_a_value_is_put_in_as_it_is(text: str, value: bytes) -> None:
    literal = text.replace("$", "")
    result = substitute(f"{literal}$$SCONE::A$$", lambda name, suffix: value)
    assert result == literal.encode() + value


@given(st.lists(st.text(max_size=8).filter(lambda a: not ("'" in a and '"' in a)), max_size=5))
def test_quoted_arguments_come_out_as_they_went_in(arguments: list[str]) -> None:
    quoted = [f"'{a}'" if "'" not in a else f'"{a}"' for a in arguments]
    assert split_command("  ".join(quoted), quotes=True) == tuple(arguments)


@given(st.text(max_size=30))
def test_without_quotes_splitting_loses_only_whitespace(text: str) -> None:
    arguments = split_command(text, quotes=False)
    assert all(arguments)
    assert "".join(arguments) == "".join(c for c in text if c not in " \t\n\r\v\f")


@given(st.binary(max_size=60), st.data())
def test_key_hashes_are_read_back_and_a_changed_one_is_refused(
    spki: bytes, data: st.DataObject
) -> None:
    found = key_hash(spki)
    assert access.parse_key_hash(found).text == found
    place = data.draw(st.integers(0, len(found) - 1))
    other = data.draw(st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"))
    changed = found[:place] + other + found[place + 1 :]
    if changed != found:
        with pytest.raises(FormatError):
            access.parse_key_hash(changed)


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20),
    st.sampled_from(("k: $A\n", "k: '$A'\n", 'k: "$A"\n', "k: |-\n  $A\n", "k: [x, '$A']\n")),
)
def test_a_variable_becomes_one_value_and_nothing_else(value: str, template: str) -> None:
    root = parse(expand((template + "end: yes\n").encode(), {"A": value}))
    assert [key.text for key, _ in root.entries] == ["k", "end"]
    node = root.entries[0][1]
    texts_found = [node] if isinstance(node, Scalar) else list(getattr(node, "items", ()))
    last = texts_found[-1]
    assert isinstance(last, Scalar)
    assert last.text == value


def _never(name: str, suffix: str) -> bytes:
    raise AssertionError(f"{name}{suffix} was looked up")
