"""Readiness and metrics of a device plugin, over HTTP."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest

from crannog.errors import Error
from crannog.kubernetes.resources import RESOURCES, Mode, Offer
from crannog.transport.http import HttpLimits, Request, Response, serve_http
from crannog.transport.listener import Listener, Slot, tcp_socket
from crannog.transport.stream import SocketStream

_LIMITS = HttpLimits(body=0, request_seconds=5.0, idle_seconds=60.0)
_CONNECTIONS = 64  # that many strangers a second do not keep a probe from its answer
_LIVE_SECONDS = 60.0  # four registrations that wait for a kubelet take twenty
_TEXT = (("Content-Type", "text/plain; charset=utf-8"),)
_METRICS = (("Content-Type", "text/plain; version=0.0.4; charset=utf-8"),)


class Readiness(NamedTuple):
    """Why the plugin is not ready: a line each; empty when it is."""

    reasons: tuple[str, ...]


class Metrics:
    """What `/metrics` shows. No pod and no container is in it."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._allocations = self._counter("allocations", "Allocate calls by outcome", "outcome")
        self._registrations = self._counter("registrations", "Registrations by outcome", "outcome")
        self._labels = Counter(
            "crannog_plugin_label_updates",
            "Updates of the node's labels by outcome",
            ["outcome"],
            registry=self._registry,
        )
        self._devices = Gauge(
            "crannog_plugin_devices",
            "Devices announced, by resource and health",
            ["resource", "health"],
            registry=self._registry,
        )
        self._mode = Gauge(
            "crannog_plugin_mode", "1 for the mode it is in", ["mode"], registry=self._registry
        )
        self._given = Gauge(
            "crannog_plugin_given_devices",
            "Devices that the kubelet has given to containers, by the mode they were given in",
            ["mode"],
            registry=self._registry,
        )

    def allocation(self, resource: str, outcome: str) -> None:
        """Count an answer to Allocate: `given`, or the code of the refusal."""
        self._allocations.labels(resource, outcome).inc()

    def registration(self, resource: str, outcome: str) -> None:
        """Count a registration: `registered`, or the code of the failure."""
        self._registrations.labels(resource, outcome).inc()

    def label_update(self, outcome: str) -> None:
        """Count an update of the node's labels: `set`, or the code of the failure."""
        self._labels.labels(outcome).inc()

    def given(self, devices: Mapping[Mode, int]) -> None:
        """Show which devices containers have."""
        for mode, count in devices.items():
            self._given.labels(mode.value).set(count)

    def offer(self, offer: Offer, served: frozenset[str]) -> None:
        """Show what is announced; `served` names the resources that are registered at all."""
        self._mode.labels(offer.mode.value).set(1)
        for resource in RESOURCES:
            if resource.name in served:
                available = offer.available(resource)
                for health, count in (("healthy", available), ("unhealthy", not available)):
                    self._devices.labels(resource.name, health).set(offer.count * count)

    def text(self) -> bytes:
        """Everything in Prometheus's text form."""
        return generate_latest(self._registry)

    def _counter(self, what: str, help_text: str, label: str) -> Counter:
        return Counter(
            f"crannog_plugin_{what}", help_text, ["resource", label], registry=self._registry
        )


class _PlainStream(SocketStream):
    """A connection without TLS as the HTTP server wants it."""

    def peer_certificate(self) -> bytes | None:
        """None: nobody shows one here."""
        return None

    def finish(self) -> None:
        """End our direction."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)


class StatusServer:
    """Answers `/ready`, `/live` and `/metrics`.

    Args:
        address: host and port.
        metrics: what `/metrics` shows.
    """

    def __init__(self, address: tuple[str, int], metrics: Metrics) -> None:
        self._metrics = metrics
        self._readiness = Readiness(("starting",))
        self._beat = time.monotonic()
        self._dead = ""
        self._listener = Listener(
            "status",
            tcp_socket(*address, "device plugin"),
            self._serve,
            connections=_CONNECTIONS,
            failed=lambda _peer, _error: None,
        )

    @property
    def address(self) -> tuple[str, int]:
        """What it listens on."""
        return self._listener.address

    def start(self) -> None:
        """Serve in threads of its own."""
        self._listener.start()

    def stop(self) -> None:
        """Stop listening."""
        self._listener.stop(0.5)

    def beat(self) -> None:
        """Say that the plugin's thread is at work."""
        self._beat = time.monotonic()

    def give_up(self, reason: str) -> None:
        """Say from now on that only another start can help."""
        self._dead = reason

    def tell(self, readiness: Readiness) -> None:
        """What `/ready` says from now on."""
        self._readiness = readiness

    def respond(self, request: Request) -> Response:
        """The answer to a request."""
        if request.method not in {"GET", "HEAD"}:
            return _answer(HTTPStatus.METHOD_NOT_ALLOWED, "expected GET")
        match request.target.partition("?")[0]:
            case "/live":
                if self._dead:
                    return _answer(HTTPStatus.SERVICE_UNAVAILABLE, self._dead)
                since = time.monotonic() - self._beat
                if since > _LIVE_SECONDS:
                    text = f"nothing was looked at for {since:.0f} s"
                    return _answer(HTTPStatus.SERVICE_UNAVAILABLE, text)
                return _answer(HTTPStatus.OK, "live")
            case "/ready":
                reasons = self._readiness.reasons
                if reasons:
                    return _answer(HTTPStatus.SERVICE_UNAVAILABLE, "\n".join(reasons))
                return _answer(HTTPStatus.OK, "ready")
            case "/metrics":
                return Response(HTTPStatus.OK, _METRICS, self._metrics.text())
        return _answer(HTTPStatus.NOT_FOUND, "expected /ready, /live or /metrics")

    def refuse(self, error: Error, _peer: str) -> Response:
        """The answer to something that is no request."""
        return _answer(HTTPStatus.BAD_REQUEST, error.message)

    def _serve(self, slot: Slot) -> None:
        serve_http(_PlainStream(slot.socket), slot, self, _LIMITS)


def _answer(status: HTTPStatus, text: str) -> Response:
    return Response(status.value, _TEXT, text.encode() + b"\n")
