"""The node's labels that say what the plugin offers there."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Protocol

from crannog.errors import Error
from crannog.kubernetes.resources import Mode, Offer
from crannog.kubernetes.status import Metrics
from crannog.transport.log import Log

CAPABLE = "sgx.intel.com/capable"
SIMULATION = "sgx.k8s.io/simulation"
_AGAIN_SECONDS = 600.0  # somebody else may have changed them
_FIRST_RETRY = 1.0
_LAST_RETRY = 60.0


class NodeLabels(Protocol):
    """Who sets labels: the API server."""

    def patch_node(self, name: str, labels: Mapping[str, str | None]) -> None:
        """Set those with a value, take away those without."""


def labels_of(offer: Offer) -> dict[str, str | None]:
    """The labels for what a node offers; None is a label that it must not have."""
    return {
        CAPABLE: "true" if offer.capable() else None,
        SIMULATION: "true" if offer.mode is Mode.SIMULATION else None,
    }


class Labeler:
    """Keeps a node's labels as they should be, in a thread of its own.

    An API server that is away stops nothing else: containers are given devices without it.

    Args:
        server: where to set them.
        node: the node's name.
        log: what changed, and each kind of failure once.
        metrics: counts.
    """

    def __init__(
        self,
        server: NodeLabels,
        node: str,
        *,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._server = server
        self._node = node
        self._log = log
        self._metrics = metrics
        self._change = threading.Condition()
        self._wanted: dict[str, str | None] | None = None
        self._set: dict[str, str | None] | None = None
        self._stopping = False
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="labels", daemon=True)

    def start(self) -> None:
        """Begin; nothing is set before `want` says what."""
        self._thread.start()

    def want(self, offer: Offer) -> None:
        """What the node offers now."""
        with self._change:
            self._wanted = labels_of(offer)
            self._change.notify_all()

    def stop(self) -> None:
        """End; the labels stay. What is under way is given up."""
        with self._change:
            self._stopping = True
            self._change.notify_all()

    def _run(self) -> None:
        delay = _FIRST_RETRY
        while (labels := self._next()) is not None:
            done = self._patch(labels)
            with self._change:
                if done:
                    self._set, delay = labels, _FIRST_RETRY
                    self._change.wait_for(
                        lambda: self._stopping or self._wanted != self._set, _AGAIN_SECONDS
                    )
                else:
                    self._change.wait_for(lambda: self._stopping, delay)
                    delay = min(2 * delay, _LAST_RETRY)

    def _next(self) -> dict[str, str | None] | None:
        with self._change:
            self._change.wait_for(lambda: self._stopping or self._wanted is not None)
            return None if self._stopping else self._wanted

    def _patch(self, labels: dict[str, str | None]) -> bool:
        try:
            self._server.patch_node(self._node, labels)
        except Error as error:
            self._metrics.label_update(error.code)
            if error.message != self._failure:
                self._failure = error.message
                self._log.warning(f"the node cannot be labelled: {error.message}", hint=error.hint)
            return False
        self._metrics.label_update("set")
        if labels != self._set or self._failure:
            self._failure = ""
            shown = {name: value or "-" for name, value in labels.items()}
            self._log.info(f"node {self._node} is labelled", **shown)
        return True
