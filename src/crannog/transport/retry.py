"""Trying again within a bounded time: `Unavailable` is tried again, nothing else is."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from crannog.errors import Unavailable

T = TypeVar("T")


class Retry(NamedTuple):
    """How long to go on.

    Attributes:
        seconds: from the first try to the start of the last; 0 tries once.
        first_pause: seconds before the second try; doubles up to `longest_pause`.
        longest_pause: seconds.
    """

    seconds: float
    first_pause: float = 0.1
    longest_pause: float = 2.0


ONCE = Retry(0.0)


def with_retry(attempt: Callable[[], T], retry: Retry) -> T:
    """The result of `attempt`, or its last `Unavailable`."""
    start = time.monotonic()
    pause = retry.first_pause
    while True:
        try:
            return attempt()
        except Unavailable:
            left = start + retry.seconds - time.monotonic()
            if left <= 0:
                raise
            time.sleep(min(pause, left))
            pause = min(2 * pause, retry.longest_pause)
