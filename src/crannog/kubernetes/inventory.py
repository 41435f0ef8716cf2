"""What the node offers now, shared by the watching thread and the kubelet's streams."""

from __future__ import annotations

import threading
from collections.abc import Callable

from crannog.kubernetes.resources import Offer


class Inventory:
    """Holds one `Offer`, and wakes who waits for another."""

    def __init__(self, offer: Offer) -> None:
        self._change = threading.Condition()
        self._offer = offer

    @property
    def offer(self) -> Offer:
        """The latest."""
        return self._offer

    def update(self, offer: Offer) -> bool:
        """Replace it; whether it is another one."""
        with self._change:
            changed = offer != self._offer
            self._offer = offer
            if changed:
                self._change.notify_all()
        return changed

    def wake(self) -> None:
        """Let all who wait look whether they are still wanted."""
        with self._change:
            self._change.notify_all()

    def next(self, seen: Offer | None, wanted: Callable[[], bool]) -> Offer | None:
        """The offer, once it differs from `seen`; None when it is not wanted any more."""
        with self._change:
            self._change.wait_for(lambda: not wanted() or self._offer != seen)
            return self._offer if wanted() else None
