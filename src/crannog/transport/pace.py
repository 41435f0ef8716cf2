"""How often somebody may have something: a bucket each, so that none makes others wait.

Each costs a server some milliseconds. Pure but for its lock; the time is an argument.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable

AT_ONCE = 20
PER_SECOND = 1.0
_REMEMBERED = 4096


class Pace:
    """Buckets that refill; the one that was used longest ago is forgotten first, and is then full.

    Args:
        at_once: what a full bucket gives.
        per_second: how fast it fills.
    """

    def __init__(self, at_once: float = AT_ONCE, per_second: float = PER_SECOND) -> None:
        self._at_once = at_once
        self._per_second = per_second
        self._lock = threading.Lock()
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def take(self, who: Hashable, now: float) -> bool:
        """Whether `who` may have one at `now` (monotonic seconds), which then counts."""
        with self._lock:
            left, since = self._buckets.pop(who, (self._at_once, now))
            left = min(self._at_once, left + (now - since) * self._per_second)
            allowed = left >= 1
            self._buckets[who] = (left - 1 if allowed else left, now)
            while len(self._buckets) > _REMEMBERED:
                self._buckets.popitem(last=False)
            return allowed
