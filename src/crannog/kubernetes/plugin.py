"""The device plugin: one thread that keeps what the kubelet knows equal to what the node has.

Each second it looks at the node's devices, at its own sockets and at the kubelet's. Whatever has
gone wrong, a restarted kubelet, a directory that was emptied, a stream that broke, is mended by the
same comparison; there is no event that could be missed. docs/formats/device-plugin.md.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from crannog.errors import Error, Misconfigured, defect
from crannog.kubernetes.allocation import allocate
from crannog.kubernetes.devices import scan
from crannog.kubernetes.endpoint import Endpoint, Identity
from crannog.kubernetes.inventory import Inventory
from crannog.kubernetes.kubelet import DirectoryLock, Kubelet
from crannog.kubernetes.labels import Labeler
from crannog.kubernetes.messages import AllocateRequest, AllocateResponse
from crannog.kubernetes.resources import RESOURCES, Mode, Offer, Resource
from crannog.kubernetes.settings import PluginSettings
from crannog.kubernetes.status import Metrics, Readiness, StatusServer
from crannog.transport.log import Log, server_log

_FIRST_RETRY = 1.0
_LAST_RETRY = 5.0


@dataclass(slots=True)
class _Served:
    """A resource that this node has, or had since the plugin's start.

    Attributes:
        endpoint: its server.
        known_to: the kubelet that it is registered with.
        heard_at: when that kubelet last had a stream, or registered it; monotonic seconds.
        retry_at: not before this moment again.
        delay: how long the next wait is.
        failure: what failed last; empty when all is well.
    """

    endpoint: Endpoint
    known_to: Identity | None = None
    heard_at: float = 0.0
    retry_at: float = 0.0
    delay: float = _FIRST_RETRY
    failure: str = ""


class DevicePlugin:
    """A device plugin that can be started and stopped; also a context manager.

    Args:
        settings: what it is started with.
        labeler: sets the node's labels; None where it is not to.
        log: where its lines go; standard error by default.
        metrics: counts.
    """

    def __init__(
        self,
        settings: PluginSettings,
        *,
        labeler: Labeler | None = None,
        log: Log | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._labeler = labeler
        self._log = log or server_log()
        self._metrics = metrics or Metrics()
        self._kubelet = Kubelet(settings.plugin_directory)
        self._lock = DirectoryLock(settings.plugin_directory, settings.holder)
        self._inventory = Inventory(self._look())
        self._served: dict[str, _Served] = {}
        self._status: StatusServer | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plugin", daemon=True)
        self._said_missing = False

    @property
    def status_address(self) -> tuple[str, int]:
        """Where readiness and metrics are, once started."""
        if self._status is None:
            raise RuntimeError("the device plugin is not started")
        return self._status.address

    def start(self) -> None:
        """Take the directory, serve, and say so in the log.

        Raises:
            Conflict: another plugin serves this node.
            Misconfigured: the directory or the status port cannot be used.
            StorageFailed: no socket can be made.
        """
        settings = self._settings
        self._lock.__enter__()
        try:
            self._status = StatusServer(settings.listen, self._metrics)
            self._lock.sign()
            self._say_mode()
            _check_socket_directory(settings.socket_directory)
            self._add_resources()
            for served in self._served.values():
                served.endpoint.start()
        except Error:
            self.stop()
            raise
        self._status.start()
        if self._labeler is not None:
            self._labeler.start()
            self._labeler.want(self._inventory.offer)
        self._thread.start()

    def stop(self) -> None:
        """End the streams, take the sockets away, leave the directory to the next one."""
        self._stopping.set()
        if self._labeler is not None:
            self._labeler.stop()
        if self._thread.is_alive():
            self._thread.join()
        for served in self._served.values():
            served.endpoint.stop()
        if self._status is not None:
            self._status.stop()
        self._lock.__exit__(None, None, None)

    def __enter__(self) -> DevicePlugin:
        self.start()
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()
        self._log.info("device plugin has stopped; what was allocated stays so")

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._compare()
            except Exception as error:  # noqa: BLE001  # a fault of ours; `/live` ends it if it stays
                self._log.error(defect(error).message)
            else:
                if self._status is not None:
                    self._status.beat()
            self._stopping.wait(self._settings.poll_seconds)

    def _compare(self) -> None:
        """One look at everything."""
        before = self._inventory.offer
        offer = self._look()
        if self._inventory.update(offer):
            self._say_change(before, offer)
            self._add_resources()
            if self._labeler is not None:
                self._labeler.want(offer)
        kubelet = self._kubelet.identity()
        if (kubelet is None) is not self._said_missing:
            self._said_missing = kubelet is None
            if kubelet is None:
                self._log.warning("the kubelet's socket is not there: waiting for it")
        now = time.monotonic()
        for served in self._served.values():
            if not self._stopping.is_set():
                self._keep(served, kubelet, now)
        self._metrics.offer(offer, frozenset(self._served))
        if self._status is not None:
            self._status.tell(self._readiness(kubelet))

    def _keep(self, served: _Served, kubelet: Identity | None, now: float) -> None:
        """Let one resource be served and known to the kubelet."""
        endpoint = served.endpoint
        if endpoint.streams:
            served.heard_at = now
        lost = served.known_to != kubelet or (now - served.heard_at > self._settings.stream_seconds)
        if endpoint.alive and (kubelet is None or not lost):
            return
        if now < served.retry_at:
            return
        name = endpoint.resource.name
        try:
            if not endpoint.alive:
                served.known_to = None
                endpoint.start()
            if kubelet is not None:
                self._kubelet.register(endpoint.resource)
                served.known_to, served.heard_at = kubelet, time.monotonic()
                self._lock.sign()
                self._metrics.registration(name, "registered")
                self._log.info(f"{name} is registered with the kubelet")
            served.failure, served.delay = "", _FIRST_RETRY
        except Error as error:
            self._metrics.registration(name, error.code)
            if error.message != served.failure:
                self._log.warning(error.message, hint=error.hint)
            served.known_to, served.failure = None, error.message
            served.retry_at = time.monotonic() + served.delay
            served.delay = min(2 * served.delay, _LAST_RETRY)

    def _readiness(self, kubelet: Identity | None) -> Readiness:
        """Ready is: the kubelet knows each resource that there is, and listens to its devices.

        A node without a device is ready too: a cluster has such nodes, and a rollout goes on.
        """
        if kubelet is None:
            return Readiness(("the kubelet's socket is not there",))
        return Readiness(
            tuple(
                served.failure or f"{name}: the kubelet does not listen"
                for name, served in self._served.items()
                if served.failure or served.known_to != kubelet or not served.endpoint.streams
            )
        )

    def _add_resources(self) -> None:
        """Serve what the node has now. What it had stays, as unhealthy: pods may have it."""
        for resource in RESOURCES:
            if resource.name not in self._served and self._inventory.offer.available(resource):
                self._served[resource.name] = _Served(
                    Endpoint(
                        resource,
                        self._inventory,
                        self._settings.plugin_directory,
                        self._allocate,
                    )
                )

    def _allocate(self, resource: Resource, request: AllocateRequest) -> AllocateResponse:
        settings = self._settings
        try:
            if not (settings.release / "run").is_file():
                raise Misconfigured(
                    f"launcher release {settings.release} is gone from the node",
                    hint="restart the plugin's pod: its init container installs it",
                )
            response = allocate(
                request,
                resource,
                self._inventory.offer,
                release=str(settings.release),
                socket_directory=str(settings.socket_directory),
            )
        except Error as error:
            self._metrics.allocation(resource.name, error.code)
            self._log.warning(f"allocation refused: {error.message}")
            raise
        self._metrics.allocation(resource.name, "given")
        self._log.info("allocated", resource=resource.name, mode=self._inventory.offer.mode.value)
        return response

    def _look(self) -> Offer:
        return Offer(
            self._settings.mode, scan(str(self._settings.devices)), self._settings.max_pods
        )

    def _say_mode(self) -> None:
        offer = self._inventory.offer
        devices = ", ".join(offer.found.names())
        release = self._settings.release.name
        if offer.mode is Mode.SIMULATION:
            self._log.warning(
                "device plugin in simulation: containers get no SGX device, and nothing is "
                "protected from the node" + (f"; {devices} is there and not used" * bool(devices)),
                launcher=release,
            )
        else:
            self._log.info(f"device plugin with {devices or 'no SGX device yet'}", launcher=release)

    def _say_change(self, before: Offer, after: Offer) -> None:
        for name in sorted(set(before.found.names()) - set(after.found.names())):
            self._log.warning(f"{name} has vanished")
        for name in sorted(set(after.found.names()) - set(before.found.names())):
            self._log.info(f"{name} has appeared")


def _check_socket_directory(directory: Path) -> None:
    """Refuse what could not be mounted. That it is not there yet is no error: the LAS makes it."""
    if directory.exists() and not directory.is_dir():
        raise Misconfigured(
            f"LAS socket directory {directory} is a file, expected a directory",
            hint=f"on the node: remove it, then `mkdir -m 0755 {directory}`",
        )
