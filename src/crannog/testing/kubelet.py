"""A kubelet for tests of device plugins: registration, streams and allocations, over real sockets.

It does to the plugin directory what the real one does at its start (it removes every socket) and
dials back what registers. It keeps what it was told, and judges nothing.
"""

from __future__ import annotations

import contextlib
import stat
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from crannog.errors import Refused
from crannog.kubernetes.kubelet import KUBELET_SOCKET
from crannog.kubernetes.messages import (
    HEALTHY,
    PLUGIN_SERVICE,
    VERSION,
    AllocateRequest,
    AllocateResponse,
    Device,
    DevicePluginOptions,
    Empty,
    ListAndWatchResponse,
    RegisterRequest,
)

_SECONDS = 10.0


@dataclass(slots=True)
class Plugin:
    """A resource as the kubelet knows it.

    Attributes:
        request: what it registered with last.
        options: what it answered when asked.
        devices: what its stream said last.
        updates: how often it said something.
        connected: whether the stream stands.
    """

    request: RegisterRequest
    channel: grpc.Channel
    options: DevicePluginOptions = field(default_factory=DevicePluginOptions)
    devices: tuple[Device, ...] = ()
    updates: int = 0
    connected: bool = False

    def healthy(self) -> int:
        """How many containers may be given one."""
        return sum(device.health == HEALTHY for device in self.devices)


class FakeKubelet:
    """A kubelet on a directory; also a context manager.

    Args:
        directory: the plugin directory.
        refuse: gives the reason to refuse a registration, or "".
    """

    def __init__(
        self, directory: Path, *, refuse: Callable[[RegisterRequest], str] = lambda _request: ""
    ) -> None:
        self._directory = directory
        self._refuse = refuse
        self._change = threading.Condition()
        self._plugins: dict[str, Plugin] = {}
        self._threads: list[threading.Thread] = []
        self._server: grpc.Server | None = None
        self.registrations = 0

    def start(self) -> None:
        """Clean the directory as a kubelet does, and take registrations."""
        for path in self._directory.iterdir():
            if stat.S_ISSOCK(path.lstat().st_mode):
                path.unlink()
        server = grpc.server(ThreadPoolExecutor(4))
        handler = grpc.unary_unary_rpc_method_handler(
            self._register, RegisterRequest.parse, Empty.encode
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler("v1beta1.Registration", {"Register": handler}),)
        )
        server.add_insecure_port(f"unix:{self._directory / KUBELET_SOCKET}")
        server.start()
        self._server = server

    def stop(self) -> None:
        """End as a kubelet does: streams and registrations are gone, so is its socket."""
        if self._server is not None:
            self._server.stop(None).wait()
            self._server = None
        self.disconnect()
        for thread in self._threads:
            thread.join(_SECONDS)
        self._threads.clear()
        with contextlib.suppress(FileNotFoundError):
            (self._directory / KUBELET_SOCKET).unlink()

    def disconnect(self) -> None:
        """Drop every stream, as after an error, and forget who was registered."""
        with self._change:
            plugins = list(self._plugins.values())
            self._plugins.clear()
        for plugin in plugins:
            plugin.channel.close()

    def __enter__(self) -> FakeKubelet:
        self.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.stop()

    def resources(self) -> tuple[str, ...]:
        """The names of what is registered, sorted."""
        with self._change:
            return tuple(sorted(self._plugins))

    def plugin(self, resource: str) -> Plugin:
        """What is registered under that name."""
        with self._change:
            return self._plugins[resource]

    def wait(self, what: Callable[[FakeKubelet], bool], seconds: float = _SECONDS) -> None:
        """Return once `what` holds.

        Raises:
            AssertionError: it did not in that time; says what was seen.
        """
        until = time.monotonic() + seconds
        with self._change:
            while not what(self):
                # Its own events wake it; the bound is for conditions on something else.
                if not self._change.wait(min(0.1, until - time.monotonic())) and (
                    time.monotonic() > until
                ):
                    seen = {name: (one.healthy(), one.connected) for name, one in self._all()}
                    raise AssertionError(f"not in {seconds} s; resources (healthy, stream): {seen}")

    def healthy(self, resource: str) -> int:
        """How many devices of it may be given; 0 where it is not registered."""
        plugin = self._plugins.get(resource)
        return 0 if plugin is None else plugin.healthy()

    def listens_to(self, *resources: str) -> bool:
        """Whether the streams of all these stand."""
        found = [self._plugins.get(name) for name in resources]
        return all(one is not None and one.connected for one in found)

    def allocate(self, resource: str, *containers: tuple[str, ...]) -> AllocateResponse:
        """Ask for the devices with these ids, a tuple for each container.

        Raises:
            Refused: the plugin refuses; its message holds the status and the details.
        """
        channel = self.plugin(resource).channel
        call: grpc.UnaryUnaryMultiCallable[AllocateRequest, AllocateResponse] = channel.unary_unary(
            f"/{PLUGIN_SERVICE}/Allocate",
            request_serializer=AllocateRequest.encode,
            response_deserializer=AllocateResponse.parse,
        )
        try:
            return call(AllocateRequest(containers), timeout=_SECONDS)
        except grpc.RpcError as error:
            raise Refused(f"{error.code().name}: {error.details()}") from error

    def _all(self) -> list[tuple[str, Plugin]]:
        return sorted(self._plugins.items())

    def _register(self, request: RegisterRequest, context: grpc.ServicerContext) -> Empty:
        reason = self._refuse(request)
        if not reason and request.version != VERSION:
            reason = f"version {request.version}"
        if reason:
            context.abort(grpc.StatusCode.UNKNOWN, reason)
        channel = grpc.insecure_channel(f"unix:{self._directory / request.endpoint}")
        plugin = Plugin(request, channel)
        ask: grpc.UnaryUnaryMultiCallable[Empty, DevicePluginOptions] = channel.unary_unary(
            f"/{PLUGIN_SERVICE}/GetDevicePluginOptions",
            request_serializer=Empty.encode,
            response_deserializer=DevicePluginOptions.parse,
        )
        plugin.options = ask(Empty(), timeout=_SECONDS)
        with self._change:
            before = self._plugins.get(request.resource_name)
            self._plugins[request.resource_name] = plugin
            self.registrations += 1
            self._change.notify_all()
        if before is not None:
            before.channel.close()
        thread = threading.Thread(target=self._listen, args=(plugin,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return Empty()

    def _listen(self, plugin: Plugin) -> None:
        watch: grpc.UnaryStreamMultiCallable[Empty, ListAndWatchResponse] = (
            plugin.channel.unary_stream(
                f"/{PLUGIN_SERVICE}/ListAndWatch",
                request_serializer=Empty.encode,
                response_deserializer=ListAndWatchResponse.parse,
            )
        )
        with contextlib.suppress(grpc.RpcError, ValueError):  # ValueError: the channel was closed
            for said in watch(Empty()):
                with self._change:
                    plugin.devices, plugin.connected = said.devices, True
                    plugin.updates += 1
                    self._change.notify_all()
        with self._change:
            plugin.connected = False
            self._change.notify_all()
