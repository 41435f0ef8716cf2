"""The messages of the kubelet's device plugin API, v1beta1, as far as this plugin uses them.

Names are those of the interface, as are the numbers (docs/formats/device-plugin.md). Both
directions are here: the fake kubelet of `crannog.testing` speaks with the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Self

from crannog.kubernetes import protobuf
from crannog.kubernetes.protobuf import Fields

VERSION = "v1beta1"
REGISTER = "/v1beta1.Registration/Register"
PLUGIN_SERVICE = "v1beta1.DevicePlugin"
HEALTHY = "Healthy"
UNHEALTHY = "Unhealthy"

_NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Empty:
    """Nothing."""

    def encode(self) -> bytes:
        """Its bytes."""
        return b""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent; fields of a later version are passed over."""
        Fields(data, "Empty")
        return cls()


@dataclass(frozen=True, slots=True)
class DevicePluginOptions:
    """What the kubelet may ask besides."""

    pre_start_required: bool = False
    get_preferred_allocation_available: bool = False

    def encode(self) -> bytes:
        """Its bytes."""
        return protobuf.flag(1, self.pre_start_required) + protobuf.flag(
            2, self.get_preferred_allocation_available
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent."""
        fields = Fields(data, "DevicePluginOptions")
        return cls(fields.flag(1), fields.flag(2))


@dataclass(frozen=True, slots=True)
class RegisterRequest:
    """A plugin says to the kubelet on which socket it serves which resource."""

    version: str
    endpoint: str
    resource_name: str
    options: DevicePluginOptions = DevicePluginOptions()

    def encode(self) -> bytes:
        """Its bytes."""
        return (
            protobuf.text(1, self.version)
            + protobuf.text(2, self.endpoint)
            + protobuf.text(3, self.resource_name)
            + protobuf.messages(4, [self.options.encode()])
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent."""
        fields = Fields(data, "RegisterRequest")
        options = DevicePluginOptions.parse(b"".join(fields.messages(4)))
        return cls(fields.text(1), fields.text(2), fields.text(3), options)


@dataclass(frozen=True, slots=True)
class Device:
    """One of what the scheduler counts: an id, and whether it may be given to a new container."""

    device_id: str
    health: str

    def encode(self) -> bytes:
        """Its bytes."""
        return protobuf.text(1, self.device_id) + protobuf.text(2, self.health)

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent."""
        fields = Fields(data, "Device")
        return cls(fields.text(1), fields.text(2))


@dataclass(frozen=True, slots=True)
class ListAndWatchResponse:
    """All devices of a resource, each time that something changed."""

    devices: tuple[Device, ...]

    def encode(self) -> bytes:
        """Its bytes."""
        return protobuf.messages(1, (device.encode() for device in self.devices))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent."""
        fields = Fields(data, "ListAndWatchResponse")
        return cls(tuple(Device.parse(each) for each in fields.messages(1)))


@dataclass(frozen=True, slots=True)
class AllocateRequest:
    """The ids that each container of a pod was given; `container_requests` has one list each."""

    container_requests: tuple[tuple[str, ...], ...]

    def encode(self) -> bytes:
        """Its bytes."""
        return protobuf.messages(1, (protobuf.texts(1, ids) for ids in self.container_requests))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent."""
        fields = Fields(data, "AllocateRequest")
        requests = (Fields(each, "ContainerAllocateRequest") for each in fields.messages(1))
        return cls(tuple(request.texts(1) for request in requests))


@dataclass(frozen=True, slots=True)
class Mount:
    """A directory of the node in a container."""

    container_path: str
    host_path: str
    read_only: bool = True

    def encode(self) -> bytes:
        """Its bytes."""
        return (
            protobuf.text(1, self.container_path)
            + protobuf.text(2, self.host_path)
            + protobuf.flag(3, self.read_only)
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent."""
        fields = Fields(data, "Mount")
        return cls(fields.text(1), fields.text(2), fields.flag(3))


@dataclass(frozen=True, slots=True)
class DeviceSpec:
    """A device node in a container; `permissions` are those of the devices cgroup: r, w, m."""

    container_path: str
    host_path: str
    permissions: str

    def encode(self) -> bytes:
        """Its bytes."""
        return (
            protobuf.text(1, self.container_path)
            + protobuf.text(2, self.host_path)
            + protobuf.text(3, self.permissions)
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent."""
        fields = Fields(data, "DeviceSpec")
        return cls(fields.text(1), fields.text(2), fields.text(3))


@dataclass(frozen=True, slots=True)
class ContainerAllocateResponse:
    """What one container is given."""

    envs: Mapping[str, str] = field(default_factory=lambda: _NOTHING)
    mounts: tuple[Mount, ...] = ()
    devices: tuple[DeviceSpec, ...] = ()

    def encode(self) -> bytes:
        """Its bytes."""
        return (
            protobuf.mapping(1, self.envs)
            + protobuf.messages(2, (mount.encode() for mount in self.mounts))
            + protobuf.messages(3, (device.encode() for device in self.devices))
        )

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent."""
        fields = Fields(data, "ContainerAllocateResponse")
        return cls(
            fields.mapping(1),
            tuple(Mount.parse(each) for each in fields.messages(2)),
            tuple(DeviceSpec.parse(each) for each in fields.messages(3)),
        )


@dataclass(frozen=True, slots=True)
class AllocateResponse:
    """What each container is given, in the order of the request."""

    container_responses: tuple[ContainerAllocateResponse, ...]

    def encode(self) -> bytes:
        """Its bytes."""
        return protobuf.messages(1, (each.encode() for each in self.container_responses))

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """From bytes that a peer sent."""
        fields = Fields(data, "AllocateResponse")
        return cls(tuple(ContainerAllocateResponse.parse(each) for each in fields.messages(1)))
