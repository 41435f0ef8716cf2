"""One resource, kept known to the kubelet: a socket that is ours, a registration, a stream.

Decides when to serve anew, when to register again and how long to wait after a failure.
"""

from __future__ import annotations

import time
from collections import deque

from crannog.errors import Error
from crannog.kubernetes.endpoint import Endpoint, Identity
from crannog.kubernetes.kubelet import Kubelet
from crannog.kubernetes.status import Metrics
from crannog.transport.log import Log

_FIRST_RETRY = 1.0
_LAST_RETRY = 5.0
# A kubelet gives a resource to whoever registers it last, and drops who had it. Two plugins that
# each come back would take it from each other for ever.
_LOSSES = 3
_LOSSES_WITHIN = 60.0
_CONTENDED_RETRY = 60.0


class Served:
    """A resource that this node has, or had since the plugin's start.

    Args:
        endpoint: its server; not started yet.
        kubelet: where it is registered.
        stream_seconds: how long a kubelet may leave it without a stream.
        log: each kind of failure once.
        metrics: counts.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        kubelet: Kubelet,
        *,
        stream_seconds: float,
        log: Log,
        metrics: Metrics,
    ) -> None:
        self._endpoint = endpoint
        self._kubelet = kubelet
        self._stream_seconds = stream_seconds
        self._log = log
        self._metrics = metrics
        self._known_to: Identity | None = None
        self._heard_at = 0.0  # when that kubelet last had a stream, or registered it; monotonic
        self._retry_at = 0.0
        self._delay = _FIRST_RETRY
        self._failure = ""
        self._losses: deque[float] = deque(maxlen=_LOSSES)

    def keep(self, kubelet: Identity | None, now: float) -> bool:
        """Mend what is not as it should be; whether the resource was registered just now.

        Args:
            kubelet: which one is there.
            now: monotonic seconds.
        """
        endpoint = self._endpoint
        if endpoint.listening:
            self._heard_at = now
        if endpoint.alive and (kubelet is None or not self._lost(kubelet, now)):
            return False
        if now < self._retry_at:
            return False
        try:
            if not endpoint.alive:
                self._known_to = None
                endpoint.start()
            if kubelet is not None:
                self._register(kubelet)
            self._failure, self._delay = "", _FIRST_RETRY
        except Error as error:
            self._metrics.registration(endpoint.resource.name, error.code)
            self._fail(error.message, error.hint, self._delay)
            self._delay = min(2 * self._delay, _LAST_RETRY)
        return self._known_to is not None

    def trouble(self, kubelet: Identity) -> str:
        """Why a pod that asks for it would wait; empty when the kubelet listens."""
        if self._failure:
            return self._failure
        if self._known_to != kubelet or not self._endpoint.listening:
            return f"{self._endpoint.resource.name}: the kubelet does not listen"
        return ""

    def stop(self) -> None:
        """End its streams, and take its socket away."""
        self._endpoint.stop()

    def _lost(self, kubelet: Identity, now: float) -> bool:
        """Whether this kubelet does not know it, or has let go of it."""
        if self._known_to is None:
            return True
        if self._known_to != kubelet:
            self._known_to, self._retry_at = None, 0.0
            self._losses.clear()
            return True
        if now - self._heard_at <= self._stream_seconds:
            return False
        self._known_to = None
        self._losses.append(now)
        if len(self._losses) == _LOSSES and now - self._losses[0] < _LOSSES_WITHIN:
            self._losses.clear()
            name = self._endpoint.resource.name
            self._fail(
                f"{name}: the kubelet has let go of it {_LOSSES} times within a minute: another "
                "plugin of this node seems to offer it too",
                "let one of them offer it: --offer; the sockets in the kubelet's plugin directory "
                "tell which plugins there are",
                _CONTENDED_RETRY,
            )
        return True

    def _register(self, kubelet: Identity) -> None:
        name = self._endpoint.resource.name
        self._endpoint.expect()
        self._kubelet.register(self._endpoint.resource)
        self._known_to, self._heard_at = kubelet, time.monotonic()
        self._metrics.registration(name, "registered")
        self._log.info(f"{name} is registered with the kubelet")

    def _fail(self, message: str, hint: str, seconds: float) -> None:
        if message != self._failure:
            self._log.warning(message, hint=hint)
        self._known_to, self._failure = None, message
        self._retry_at = time.monotonic() + seconds
