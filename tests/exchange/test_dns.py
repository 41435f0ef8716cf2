"""DNS messages: what is asked, and which bytes are an answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import FormatError
from crannog.exchange.dns import (
    MAX_ADDRESSES,
    NO_SUCH_NAME,
    Answer,
    Kind,
    encode_name,
    encode_query,
    mix_case,
    parse_answer,
)
from crannog.testing.dns import Query, answer_to

_NAME = encode_name("cas.example")
_LABELS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_", min_size=1, max_size=63)
_NAMES = st.lists(_LABELS, min_size=1, max_size=3).map(".".join)


def _parse(data: bytes, *, name: bytes = _NAME, kind: Kind = Kind.A, identity: int = 7) -> Answer:
    return parse_answer(data, identity=identity, name=name, kind=kind)


def _answer(
    records: dict[str, tuple[str, ...] | str], name: str = "cas.example", kind: Kind = Kind.A
) -> bytes:
    message = encode_query(7, encode_name(name), kind)
    return answer_to(Query(name, kind, False, message), records)


def _message(*records: bytes, flags: int = 0x8180, name: bytes = _NAME) -> bytes:
    """An answer of hand-made records, after the question for `_NAME`."""
    head = b"\0\7" + flags.to_bytes(2, "big") + b"\0\1" + len(records).to_bytes(2, "big") + bytes(4)
    return head + name + b"\0\1\0\1" + b"".join(records)


def _record(owner: bytes, kind: int, data: bytes, space: int = 1) -> bytes:
    parts = (kind, space, 0, 60, len(data))
    return owner + b"".join(part.to_bytes(2, "big") for part in parts) + data


def test_the_query_is_as_rfc_1035_has_it() -> None:
    assert encode_query(0xABCD, encode_name("a.bc"), Kind.AAAA) == bytes.fromhex(
        "abcd 0100 0001 0000 0000 0000 01 61 02 6263 00 001c 0001"
    )


@given(_NAMES, st.integers(0, 65535), st.ip_addresses(v=4), st.binary(min_size=32, max_size=32))
def test_what_is_answered_is_read(name: str, identity: int, address: object, bits: bytes) -> None:
    encoded = mix_case(encode_name(name), bits)
    message = encode_query(identity, encoded, Kind.A)
    spelt = ".".join(part.decode() for part in _labels(encoded))
    data = answer_to(Query(spelt, 1, False, message), {name.lower(): (str(address),)})
    found = parse_answer(data, identity=identity, name=encoded, kind=Kind.A)
    assert found.exact
    assert [".".join(map(str, each)) for each in found.addresses] == [str(address)]


def _labels(name: bytes) -> list[bytes]:
    labels, position = [], 0
    while length := name[position]:
        labels.append(name[position + 1 : position + 1 + length])
        position += 1 + length
    return labels


@given(_NAMES, st.binary(min_size=32, max_size=32))
def test_mixed_case_is_the_same_name(name: str, bits: bytes) -> None:
    encoded = encode_name(name)
    mixed = mix_case(encoded, bits)
    assert mixed.lower() == encoded.lower()
    assert len(mixed) == len(encoded)


@given(st.binary(max_size=300))
def test_any_bytes_give_an_answer_or_our_error(data: bytes) -> None:
    for message in (data, _message(data), _message()[:12] + data):
        try:
            found = _parse(message)
        except FormatError:
            continue
        assert len(found.addresses) <= MAX_ADDRESSES


@given(st.integers(0, 400), st.integers(0, 255))
def test_any_changed_byte_gives_an_answer_or_our_error(position: int, value: int) -> None:
    data = bytearray(_answer({"cas.example": "other.example", "other.example": ("192.0.2.1",)}))
    data[position % len(data)] = value
    try:
        _parse(bytes(data))
    except FormatError:
        return


def test_aliases_are_followed_in_any_order() -> None:
    one, two = encode_name("one.example"), encode_name("two.example")
    found = _parse(
        _message(
            _record(two, 1, bytes((192, 0, 2, 9))),
            _record(one, 5, two),
            _record(_NAME, 5, one),
            _record(encode_name("stranger.example"), 1, bytes(4)),
        )
    )
    assert found.addresses == (bytes((192, 0, 2, 9)),)


def test_compressed_names_are_read() -> None:
    pointer = b"\xc0\x0c"  # the question's name
    found = _parse(_message(_record(pointer, 1, bytes((192, 0, 2, 1)))))
    assert found.addresses == (bytes((192, 0, 2, 1)),)


def test_an_alias_loop_is_refused() -> None:
    one = encode_name("one.example")
    with pytest.raises(FormatError, match="aliases in a row"):
        _parse(_message(_record(_NAME, 5, one), _record(one, 5, _NAME)))


@pytest.mark.parametrize("pointer", [b"\xc0\x1d", b"\xc0\xff", b"\xff\xff"])
def test_a_pointer_that_does_not_lead_back_is_refused(pointer: bytes) -> None:
    # The first record's owner begins at byte 29: to itself, and to after it.
    with pytest.raises(FormatError, match="points forward or to itself"):
        _parse(_message(_record(pointer, 1, bytes(4))))


def test_names_that_point_at_one_another_are_refused() -> None:
    data = _message(_record(b"\x01a\xc0\x1d", 1, bytes(4)))
    with pytest.raises(FormatError, match="points forward or to itself"):
        _parse(data)


def test_a_name_longer_than_255_bytes_is_refused() -> None:
    label = b"\x3f" + b"a" * 63
    with pytest.raises(FormatError, match="too long"):
        _parse(_message(_record(label * 5 + b"\0", 1, bytes(4))))


def test_another_identity_is_refused() -> None:
    with pytest.raises(FormatError, match="not the answer"):
        _parse(_answer({"cas.example": ("192.0.2.1",)}), identity=8)


def test_a_question_sent_back_is_refused() -> None:
    with pytest.raises(FormatError, match="not the answer"):
        _parse(encode_query(7, _NAME, Kind.A))


def test_an_answer_to_another_name_is_refused() -> None:
    with pytest.raises(FormatError, match="another question"):
        _parse(_answer({}, name="las.example"))


def test_an_answer_to_another_type_is_refused() -> None:
    with pytest.raises(FormatError, match="another question"):
        _parse(_answer({}, kind=Kind.AAAA))


def test_an_address_of_another_length_is_refused() -> None:
    with pytest.raises(FormatError, match="has 5 bytes, expected 4"):
        _parse(_message(_record(_NAME, 1, bytes(5))))


def test_a_record_of_another_class_is_passed_over() -> None:
    assert _parse(_message(_record(_NAME, 1, bytes(4), space=3))).addresses == ()


def test_an_answer_in_another_case_is_told_apart() -> None:
    found = _parse(_answer({"cas.example": ("192.0.2.1",)}, name="CAS.example"))
    assert not found.exact
    assert len(found.addresses) == 1


def test_a_truncated_answer_says_so_and_gives_nothing() -> None:
    data = bytearray(_answer({"cas.example": ("192.0.2.1",)}))
    data[2] |= 2
    found = _parse(bytes(data))
    assert found.truncated
    assert found.addresses == ()


def test_a_name_that_does_not_exist_is_told_apart_from_one_without_addresses() -> None:
    assert _parse(_answer({})).code == NO_SUCH_NAME
    assert _parse(_answer({"cas.example": ()})).code == 0


def test_a_refusal_without_the_question_is_a_refusal() -> None:
    assert _parse(b"\0\7\x81\x85" + bytes(8)).code == 5


@pytest.mark.parametrize("name", ["", ".", "a..b", "a" * 64, "a b", "é", "a/b", "a." * 200])
def test_what_is_no_host_name_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="host name"):
        encode_name(name)
