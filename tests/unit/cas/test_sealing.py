from __future__ import annotations

import os

import pytest

from crannog.cas.store.sealing import OVERHEAD, derive_keys, seal, unseal
from crannog.errors import IntegrityError

KEYS = derive_keys(bytes(32), bytes(16))
ROW = (b"document", b"name", b"1", b"hash")


def test_what_is_sealed_opens_for_its_row() -> None:
    sealed = seal(KEYS, ROW, b"plain", os.urandom)
    assert unseal(KEYS, ROW, sealed) == b"plain"
    assert len(sealed) == OVERHEAD + len(b"plain")
    assert b"plain" not in sealed


@pytest.mark.parametrize(
    "row",
    [
        (b"secrets", b"name", b"1", b"hash"),
        (b"document", b"other", b"1", b"hash"),
        (b"document", b"name", b"2", b"hash"),
        (b"document", b"name", b"1", b"other"),
        (b"document", b"name", b"1hash", b""),
    ],
)
def test_another_row_does_not_open_it(row: tuple[bytes, ...]) -> None:
    sealed = seal(KEYS, ROW, b"plain", os.urandom)
    with pytest.raises(IntegrityError):
        unseal(KEYS, row, sealed)


def test_another_master_key_or_database_does_not_open_it() -> None:
    sealed = seal(KEYS, ROW, b"plain", os.urandom)
    for other in (derive_keys(b"\1" * 32, bytes(16)), derive_keys(bytes(32), b"\1" * 16)):
        with pytest.raises(IntegrityError):
            unseal(other, ROW, sealed)


def test_the_keys_of_one_database_are_all_different() -> None:
    values = [*KEYS]
    assert len({value[:16] for value in values}) == len(values)


def test_the_same_text_is_sealed_differently_each_time() -> None:
    assert seal(KEYS, ROW, b"x", os.urandom) != seal(KEYS, ROW, b"x", os.urandom)


def test_no_key_is_in_a_repr() -> None:
    text = repr(KEYS)
    for key in (KEYS.seal, KEYS.audit, KEYS.versions, KEYS.state):
        assert key.hex() not in text
        assert repr(key) not in text
