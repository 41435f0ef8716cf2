"""The resources that a node offers, and what of a node each of them needs.

Pure. Decides names, device ids and health from the devices that were found.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from crannog.kubernetes.devices import Found, Node
from crannog.kubernetes.messages import HEALTHY, UNHEALTHY, Device

MAX_PODS = 110  # how many pods a kubelet takes unless told otherwise


class Mode(enum.Enum):
    """Whether containers get a device. Told by the operator, never found out."""

    HARDWARE = "hardware"
    SIMULATION = "simulation"


@dataclass(frozen=True, slots=True)
class Resource:
    """One name that pods can ask for.

    Attributes:
        name: as in `resources.limits`.
        nodes: the device nodes that it gives; empty where the node cannot offer it.
    """

    name: str
    nodes: Callable[[Found], tuple[Node, ...]]

    @property
    def endpoint(self) -> str:
        """The file name of its socket in the kubelet's directory."""
        return f"crannog-{self.name.replace('/', '-')}.sock"


def _any(found: Found) -> tuple[Node, ...]:
    return (*found.enclave, *found.ias)


def _dcap(found: Found) -> tuple[Node, ...]:
    """The enclave device with its provisioning device; /dev/sgx as a device has none of its own."""
    single = [node for node in found.enclave if node.name == "sgx"]
    if found.enclave and (found.provision or single):
        return (*found.enclave, *found.provision)
    return ()


RESOURCES = (
    Resource("sgx.k8s.io/sgx", _any),
    Resource("sgx.intel.com/enclave", _any),
    Resource("sgx.k8s.io/ias", lambda found: found.ias),
    Resource("sgx.k8s.io/dcap", _dcap),
)
NAMES = tuple(resource.name for resource in RESOURCES)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node offers now.

    Attributes:
        mode: with or without devices.
        found: its devices.
        count: how many containers of each resource.
        whole: whether the launcher release is there, as it was made. Without it every device is
            unhealthy: pods wait for a node, where they would else be failed by the kubelet.
    """

    mode: Mode
    found: Found
    count: int
    whole: bool = True

    def nodes(self, resource: Resource) -> tuple[Node, ...]:
        """The device nodes that a container of `resource` is given."""
        return () if self.mode is Mode.SIMULATION else resource.nodes(self.found)

    def available(self, resource: Resource) -> bool:
        """Whether a new container may be given `resource`."""
        return self.whole and self.present(resource)

    def present(self, resource: Resource) -> bool:
        """Whether the node has what `resource` needs."""
        return self.mode is Mode.SIMULATION or bool(resource.nodes(self.found))

    def ids(self) -> tuple[str, ...]:
        """The ids of the devices. They name the mode: an allocation of one is none of the other."""
        return tuple(f"{self.mode.value}-{number}" for number in range(self.count))

    def devices(self, resource: Resource) -> tuple[Device, ...]:
        """What the kubelet is told."""
        health = HEALTHY if self.available(resource) else UNHEALTHY
        return tuple(Device(device_id, health) for device_id in self.ids())

    def capable(self) -> bool:
        """Whether the node has SGX and it is used."""
        return self.mode is Mode.HARDWARE and bool(_any(self.found))
