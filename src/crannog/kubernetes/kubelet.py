"""The kubelet as a plugin sees it: its socket, registration, and the directory that they share."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType

import grpc

from crannog.errors import Conflict, FormatError, Misconfigured, Refused, Unavailable
from crannog.kubernetes.endpoint import Identity, identify
from crannog.kubernetes.messages import REGISTER, VERSION, Empty, RegisterRequest
from crannog.kubernetes.resources import Resource

KUBELET_SOCKET = "kubelet.sock"
HOLDER_FILE = "crannog-device-plugin"
_REGISTER_SECONDS = 5.0
_HOLDER_BYTES = 256
_SAID = 500


class Kubelet:
    """The kubelet of this node, by its directory for plugins."""

    def __init__(self, directory: Path) -> None:
        self._socket = directory / KUBELET_SOCKET

    def identity(self) -> Identity | None:
        """Which kubelet is there: another after each of its starts; None where there is none."""
        return identify(self._socket)

    def register(self, resource: Resource) -> None:
        """Tell it that `resource` is served.

        Raises:
            Unavailable: it does not answer.
            Refused: it does, and wants none of it.
        """
        request = RegisterRequest(VERSION, resource.endpoint, resource.name)
        options = (("grpc.enable_http_proxy", 0),)
        with grpc.insecure_channel(f"unix:{self._socket}", options) as channel:
            # Its answer is parsed by us: gRPC prints a traceback where a parser of its own fails.
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(
                REGISTER, request_serializer=bytes, response_deserializer=bytes
            )
            try:
                Empty.parse(call(request.encode(), timeout=_REGISTER_SECONDS))
            except grpc.RpcError as error:
                raise _not_registered(resource, error) from error
            except FormatError as error:
                raise Refused(
                    f"{resource.name}: what answers at the kubelet's socket is no kubelet: "
                    f"{error.message}"
                ) from error


def _not_registered(resource: Resource, error: grpc.RpcError) -> Unavailable | Refused:
    if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
        return Unavailable(f"{resource.name}: the kubelet does not answer")
    details = (error.details() or "")[:_SAID]
    said = "".join(each if each.isprintable() else "?" for each in details) or "it does not say why"
    return Refused(f"{resource.name}: the kubelet refuses the registration: {said}")


class DirectoryLock:
    """The plugin directory, held by one plugin at a time.

    The lock is on the directory itself: nothing has to be written for it, and it ends with the
    process. Who holds it is in a file beside, for the other one's message.

    Args:
        directory: the kubelet's directory for plugins.
        holder: who this is, a line of text.
    """

    def __init__(self, directory: Path, holder: str) -> None:
        self._directory = directory
        self._holder = holder
        self._descriptor = -1

    def __enter__(self) -> DirectoryLock:
        """Take it.

        Raises:
            Misconfigured: there is no such directory.
            Conflict: another plugin has it.
        """
        directory = self._directory
        try:
            self._descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise Misconfigured(
                f"plugin directory {directory}: {(error.strerror or 'failed').lower()}",
                hint="mount the kubelet's device-plugins directory of the node there",
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._close()
            raise Conflict(
                f"another device plugin of Crannog serves this node: {self._other()}",
                hint="one release of the sgxdevplugin chart for each node: see `helm list -A`",
            ) from error
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _value: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            (self._directory / HOLDER_FILE).unlink()
        self._close()

    @property
    def removed(self) -> bool:
        """Whether the directory that we hold is no more: another one may be in its place."""
        return self._descriptor >= 0 and os.fstat(self._descriptor).st_nlink == 0

    def sign(self) -> None:
        """Write down who holds it. A directory that takes no file is no reason to stop."""
        path = self._directory / HOLDER_FILE
        text = self._holder.encode()[:_HOLDER_BYTES]
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with contextlib.suppress(OSError):
            descriptor = os.open(path, flags, 0o644)
            with os.fdopen(descriptor, "r+b", buffering=0) as file:
                if file.read(_HOLDER_BYTES + 1) != text:  # never empty for a reader meanwhile
                    file.seek(0)
                    file.write(text)
                    file.truncate()

    def _other(self) -> str:
        try:
            data = (self._directory / HOLDER_FILE).read_bytes()[:_HOLDER_BYTES]
            text = data.decode()
        except (OSError, UnicodeDecodeError):
            return "it does not say who it is"
        return text if text.isprintable() and text else "it does not say who it is"

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
