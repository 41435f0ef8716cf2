"""From hostile documents only our own errors escape, and nothing costs more than its own bytes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import Error, FormatError, TooLarge
from crannog.session import access
from crannog.session.canonical import render, session_hash
from crannog.session.load import load_session, load_stored
from crannog.session.template import references, substitute
from crannog.session.tree import MAX_BYTES
from crannog.session.variables import expand
from tests.property.session.strategies import sessions

_WORDS = (
    "name", "version", "services", "images", "secrets", "command", "mrenclaves", "environment",
    "access_policy", "read", "CREATOR", "0.2", "0.3", ": ", "\n", "\n  ", "\n  - ", "- ", "[", "]",
    "{", "}", ",", "'", '"', "&a", "*a", "!!str ", "<<", "|", ">", "%TAG", "---", "...", "~", "#",
    "$$SCONE::", "$$", "$A", "?", "\t", "\r\n", "\\x", "\\U00110000", "kind", "x509", "\ufeff", "é",
)  # fmt: skip
_SHAPES = st.lists(st.sampled_from(_WORDS), max_size=40).map("".join)
_DEADLINE = 5.0  # seconds; each takes well under one on an idle machine, and minutes if quadratic


def _try(data: bytes) -> None:
    try:
        loaded = load_session(data)
    except Error:
        return
    text = render(loaded.session).encode()
    again = load_stored(text).session
    assert session_hash(again) == session_hash(loaded.session)


@given(st.binary(max_size=300))
def test_bytes(data: bytes) -> None:
    _try(data)


@given(_SHAPES)
def test_pieces_of_the_language(text: str) -> None:
    _try(text.encode())


@given(sessions(), st.data())
def test_a_changed_session(session: object, data: st.DataObject) -> None:
    text = bytearray(render(session).encode())  # type: ignore[arg-type] # a Session
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(text) - 1))
        cut = data.draw(st.integers(0, 3))
        text[place : place + cut] = data.draw(st.binary(max_size=3))
        if not text:
            break
    _try(bytes(text))


@given(st.text(alphabet="$SCONE:A.|=/ @\\{}x", max_size=60))
def test_references_and_substitution(text: str) -> None:
    try:
        found = references(text)
        result = substitute(text, lambda name, suffix: b"")
    except FormatError:
        return
    assert len(found) <= len(text)
    assert len(result) <= len(text)


@given(_SHAPES, st.dictionaries(st.sampled_from("AB"), st.text(max_size=5)))
def test_variables(text: str, given_values: dict[str, str]) -> None:
    try:
        expand(text.encode(), given_values, None)
    except Error:
        return


@given(st.binary(max_size=200))
def test_certificates(data: bytes) -> None:
    try:
        access.requester(data)
    except FormatError:
        return


@given(st.text(max_size=80))
def test_texts_of_certificates_and_key_hashes(text: str) -> None:
    for parse in (access.parse_certificate, access.parse_key_hash):
        try:
            parse(text)
        except FormatError:
            continue


_N = MAX_BYTES - 200
_FILE = 'name: x\nversion: "0.3"\nsecrets: [{name: A, kind: ascii}]\nimages: [{name: i, '
_FILE += 'injection_files: [{path: /a, content: "'
BOMBS = {
    "lists in lists": "[" * _N,
    "maps in maps": "{a: " * (_N // 4),
    "dashes": "- " * (_N // 2),
    "many values": "name: x\nservices: [" + "a," * (_N // 2) + "]",
    "many unknown keys": "name: x\n" + "".join(f"acces_polici{i}: 1\n" for i in range(9000)),
    "many tag directives": "".join(f"%TAG !{i}! x\n" for i in range(_N // 16)) + "--- a",
    "tag directives after a document": "a: b\n...\n"
    + "".join(f"%TAG !{i}! x\n" for i in range(_N // 16)),
    "many references": _FILE + "$$SCONE::A$$ " * (_N // 13 - 20) + '"}]}]',
    "many unknown references": _FILE + "$$SCONE::B$$ " * (_N // 13 - 20) + '"}]}]',
    "references that never close": _FILE + "$$SCONE:" * (_N // 8 - 30) + '"}]}]',
    "digits": _FILE + "1" * (_N - 200) + '"}]}]',
    "many measurements": (
        'name: x\nversion: "0.3"\nservices: [{name: a, command: a, mrenclaves: ['
        + ",".join(f"{i:064x}" for i in range(15000))
        + "]}]"
    ),
    "deep paths": (
        'name: x\nversion: "0.3"\nimages: [{name: a, injection_files: ['
        + ",".join("/a" * 2000 + str(i) for i in range(250))
        + "]}]"
    ),
    "billion laughs": "a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n",
    "comments": "#\n" * (_N // 2),
    "tabs": "\t" * _N,
    "quotes": '"' * _N,
    "keys without values": "a:" * (_N // 2),
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_costs_no_more_than_its_bytes(text: str) -> None:
    begin = time.perf_counter()
    _try(text.encode())
    assert time.perf_counter() - begin < _DEADLINE


def test_more_than_the_limit_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(TooLarge, match="1048577 bytes, expected at most 1048576"):
        load_session(b"\xff" * (MAX_BYTES + 1))


def test_the_largest_document_can_be_read_back() -> None:
    head = 'name: x\nversion: "0.3"\nimages: [{name: i, injection_files: [{path: /a, content: "'
    for filler in ("a\\n", "\\0", "\\ufeff", "é", " \\n ", "\\e"):
        count = (MAX_BYTES - len(head) - 10) // len(filler.encode())
        _try((head + filler * count + '"}]}]').encode())


def test_substitution_is_bounded() -> None:
    text = "$$SCONE::A$$" * 1000
    with pytest.raises(TooLarge):
        substitute(text, lambda name, suffix: b"x" * 65536)
