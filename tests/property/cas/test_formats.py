"""Laws of what the CAS stores and prints: it reads back, a flipped bit is refused."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.cas.keys import EnvironmentKey, key_provider
from crannog.cas.secrets import Bundle, parse_bundle, random_ascii
from crannog.cas.store.records import (
    MAX_RECORD,
    AuditHead,
    Event,
    Record,
    decode_record,
    parse_head,
)
from crannog.cas.store.sealing import derive_keys, lengths, seal, unseal
from crannog.errors import Error, FormatError, IntegrityError
from crannog.keyhash import decode_check, encode_check, parse_key_hash
from crannog.pki.identity import parse_certificate
from crannog.pki.keys import parse_key
from tests.unit.cas.support import NOW

NOWHERE = Path("/nonexistent")
KEYS = derive_keys(bytes(32), bytes(16))
ROWS = st.lists(st.binary(max_size=8), max_size=4).map(tuple)
NAMES = st.text(alphabet="abcXYZ09_-.~", min_size=1, max_size=12)
VALUES = st.dictionaries(NAMES, st.binary(max_size=40), max_size=4)
ANY_TEXT = st.text(alphabet=st.characters(codec=None, categories=None), max_size=700)


@given(ROWS, st.binary(max_size=200))
def test_what_is_sealed_opens(row: tuple[bytes, ...], plain: bytes) -> None:
    assert unseal(KEYS, row, seal(KEYS, row, plain, os.urandom)) == plain


@given(ROWS, st.binary(max_size=60), st.data())
def test_a_flipped_bit_of_a_sealed_value_is_refused(
    row: tuple[bytes, ...], plain: bytes, data: st.DataObject
) -> None:
    sealed = bytearray(seal(KEYS, row, plain, os.urandom))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(IntegrityError):
        unseal(KEYS, row, bytes(sealed))


@given(ROWS, ROWS)
def test_a_sealed_value_opens_for_its_own_row_only(
    row: tuple[bytes, ...], other: tuple[bytes, ...]
) -> None:
    sealed = seal(KEYS, row, b"x", os.urandom)
    if row == other:
        assert unseal(KEYS, other, sealed) == b"x"
    else:
        with pytest.raises(IntegrityError):
            unseal(KEYS, other, sealed)


@given(ROWS, ROWS)
def test_two_lists_of_parts_never_give_the_same_bytes(
    one: tuple[bytes, ...], other: tuple[bytes, ...]
) -> None:
    assert (lengths(one) == lengths(other)) == (one == other)


@given(st.binary(max_size=120))
def test_hostile_bytes_for_a_sealed_value(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        unseal(KEYS, (b"row",), data)


@given(VALUES, VALUES, VALUES, st.none() | st.tuples(st.binary(max_size=9), st.binary(max_size=9)))
def test_a_bundle_reads_back(
    values: dict[str, bytes],
    keys: dict[str, bytes],
    certificates: dict[str, bytes],
    authority: tuple[bytes, bytes] | None,
) -> None:
    bundle = Bundle(values, keys, certificates, authority)
    assert parse_bundle(bundle.encode()) == bundle


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8")))
def test_hostile_bytes_raise_only_our_errors(data: bytes) -> None:
    for parse in (parse_bundle, parse_certificate, parse_key, decode_record):
        with contextlib.suppress(Error):
            parse(data)


@given(st.text(max_size=120))
def test_hostile_text_raises_only_our_errors(text: str) -> None:
    for parse in (
        parse_head,
        parse_key_hash,
        lambda text: EnvironmentKey("K", {"K": text}).load(),
        lambda text: key_provider(text, NOWHERE, {}),
    ):
        with contextlib.suppress(Error):
            parse(text)


@given(ANY_TEXT, ANY_TEXT, st.lists(st.tuples(ANY_TEXT, ANY_TEXT), max_size=20))
def test_any_text_makes_a_record_that_is_stored_and_read(
    session: str, actor: str, notes: list[tuple[str, str]]
) -> None:
    data = Record(NOW, Event.REQUEST_REFUSED, session, "", "", actor, tuple(notes)).encode()
    assert len(data) <= MAX_RECORD
    assert decode_record(data)["event"] == "request refused"


@given(st.integers(0, 10**17), st.binary(min_size=32, max_size=32))
def test_a_head_reads_back(sequence: int, mac: bytes) -> None:
    head = AuditHead(sequence, mac)
    assert parse_head(str(head)) == head


@given(st.integers(0, 255), st.binary(max_size=40))
def test_base58_reads_back(version: int, payload: bytes) -> None:
    text = encode_check(version, payload)
    assert decode_check(text, version=version, length=len(payload), what="x") == payload


@given(st.binary(min_size=32, max_size=32), st.data())
def test_a_mistyped_key_hash_is_refused(payload: bytes, data: st.DataObject) -> None:
    text = encode_check(1, payload)
    at = data.draw(st.integers(0, len(text) - 1))
    typed = data.draw(st.sampled_from("123456789ABCDEFGHJKLMNPQRSTUVWXYZ"))
    if typed != text[at]:
        with pytest.raises(FormatError):
            parse_key_hash(text[:at] + typed + text[at + 1 :])


@given(st.integers(0, 300))
def test_generated_text_has_its_length(size: int) -> None:
    text = random_ascii(size, os.urandom)
    assert len(text) == size
    assert all(0x21 <= byte <= 0x7E for byte in text)
