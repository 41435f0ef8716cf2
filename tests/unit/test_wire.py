"""`crannog.wire`: strict readers refuse, and raise nothing but our errors."""

from __future__ import annotations

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import FormatError, TooLarge
from crannog.wire import (
    MAX_JSON_DEPTH,
    FrameBuffer,
    Json,
    encode_base64,
    encode_json,
    frame,
    parse_base64,
    parse_hex,
    parse_json,
    parse_object,
)

JSON_VALUES: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON_VALUES)
def test_what_is_encoded_is_parsed_again(value: Json) -> None:
    try:
        data = encode_json(value)
    except UnicodeEncodeError:
        return  # a lone surrogate cannot be sent
    assert parse_json(data, limit=1 << 20) == value


@given(st.binary(max_size=300))
def test_hostile_json_raises_only_our_errors(data: bytes) -> None:
    with contextlib.suppress(FormatError, TooLarge):
        parse_json(data, limit=200)


@pytest.mark.parametrize(
    "data",
    [b'{"a":1,"a":2}', b"[NaN]", b"[Infinity]", b'["\\ud800"]', b"[1] 2", b"\xff", b"", b"1" * 21],
)
def test_json_that_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_json(data, limit=1000)


def test_deep_json_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(FormatError, match="nested deeper"):
        parse_json(b"[" * 100_000 + b"]" * 100_000, limit=1 << 20)


def test_brackets_in_strings_nest_nothing() -> None:
    value: Json = ["[" * 100, '"[\\' * 100, "]" * 100, {"{" * 100: "}"}]
    assert parse_json(encode_json(value), limit=10_000) == value


_nested: st.SearchStrategy[Json] = st.recursive(
    st.none() | st.text('a[]{}"\\', max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text('a[{"\\', max_size=3), inner, max_size=3)
    ),
    max_leaves=30,
)


@given(_nested, st.integers(0, MAX_JSON_DEPTH + 2))
def test_json_is_refused_for_its_depth_from_one_level_on(value: Json, around: int) -> None:
    for _ in range(around):
        value = [value]
    data = encode_json(value)
    if _levels(value) <= MAX_JSON_DEPTH:
        assert parse_json(data, limit=len(data)) == value
    else:
        with pytest.raises(FormatError, match="nested deeper"):
            parse_json(data, limit=len(data))


def _levels(value: Json) -> int:
    if isinstance(value, dict):
        return 1 + max(map(_levels, value.values()), default=0)
    return 1 + max(map(_levels, value), default=0) if isinstance(value, list) else 0


UNENDING = {
    "escaped quotes": b'"' + b'\\"' * 16_000,
    "quotes": b'"' * 32_001,
    "backslashes": b"\\" * 32_000,
    "strings": b'"",' * 11_000,
}


@pytest.mark.parametrize("name", UNENDING)
def test_a_message_costs_no_more_than_its_length(name: str) -> None:
    # Whoever can connect may send one, and while it is looked at nobody else is served.
    start = time.process_time()
    with pytest.raises(FormatError):
        parse_json(b"[]" * (MAX_JSON_DEPTH + 1) + UNENDING[name], limit=1 << 16)
    assert time.process_time() - start < 2.0


def test_a_list_is_not_an_object() -> None:
    with pytest.raises(FormatError, match="expected an object"):
        parse_object(b"[]", limit=10)


@pytest.mark.parametrize("text", ["AA", "0g", "00\n", " 00", "", 7, None])
def test_hex_that_is_refused(text: object) -> None:
    with pytest.raises(FormatError):
        parse_hex(text, 1, "key")


def test_a_refused_key_is_not_repeated() -> None:
    with pytest.raises(FormatError) as caught:
        parse_hex("5ecre7" * 11, 32, "fspf_key")
    assert "5ecre7" not in str(caught.value)


@pytest.mark.parametrize("text", ["AB==", "AA", "A A=", "AA==\n", "Ä===", 3])
def test_base64_that_is_refused(text: object) -> None:
    with pytest.raises(FormatError):
        parse_base64(text, "data", limit=100)


@given(st.binary(max_size=100))
def test_base64_round_trip(data: bytes) -> None:
    assert parse_base64(encode_base64(data), "data", limit=100) == data


@given(st.lists(st.binary(max_size=40), max_size=5))
def test_frames_arrive_whole_byte_by_byte(payloads: list[bytes]) -> None:
    buffer = FrameBuffer(limit=40)
    found = []
    for byte in b"".join(frame(payload, limit=40) for payload in payloads):
        buffer.receive(bytes([byte]))
        while (payload := buffer.next_frame()) is not None:
            found.append(payload)
    assert found == payloads
    assert buffer.pending == 0


def test_a_frame_over_the_limit_is_refused_from_its_header() -> None:
    buffer = FrameBuffer(limit=40)
    buffer.receive(b"\x00\x00\x00\x29")
    with pytest.raises(TooLarge):
        buffer.next_frame()
