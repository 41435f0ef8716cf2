"""What a container gets that asked for one of the resources. Pure.

Decides mounts, variables and device nodes. Every container gets the same release of the launcher
and the same socket directory, and nothing else that changes what is measured.
"""

from __future__ import annotations

from crannog.errors import FormatError, Misconfigured, NotFound, Unavailable
from crannog.kubernetes.messages import (
    AllocateRequest,
    AllocateResponse,
    ContainerAllocateResponse,
    DeviceSpec,
    Mount,
)
from crannog.kubernetes.resources import Mode, Offer, Resource

LAUNCHER = "/run/crannog/launcher"
SOCKET_DIRECTORY = "/run/crannog/las"
SOCKET = SOCKET_DIRECTORY + "/socket"
SOCKET_VARIABLE = "CRANNOG_LAS_SOCKET"
MODE_VARIABLE = "CRANNOG_SGX"

_PERMISSIONS = "rw"
_SHOWN = 64
_MAX_CONTAINERS = 64  # the kubelet asks for one at a time


def allocate(
    request: AllocateRequest,
    resource: Resource,
    offer: Offer,
    *,
    release: str,
    socket_directory: str,
) -> AllocateResponse:
    """What the containers of `request` get.

    Args:
        request: the ids that the kubelet has chosen.
        resource: of which resource.
        offer: what the node offers now.
        release: the directory of one launcher release on the node.
        socket_directory: the directory with the LAS's socket on the node.

    Raises:
        FormatError: more containers than a kubelet asks for at once.
        NotFound: an id is none that this plugin has announced.
        Unavailable: the node's device is gone.
    """
    containers = len(request.container_requests)
    if containers > _MAX_CONTAINERS:
        raise FormatError(
            f"{resource.name}: {containers} containers in one request, expected at most "
            f"{_MAX_CONTAINERS}"
        )
    known = frozenset(offer.ids())
    for ids in request.container_requests:
        for device_id in ids:
            if device_id not in known:
                raise _unknown(device_id, resource, offer)
    if not offer.present(resource):
        raise Unavailable(
            f"{resource.name}: the node has no such device now",
            hint="its driver was unloaded: see `ls /dev/*sgx*` on the node",
        )
    response = ContainerAllocateResponse(
        envs={SOCKET_VARIABLE: SOCKET, MODE_VARIABLE: offer.mode.value},
        mounts=(Mount(LAUNCHER, release), Mount(SOCKET_DIRECTORY, socket_directory)),
        devices=tuple(
            DeviceSpec(f"/dev/{node.name}", f"/dev/{node.target}", _PERMISSIONS)
            for node in offer.nodes(resource)
        ),
    )
    return AllocateResponse((response,) * containers)


def _unknown(device_id: str, resource: Resource, offer: Offer) -> NotFound | Misconfigured:
    other = Mode.SIMULATION if offer.mode is Mode.HARDWARE else Mode.HARDWARE
    if device_id.startswith(f"{other.value}-"):
        return Misconfigured(
            f"{resource.name}: device {device_id[:_SHOWN]!r} was given in {other.value}, this node "
            f"is in {offer.mode.value} now",
            hint="delete the pod: a new one is given a device of the node as it is",
        )
    return NotFound(
        f"{resource.name}: no device {device_id[:_SHOWN]!r} here, expected one of "
        f"{offer.mode.value}-0 to {offer.mode.value}-{offer.count - 1}"
    )
