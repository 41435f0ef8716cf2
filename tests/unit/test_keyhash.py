from __future__ import annotations

import pytest

from crannog.errors import FormatError
from crannog.keyhash import decode_check, encode_check


def test_a_known_bitcoin_address() -> None:
    # The first address of all: version 0, RIPEMD-160 of the genesis key.
    payload = bytes.fromhex("62e907b15cbf27d5425399ebf6f0fb50ebb88f18")
    text = "1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa"
    assert encode_check(0, payload) == text
    assert decode_check(text, version=0, length=20, what="address") == payload


def test_a_key_hash_of_the_reference_has_version_one_and_32_bytes() -> None:
    # Published: CLI introduction, "CAS key hash".
    text = encode_check(1, bytes(range(32)))
    assert len(text) in (49, 50, 51)
    assert decode_check(text, version=1, length=32, what="key hash") == bytes(range(32))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNb", "checksum"),
        ("1A1zP1eP5QGefi2DMPTfTL5SLmv7Divf", "bytes, expected 20"),
        ("0A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "alphabet"),
        ("", "expected 20"),
        ("1" * 101, "at most 100"),
    ],
)
def test_mistyped_text_is_refused(text: str, why: str) -> None:
    with pytest.raises(FormatError, match=why):
        decode_check(text, version=0, length=20, what="address")


def test_another_version_is_refused() -> None:
    with pytest.raises(FormatError, match="version byte 0x0a, expected 0x01"):
        decode_check(encode_check(10, bytes(32)), version=1, length=32, what="key hash")
