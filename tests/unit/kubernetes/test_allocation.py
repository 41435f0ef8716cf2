"""What each resource needs, and what a container gets."""

from __future__ import annotations

import pytest

from crannog.errors import Misconfigured, NotFound, Unavailable
from crannog.kubernetes.allocation import allocate
from crannog.kubernetes.devices import Found, Node
from crannog.kubernetes.labels import labels_of
from crannog.kubernetes.messages import AllocateRequest, AllocateResponse, DeviceSpec, Mount
from crannog.kubernetes.resources import RESOURCES, Mode, Offer

SGX, ENCLAVE, IAS, DCAP = RESOURCES
KERNEL = Found(
    enclave=(Node("sgx_enclave", "sgx_enclave"), Node("sgx/enclave", "sgx_enclave")),
    provision=(Node("sgx_provision", "sgx_provision"),),
)
OLD = Found(ias=(Node("isgx", "isgx"),))


def offer(found: Found = KERNEL, mode: Mode = Mode.HARDWARE, count: int = 3) -> Offer:
    return Offer(mode, found, count)


def given(offer: Offer, *ids: str, resource: int = 0) -> AllocateResponse:
    return allocate(
        AllocateRequest((ids,)),
        RESOURCES[resource],
        offer,
        release="/var/lib/crannog/launcher/ab",
        socket_directory="/run/crannog/las",
    )


def paths(found: Found) -> dict[str, list[str]]:
    hardware = offer(found)
    return {each.name: [node.name for node in hardware.nodes(each)] for each in RESOURCES}


def test_the_in_kernel_driver() -> None:
    assert paths(KERNEL) == {
        "sgx.k8s.io/sgx": ["sgx_enclave", "sgx/enclave"],
        "sgx.intel.com/enclave": ["sgx_enclave", "sgx/enclave"],
        "sgx.k8s.io/ias": [],
        "sgx.k8s.io/dcap": ["sgx_enclave", "sgx/enclave", "sgx_provision"],
    }


def test_the_older_driver() -> None:
    assert paths(OLD) == {
        "sgx.k8s.io/sgx": ["isgx"],
        "sgx.intel.com/enclave": ["isgx"],
        "sgx.k8s.io/ias": ["isgx"],
        "sgx.k8s.io/dcap": [],
    }


def test_no_dcap_without_the_provisioning_device() -> None:
    assert not offer(Found(enclave=KERNEL.enclave)).available(DCAP)


def test_the_single_device_of_an_early_driver_needs_no_other_one() -> None:
    assert paths(Found(enclave=(Node("sgx", "sgx"),)))["sgx.k8s.io/dcap"] == ["sgx"]


def test_a_container_gets_devices_launcher_socket_and_two_variables() -> None:
    (container,) = given(offer(), "hardware-0", resource=3).container_responses
    assert container.devices == (
        DeviceSpec("/dev/sgx_enclave", "/dev/sgx_enclave", "rw"),
        DeviceSpec("/dev/sgx/enclave", "/dev/sgx_enclave", "rw"),
        DeviceSpec("/dev/sgx_provision", "/dev/sgx_provision", "rw"),
    )
    assert container.mounts == (
        Mount("/run/crannog/launcher", "/var/lib/crannog/launcher/ab", read_only=True),
        Mount("/run/crannog/las", "/run/crannog/las", read_only=True),
    )
    assert container.envs == {
        "CRANNOG_LAS_SOCKET": "/run/crannog/las/socket",
        "CRANNOG_SGX": "hardware",
    }


def test_simulation_gives_no_device_even_where_there_is_one() -> None:
    (container,) = given(offer(KERNEL, Mode.SIMULATION), "simulation-2").container_responses
    assert container.devices == ()
    assert container.envs["CRANNOG_SGX"] == "simulation"
    assert len(container.mounts) == 2


def test_every_container_of_a_request_is_answered() -> None:
    request = AllocateRequest((("hardware-0",), ("hardware-1", "hardware-2")))
    response = allocate(request, SGX, offer(), release="/r", socket_directory="/s")
    assert len(response.container_responses) == 2


@pytest.mark.parametrize("device_id", ["hardware-3", "hardware-00", "hardware--1", "", "x" * 500])
def test_an_unknown_device(device_id: str) -> None:
    with pytest.raises(NotFound, match="expected one of hardware-0 to hardware-2") as refused:
        given(offer(), "hardware-0", device_id)
    assert len(refused.value.message) < 200


def test_a_device_of_the_other_mode() -> None:
    with pytest.raises(Misconfigured, match="given in simulation, this node is in hardware now"):
        given(offer(), "simulation-0")
    with pytest.raises(Misconfigured, match="given in hardware, this node is in simulation now"):
        given(offer(mode=Mode.SIMULATION), "hardware-0")


def test_a_device_that_has_vanished() -> None:
    with pytest.raises(Unavailable, match="the node has no such device now"):
        given(offer(Found()), "hardware-0")


def test_health_follows_the_devices() -> None:
    assert {device.health for device in offer().devices(SGX)} == {"Healthy"}
    assert {device.health for device in offer(Found()).devices(SGX)} == {"Unhealthy"}
    assert {device.health for device in offer(Found(), Mode.SIMULATION).devices(SGX)} == {"Healthy"}
    assert len(offer(count=110).devices(ENCLAVE)) == 110
    assert {device.health for device in offer().devices(IAS)} == {"Unhealthy"}


def test_labels() -> None:
    capable, simulation = "sgx.intel.com/capable", "sgx.k8s.io/simulation"
    assert labels_of(offer()) == {capable: "true", simulation: None}
    assert labels_of(offer(OLD)) == {capable: "true", simulation: None}
    assert labels_of(offer(Found())) == {capable: None, simulation: None}
    # A device that is not used makes no node capable.
    assert labels_of(offer(KERNEL, Mode.SIMULATION)) == {capable: None, simulation: "true"}
