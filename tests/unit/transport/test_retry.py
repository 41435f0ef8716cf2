from __future__ import annotations

import pytest

from crannog.errors import Denied, Unavailable
from crannog.transport.retry import ONCE, Retry, with_retry

QUICK = Retry(seconds=5.0, first_pause=0.001, longest_pause=0.002)


def test_what_is_unavailable_is_tried_again() -> None:
    tries: list[int] = []

    def attempt() -> str:
        tries.append(1)
        if len(tries) < 4:
            raise Unavailable("not yet")
        return "there"

    assert with_retry(attempt, QUICK) == "there"
    assert len(tries) == 4


def test_a_refusal_is_not_tried_again() -> None:
    tries: list[int] = []

    def attempt() -> None:
        tries.append(1)
        raise Denied("no")

    with pytest.raises(Denied):
        with_retry(attempt, QUICK)
    assert len(tries) == 1


def test_the_last_error_is_the_one_that_is_told() -> None:
    def attempt() -> None:
        raise Unavailable("still not")

    with pytest.raises(Unavailable, match="still not"):
        with_retry(attempt, Retry(0.005, 0.001))


def test_once_is_once() -> None:
    tries: list[int] = []

    def attempt() -> None:
        tries.append(1)
        raise Unavailable("no")

    with pytest.raises(Unavailable):
        with_retry(attempt, ONCE)
    assert len(tries) == 1
