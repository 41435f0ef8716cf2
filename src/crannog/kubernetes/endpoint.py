"""One resource's gRPC server on its socket in the kubelet's directory.

The API names no resource in its calls, hence a server for each. Decides what the kubelet is
answered; when to register is `plugin`'s question.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

import grpc

from crannog.errors import Error, FormatError, Misconfigured, NotFound, StorageFailed, chain, hints
from crannog.kubernetes.inventory import Inventory
from crannog.kubernetes.messages import (
    PLUGIN_SERVICE,
    AllocateRequest,
    AllocateResponse,
    DevicePluginOptions,
    Empty,
    ListAndWatchResponse,
)
from crannog.kubernetes.resources import Resource

# The kubelet has one stream and one call at a time. The rest is for one that was restarted, and for
# whatever else connects: streams are bounded, so that Allocate always finds a thread.
_THREADS = 16
_MAX_STREAMS = 8
_MAX_MESSAGE = 1 << 20
_STOP_SECONDS = 1.0

_STATUS = {
    NotFound: grpc.StatusCode.NOT_FOUND,
    Misconfigured: grpc.StatusCode.FAILED_PRECONDITION,
    FormatError: grpc.StatusCode.INVALID_ARGUMENT,
}

Answer = TypeVar("Answer")
Allocator = Callable[[Resource, AllocateRequest], AllocateResponse]


class Identity(NamedTuple):
    """Tells a socket from another one of the same name."""

    device: int
    inode: int
    changed_ns: int


def identify(path: Path) -> Identity | None:
    """What lies at `path` now; None where nothing does."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return Identity(status.st_dev, status.st_ino, status.st_ctime_ns)


class Endpoint:
    """A server for one resource.

    Args:
        resource: which one.
        inventory: what the node offers.
        directory: the kubelet's, where the socket is made.
        allocator: answers Allocate; raises our errors.
    """

    def __init__(
        self, resource: Resource, inventory: Inventory, directory: Path, allocator: Allocator
    ) -> None:
        self.resource = resource
        self.path = directory / resource.endpoint
        self._inventory = inventory
        self._allocator = allocator
        self._server: grpc.Server | None = None
        self._socket: Identity | None = None
        self._lock = threading.Lock()
        self._streams = 0
        self._expected = False
        self._kubelets: object | None = None

    @property
    def listening(self) -> bool:
        """Whether the kubelet's stream stands."""
        return self._kubelets is not None

    def expect(self) -> None:
        """Take the next stream that begins for the kubelet's: it is about to be registered.

        Nothing on a stream says whose it is. Somebody who looks at the devices beside the kubelet
        is not to pass for it when it has let go.
        """
        with self._lock:
            self._expected, self._kubelets = True, None

    @property
    def alive(self) -> bool:
        """Whether it serves on the socket that is in the directory now."""
        return self._server is not None and identify(self.path) == self._socket

    def start(self) -> None:
        """Serve on a new socket, in place of an earlier one.

        Raises:
            StorageFailed: the socket cannot be made.
        """
        self.stop()
        with suppress(FileNotFoundError):
            _removable(self.path)
        server = grpc.server(
            ThreadPoolExecutor(_THREADS, thread_name_prefix=self.resource.endpoint),
            options=(
                ("grpc.max_receive_message_length", _MAX_MESSAGE),
                ("grpc.so_reuseport", 0),
            ),
        )
        server.add_generic_rpc_handlers((self._handlers(server),))
        try:
            server.add_insecure_port(f"unix:{self.path}")
        except RuntimeError as error:
            raise _not_made(self.path) from error
        server.start()
        self._server, self._socket = server, identify(self.path)

    def stop(self) -> None:
        """End the streams and take the socket away."""
        server, self._server = self._server, None
        if server is None:
            return
        ours = identify(self.path) == self._socket
        ended = server.stop(_STOP_SECONDS)
        self._inventory.wake()
        ended.wait()
        if ours:
            with suppress(OSError):
                self.path.unlink()

    def _handlers(self, server: grpc.Server) -> grpc.GenericRpcHandler:
        def list_and_watch(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
            _answered(context, lambda: Empty.parse(request))
            return self._watch(server, context)

        def options(request: bytes, context: grpc.ServicerContext) -> bytes:
            _answered(context, lambda: Empty.parse(request))
            return DevicePluginOptions().encode()

        return grpc.method_handlers_generic_handler(
            PLUGIN_SERVICE,
            {
                # Parsed in the calls: gRPC prints a traceback where a parser given to it fails.
                "GetDevicePluginOptions": grpc.unary_unary_rpc_method_handler(
                    options, bytes, bytes
                ),
                "ListAndWatch": grpc.unary_stream_rpc_method_handler(list_and_watch, bytes, bytes),
                "Allocate": grpc.unary_unary_rpc_method_handler(self._allocate, bytes, bytes),
            },
        )

    def _watch(self, server: grpc.Server, context: grpc.ServicerContext) -> Iterator[bytes]:
        """The devices, now and whenever they change."""

        def wanted() -> bool:
            return context.is_active() and self._server is server

        if not context.add_callback(self._inventory.wake):
            return
        stream = object()
        with self._lock:
            self._streams += 1
            if self._expected:
                self._expected, self._kubelets = False, stream
        try:
            if self._streams > _MAX_STREAMS:
                context.abort(
                    grpc.StatusCode.RESOURCE_EXHAUSTED,
                    f"more than {_MAX_STREAMS} streams, expected the kubelet's one",
                )
            offer = None
            while (offer := self._inventory.next(offer, wanted)) is not None:
                yield ListAndWatchResponse(offer.devices(self.resource)).encode()
        finally:
            with self._lock:
                self._streams -= 1
                if self._kubelets is stream:
                    self._kubelets = None

    def _allocate(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        return _answered(
            context,
            lambda: self._allocator(self.resource, AllocateRequest.parse(request)).encode(),
        )


def _answered(context: grpc.ServicerContext, work: Callable[[], Answer]) -> Answer:
    """What `work` gives; our errors become the call's status."""
    try:
        return work()
    except Error as error:
        status = _STATUS.get(type(error), grpc.StatusCode.UNAVAILABLE)
        lines = [*chain(error), *(f"hint: {hint}" for hint in hints(error))]
        context.abort(status, "; ".join(lines))


def _removable(path: Path) -> None:
    """Take away what an earlier plugin left, which the lock says is nobody's any more."""
    try:
        path.unlink()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise _failed(path, error) from error


def _not_made(path: Path) -> StorageFailed:
    """Why gRPC could not make its socket: it does not say, so try what it tried."""
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.bind(str(path))
        os.unlink(path)
    except OSError as error:
        return _failed(path, error)
    return StorageFailed(f"socket {path} cannot be made")


def _failed(path: Path, error: OSError) -> StorageFailed:
    return StorageFailed(
        f"socket {path} cannot be made: {(error.strerror or str(error)).lower()}",
        hint="the kubelet's plugin directory has to be mounted writable, with space on it",
    )
