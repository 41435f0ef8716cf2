"""The plugin against a kubelet that does what nodes do: start late, restart, forget, refuse."""

from __future__ import annotations

import http.client
import json
import time
from dataclasses import replace

import pytest

from crannog.errors import Error, Refused
from crannog.kubernetes.checkpoint import CHECKPOINT
from crannog.kubernetes.kubelet import KUBELET_SOCKET
from crannog.kubernetes.messages import RegisterRequest
from crannog.kubernetes.plugin import DevicePlugin
from crannog.kubernetes.resources import Mode
from crannog.testing.kubelet import FakeKubelet
from crannog.transport.log import server_log
from tests.unit.kubernetes.rig import NAMES, SGX, Rig, eventually
from tests.unit.kubernetes.test_devices import device


def test_every_resource_is_registered_and_listened_to(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin() as plugin:
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        assert kubelet.resources() == NAMES
        request = kubelet.plugin(SGX).request
        assert (request.version, request.endpoint) == ("v1beta1", "crannog-sgx.k8s.io-sgx.sock")
        assert kubelet.plugin(SGX).healthy() == 3
        options = kubelet.plugin(SGX).options
        assert not options.pre_start_required
        assert not options.get_preferred_allocation_available
        eventually(lambda: rig.get(plugin, "/ready") == (200, "ready\n"))
    assert "in simulation: containers get no SGX device" in rig.log.getvalue()


def test_a_container_is_given_launcher_and_socket(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin() as plugin:
        kubelet.wait(lambda it: it.listens_to(SGX))
        (container,) = kubelet.allocate(SGX, ("simulation-1",)).container_responses
        assert [mount.host_path for mount in container.mounts] == [
            str(rig.settings.release),
            str(rig.settings.socket_directory),
        ]
        assert container.envs["CRANNOG_SGX"] == "simulation"
        metrics = rig.get(plugin, "/metrics")[1]
    assert (
        'crannog_plugin_allocations_total{outcome="given",resource="sgx.k8s.io/sgx"} 1' in metrics
    )


def test_an_unknown_device_is_refused_to_the_kubelet(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(SGX))
        with pytest.raises(Refused, match=r"NOT_FOUND: .*no device 'simulation-9' here"):
            kubelet.allocate(SGX, ("simulation-9",))
        with pytest.raises(Refused, match=r"FAILED_PRECONDITION: .*given in hardware.*; hint: "):
            kubelet.allocate(SGX, ("hardware-0",))


def test_a_plugin_that_is_there_before_the_kubelet(rig: Rig) -> None:
    with rig.plugin() as plugin:
        eventually(lambda: "waiting for it" in rig.log.getvalue())
        missing = (503, "the kubelet's socket is not there\n")
        eventually(lambda: rig.get(plugin, "/ready") == missing)
        assert rig.get(plugin, "/live")[0] == 200
        with FakeKubelet(rig.plugins) as kubelet:
            kubelet.wait(lambda it: it.listens_to(*NAMES))
            assert kubelet.resources() == NAMES


def test_a_kubelet_that_restarts_knows_them_again(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin() as plugin:
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        for _ in range(3):
            kubelet.stop()
            kubelet.start()  # removes every socket of ours
            begun = time.monotonic()
            kubelet.wait(lambda it: it.listens_to(*NAMES))
            assert time.monotonic() - begun < 5
        eventually(lambda: rig.get(plugin, "/ready")[0] == 200)
        assert len(kubelet.allocate(SGX, ("simulation-0",)).container_responses) == 1


def test_a_kubelet_that_drops_its_streams_is_told_again(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        before = kubelet.registrations
        kubelet.disconnect()
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        assert kubelet.registrations == before + len(NAMES)


def test_a_registered_plugin_does_not_register_again(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin() as plugin:
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        eventually(lambda: rig.get(plugin, "/ready")[0] == 200)
        until = time.monotonic() + 2 * rig.settings.stream_seconds
        eventually(lambda: time.monotonic() > until)
        assert kubelet.registrations == len(NAMES)
        assert kubelet.plugin(SGX).updates == 1


def test_a_kubelet_that_hangs_up_without_a_new_socket(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin() as plugin:
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        kubelet.stop()
        (rig.plugins / KUBELET_SOCKET).write_bytes(b"")  # something is there that does not answer
        eventually(lambda: "the kubelet does not answer" in rig.log.getvalue())
        assert rig.get(plugin, "/ready")[0] == 503
        (rig.plugins / KUBELET_SOCKET).unlink()
        kubelet.start()
        kubelet.wait(lambda it: it.listens_to(*NAMES))


def test_a_kubelet_that_refuses_is_asked_again_and_its_reason_is_said_once(rig: Rig) -> None:
    answers = {"reason": "no such resource, said the kubelet"}

    def refuse(request: RegisterRequest) -> str:
        return answers["reason"] if request.resource_name == SGX else ""

    with FakeKubelet(rig.plugins, refuse=refuse) as kubelet, rig.plugin() as plugin:
        kubelet.wait(lambda it: it.listens_to(*(set(NAMES) - {SGX})))
        eventually(
            lambda: 'refused",resource="sgx.k8s.io/sgx"} 2' in rig.get(plugin, "/metrics")[1]
        )
        assert rig.log.getvalue().count(answers["reason"]) == 1
        assert answers["reason"] in rig.get(plugin, "/ready")[1]
        answers["reason"] = ""
        kubelet.wait(lambda it: it.listens_to(*NAMES))


def test_hardware_that_appears_and_vanishes(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin(Mode.HARDWARE) as plugin:
        # A node without a device is as it should be: a rollout does not wait for it.
        eventually(lambda: rig.get(plugin, "/ready")[0] == 200)
        assert "no SGX device yet" in rig.log.getvalue()
        assert kubelet.resources() == ()
        device(rig.devices, "sgx_enclave")
        kubelet.wait(lambda it: it.listens_to("sgx.intel.com/enclave", SGX))
        assert kubelet.resources() == ("sgx.intel.com/enclave", SGX)
        assert kubelet.healthy(SGX) == 3
        device(rig.devices, "sgx_provision")
        kubelet.wait(lambda it: it.healthy("sgx.k8s.io/dcap") == 3)
        (container,) = kubelet.allocate("sgx.k8s.io/dcap", ("hardware-0",)).container_responses
        assert [one.host_path for one in container.devices] == [
            "/dev/sgx_enclave",
            "/dev/sgx_provision",
        ]
        (rig.devices / "sgx_enclave").unlink()
        kubelet.wait(lambda it: it.healthy(SGX) == 0 and it.healthy("sgx.k8s.io/dcap") == 0)
        with pytest.raises(Refused, match=r"UNAVAILABLE: .*no such device now"):
            kubelet.allocate(SGX, ("hardware-0",))
        device(rig.devices, "sgx_enclave")
        kubelet.wait(lambda it: it.healthy(SGX) == 3)
    assert "/dev/sgx_enclave has vanished" in rig.log.getvalue()


def test_simulation_says_that_a_device_is_not_used(rig: Rig) -> None:
    device(rig.devices, "isgx")
    with rig.plugin():
        assert "/dev/isgx is there and not used" in rig.log.getvalue()


def test_an_upgraded_plugin_takes_over_what_stands(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        kubelet.allocate(SGX, ("simulation-0",))
    with rig.plugin(holder="the next"):
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        # The same ids: what was allocated is still a device.
        assert "simulation-0" in [one.device_id for one in kubelet.plugin(SGX).devices]


def test_another_plugin_that_takes_a_resource_away_again_and_again_is_left_it_with_a_message(
    rig: Rig, kubelet: FakeKubelet
) -> None:
    rig.settings = replace(rig.settings, stream_seconds=0.1)
    with rig.plugin() as plugin:
        for _ in range(3):
            kubelet.wait(lambda it: it.listens_to(SGX))
            kubelet.disconnect()
        eventually(lambda: "another plugin" in rig.get(plugin, "/ready")[1])
        eventually(lambda: rig.log.getvalue().count(f"{SGX}: the kubelet has let go of it") == 1)
        assert "--offer" in rig.log.getvalue()


def test_only_what_is_to_be_offered_is(rig: Rig, kubelet: FakeKubelet) -> None:
    rig.settings = replace(rig.settings, resources=(SGX,))
    with rig.plugin() as plugin:
        kubelet.wait(lambda it: it.listens_to(SGX))
        eventually(lambda: rig.get(plugin, "/ready")[0] == 200)
        assert kubelet.resources() == (SGX,)


def test_devices_of_the_other_mode_that_containers_have_are_said(
    rig: Rig, kubelet: FakeKubelet
) -> None:
    entry = {"ResourceName": SGX, "DeviceIDs": {"-1": ["hardware-1"]}}
    content = {"Data": {"PodDeviceEntries": [entry]}, "Checksum": 1}
    (rig.plugins / CHECKPOINT).write_text(json.dumps(content))
    with rig.plugin() as plugin:
        eventually(lambda: "1 devices of hardware are with containers" in rig.log.getvalue())
        assert 'given_devices{mode="hardware"} 1' in rig.get(plugin, "/metrics")[1]


def test_a_status_port_that_is_taken(rig: Rig) -> None:
    with rig.plugin() as plugin:
        other = DevicePlugin(
            replace(rig.settings, listen=plugin.status_address), log=server_log(rig.log)
        )
        with pytest.raises(Error):
            other.start()


def test_other_paths_and_methods(rig: Rig) -> None:
    with rig.plugin() as plugin:
        assert rig.get(plugin, "/")[0] == 404
        connection = http.client.HTTPConnection(*plugin.status_address, timeout=10)
        connection.request("POST", "/ready")
        assert connection.getresponse().status == 405
        connection.close()
