"""Counters for an operator's Prometheus. No session's name and no peer is in them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from crannog.levels import Level

Counts = Callable[[], Mapping[str, int]]


class Metrics:
    """What `/v1/metrics` shows."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "crannog_cas_requests",
            "Requests on the client API by HTTP status",
            ["status"],
            registry=self._registry,
        )
        self._attestations = Counter(
            "crannog_cas_attestations",
            "Attestations by outcome (provisioned, or the code of the refusal) and by the level of "
            "the evidence (none: nothing authentic)",
            ["outcome", "level"],
            registry=self._registry,
        )

        self._enrolments = Counter(
            "crannog_cas_las_enrolments",
            "Enrolments of LASes by token, renewals included, by outcome (enrolled, or the code of "
            "the refusal)",
            ["outcome"],
            registry=self._registry,
        )

    def request(self, status: int) -> None:
        """Count a response."""
        self._requests.labels(str(status)).inc()

    def attestation(self, outcome: str, level: Level | None) -> None:
        """Count the end of an exchange on 18765; `level` is None where nothing was authentic."""
        self._attestations.labels(outcome, "none" if level is None else level.value).inc()

    def enrolment(self, outcome: str) -> None:
        """Count the end of an enrolment by token."""
        self._enrolments.labels(outcome).inc()

    def watch(self, port: str, counts: Counts) -> None:
        """Show a listener's counts."""
        self._registry.register(_Connections(port, counts))

    def text(self) -> bytes:
        """Everything in Prometheus's text form."""
        return generate_latest(self._registry)


class _Connections(Collector):
    def __init__(self, port: str, counts: Counts) -> None:
        self._port = port
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        counts = dict(self._counts())
        gauge = GaugeMetricFamily(f"crannog_cas_{self._port}_connections", "Connections open now")
        gauge.add_metric([], counts.pop("open", 0))
        yield gauge
        total = CounterMetricFamily(
            f"crannog_cas_{self._port}_connections_by_event",
            "Connections accepted, failed, evicted, crashed",
            labels=["event"],
        )
        for event, count in sorted(counts.items()):
            total.add_metric([event], count)
        yield total
