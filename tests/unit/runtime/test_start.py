from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.runtime.start import Environment

STRINGS = st.binary(max_size=20).map(lambda each: each.replace(b"\0", b""))


def passed_on(block: bytes) -> list[bytes]:
    """What os.execve makes of it, as it is documented: keys and values side by side."""
    environment = Environment(block)
    pairs = zip(environment.keys(), environment.values(), strict=True)
    return [os.fsencode(name) + b"=" + os.fsencode(value) for name, value in pairs]


@given(st.lists(STRINGS, max_size=20))
def test_every_variable_is_passed_on_in_its_order(strings: list[bytes]) -> None:
    block = b"".join(each + b"\0" for each in strings)
    assert passed_on(block) == [each for each in strings if b"=" in each[1:]]


@given(st.binary(max_size=200))
def test_any_bytes_are_taken(block: bytes) -> None:
    environment = Environment(block)
    assert len(environment.keys()) == len(environment.values()) == len(environment)
    assert all(environment[name] in environment.values() for name in environment)


def test_the_first_of_a_name_counts_and_both_are_passed_on() -> None:
    environment = Environment(b"A=1\0B=\0A=2\0")
    assert environment["A"] == "1"
    assert environment.get("C") is None
    assert "B" in environment
    assert passed_on(b"A=1\0B=\0A=2\0") == [b"A=1", b"B=", b"A=2"]


@pytest.mark.parametrize("block", [b"", b"\0", b"noname\0", b"=x\0", b"=\0"])
def test_what_has_no_name_is_left_out(block: bytes) -> None:
    assert passed_on(block) == []
