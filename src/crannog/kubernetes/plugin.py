"""The device plugin: one thread that keeps what the kubelet knows equal to what the node has.

Each second it looks at the node's devices, at its own sockets and at the kubelet's. Whatever has
gone wrong, a restarted kubelet, a directory that was emptied, a stream that broke, is mended by the
same comparison; there is no event that could be missed. docs/formats/device-plugin.md.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from crannog.errors import Error, Misconfigured, Unavailable, defect
from crannog.kubernetes.allocation import allocate
from crannog.kubernetes.checkpoint import CHECKPOINT, read_checkpoint
from crannog.kubernetes.devices import scan
from crannog.kubernetes.endpoint import Endpoint, Identity, identify
from crannog.kubernetes.inventory import Inventory
from crannog.kubernetes.kubelet import DirectoryLock, Kubelet
from crannog.kubernetes.labels import Labeler
from crannog.kubernetes.messages import AllocateRequest, AllocateResponse
from crannog.kubernetes.resources import RESOURCES, Mode, Offer, Resource
from crannog.kubernetes.served import Served
from crannog.kubernetes.settings import PluginSettings
from crannog.kubernetes.status import Metrics, Readiness, StatusServer
from crannog.kubernetes.watched import WatchedRelease
from crannog.transport.log import Log, server_log


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
        self._release = WatchedRelease(settings.release, owner=settings.owner)
        self._problem = self._release.problem()
        self._problem_at = time.monotonic()
        self._checkpoint: Identity | None = None
        self._given: Mapping[Mode, int] | None = None
        self._inventory = Inventory(self._look())
        self._served: dict[str, Served] = {}
        self._status: StatusServer | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="plugin", daemon=True)
        self._said_missing = False
        self._said_removed = False

    @property
    def status_address(self) -> tuple[str, int]:
        """Where readiness and metrics are, once started."""
        if self._status is None:
            raise RuntimeError("the device plugin is not started")
        return self._status.address

    def start(self) -> None:
        """Take the directory, begin to serve, and say so in the log.

        A directory that takes no socket now is tried again until it does.

        Raises:
            Conflict: another plugin serves this node.
            Misconfigured: the directory or the status port cannot be used.
        """
        settings = self._settings
        self._lock.__enter__()
        try:
            self._status = StatusServer(settings.listen, self._metrics)
            self._lock.sign()
            self._say_mode()
            _check_socket_directory(settings.socket_directory)
            self._say_problem()
            self._add_resources()
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
            served.stop()
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
        status = self._status
        if self._lock.removed:
            self._give_up()
            return
        self._watch_release()
        self._publish(self._look())
        self._count_given()
        kubelet = self._kubelet.identity()
        if (kubelet is None) is not self._said_missing:
            self._said_missing = kubelet is None
            if kubelet is None:
                self._log.warning("the kubelet's socket is not there: waiting for it")
        now = time.monotonic()
        for served in self._served.values():
            if not self._stopping.is_set() and served.keep(kubelet, now):
                self._lock.sign()
        self._metrics.offer(self._inventory.offer, frozenset(self._served))
        if status is not None:
            status.tell(self._readiness(kubelet))

    def _publish(self, offer: Offer) -> None:
        """Let the kubelet and the node's labels say what there is now."""
        before = self._inventory.offer
        if self._inventory.update(offer):
            self._say_change(before, offer)
            self._add_resources()
            if self._labeler is not None:
                self._labeler.want(offer)

    def _give_up(self) -> None:
        """The directory that we have is no more; only a new container sees the one in its place."""
        reason = f"plugin directory {self._settings.plugin_directory} was removed from the node"
        if not self._said_removed:
            self._said_removed = True
            self._log.error(reason, hint="this container is started again by its liveness probe")
        if self._status is not None:
            self._status.tell(Readiness((reason,)))
            self._status.give_up(reason)

    def _watch_release(self) -> None:
        if time.monotonic() - self._problem_at >= self._settings.release_seconds:
            self._look_at_release()

    def _look_at_release(self) -> Error | None:
        before, self._problem = self._problem, self._release.look_again()
        self._problem_at = time.monotonic()
        if (before and before.message) != (self._problem and self._problem.message):
            self._say_problem()
            if self._problem is None:
                self._log.info("the launcher release is whole again")
        return self._problem

    def _say_problem(self) -> None:
        if self._problem is not None:
            self._log.warning(self._problem.message, hint=self._problem.hint)

    def _count_given(self) -> None:
        """Say what containers have that this mode would not have given them."""
        directory = self._settings.plugin_directory
        seen, self._checkpoint = self._checkpoint, identify(directory / CHECKPOINT)
        if seen == self._checkpoint or (given := read_checkpoint(directory)) is None:
            return
        self._metrics.given(given)
        before, self._given = self._given or {}, given
        for mode, count in given.items():
            if mode is not self._settings.mode and count > before.get(mode, 0):
                self._log.warning(
                    f"{count} devices of {mode.value} are with containers of this node, which is "
                    f"in {self._settings.mode.value} now: they keep what they were given until "
                    "their pods are deleted"
                )

    def _readiness(self, kubelet: Identity | None) -> Readiness:
        """Ready is: the kubelet knows each resource that there is, and listens to its devices.

        A node without a device is ready too: a cluster has such nodes, and a rollout goes on.
        """
        if kubelet is None:
            return Readiness(("the kubelet's socket is not there",))
        problems = () if self._problem is None else (self._problem.message,)
        troubles = (served.trouble(kubelet) for served in self._served.values())
        return Readiness((*problems, *filter(None, troubles)))

    def _add_resources(self) -> None:
        """Serve what the node has now. What it had stays, as unhealthy: pods may have it."""
        for resource in RESOURCES:
            name = resource.name
            if name in self._served or name not in self._settings.resources:
                continue
            if self._inventory.offer.present(resource):
                directory = self._settings.plugin_directory
                self._served[name] = Served(
                    Endpoint(resource, self._inventory, directory, self._allocate),
                    self._kubelet,
                    stream_seconds=self._settings.stream_seconds,
                    log=self._log,
                    metrics=self._metrics,
                )

    def _allocate(self, resource: Resource, request: AllocateRequest) -> AllocateResponse:
        settings = self._settings
        try:
            if (problem := self._release.problem()) is not None:
                self._problem_at = -self._settings.release_seconds  # the others hear of it at once
                raise Unavailable(problem.message, hint=problem.hint)
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
        settings = self._settings
        found = scan(str(settings.devices))
        return Offer(settings.mode, found, settings.max_pods, whole=self._problem is None)

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
