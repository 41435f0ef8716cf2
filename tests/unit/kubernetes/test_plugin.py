"""The plugin against a kubelet that does what nodes do: start late, restart, forget, refuse."""

from __future__ import annotations

import http.client
import io
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from crannog.errors import Conflict, Error, Misconfigured, Refused
from crannog.kubernetes.checkpoint import CHECKPOINT
from crannog.kubernetes.kubelet import HOLDER_FILE, KUBELET_SOCKET
from crannog.kubernetes.messages import RegisterRequest
from crannog.kubernetes.plugin import DevicePlugin
from crannog.kubernetes.release import install_launcher
from crannog.kubernetes.resources import RESOURCES, Mode
from crannog.kubernetes.settings import PluginSettings
from crannog.testing.kubelet import FakeKubelet
from crannog.transport.log import server_log
from tests.unit.kubernetes.test_devices import device
from tests.unit.kubernetes.test_release import _launcher

NAMES = tuple(sorted(resource.name for resource in RESOURCES))
SGX = "sgx.k8s.io/sgx"


class Rig:
    """A node: its directories, and what the plugins on it have logged."""

    def __init__(self, path: Path) -> None:
        self.devices, self.plugins = path / "dev", path / "plugins"
        for directory in (self.devices, self.plugins, path / "las"):
            directory.mkdir()
        self.carried = _launcher(path / "crannog", "one")
        self.launchers = path / "launchers"
        digest = install_launcher(self.carried, self.launchers, owner=os.geteuid()).digest
        self.log = io.StringIO()
        self.settings = PluginSettings(
            release=self.launchers / digest,
            mode=Mode.SIMULATION,
            max_pods=3,
            plugin_directory=self.plugins,
            socket_directory=path / "las",
            devices=self.devices,
            listen=("127.0.0.1", 0),
            holder="pod kube-system/one, in simulation",
            poll_seconds=0.02,
            stream_seconds=1.0,
            release_seconds=0.2,
            owner=os.geteuid(),
        )

    def plugin(self, mode: Mode = Mode.SIMULATION, holder: str = "") -> DevicePlugin:
        settings = replace(self.settings, mode=mode, holder=holder or self.settings.holder)
        return DevicePlugin(settings, log=server_log(self.log))

    def get(self, plugin: DevicePlugin, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection(*plugin.status_address, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()


def eventually(what: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "not in time"
        time.sleep(0.01)


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Short names: a socket's path has at most 107 bytes."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="crannog-p-") as path:
        yield Rig(Path(path))


@pytest.fixture
def kubelet(rig: Rig) -> Iterator[FakeKubelet]:
    with FakeKubelet(rig.plugins) as running:
        yield running


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


def test_a_release_that_is_gone_is_refused_and_not_mounted(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(SGX))
        rig.settings.release.rename(rig.launchers / "gone")
        with pytest.raises(Refused, match=r"UNAVAILABLE: .* is not on this node: .*; hint: delete"):
            kubelet.allocate(SGX, ("simulation-0",))
        kubelet.wait(lambda it: it.healthy(SGX) == 0)


def test_a_release_that_was_changed_is_not_mounted_and_is_mended_by_the_next_installation(
    rig: Rig, kubelet: FakeKubelet
) -> None:
    with rig.plugin() as plugin:
        kubelet.wait(lambda it: it.healthy(SGX) == 3)
        (rig.settings.release / "run").write_text("mine")
        # Unhealthy, so that pods wait: one that is refused by Allocate is failed by the kubelet.
        kubelet.wait(lambda it: it.healthy(SGX) == 0)
        assert rig.log.getvalue().count("its own file says") == 1
        with pytest.raises(Refused, match="its own file says"):
            kubelet.allocate(SGX, ("simulation-0",))
        eventually(lambda: "its own file says" in rig.get(plugin, "/ready")[1])
        install_launcher(rig.carried, rig.launchers, owner=os.geteuid())
        kubelet.wait(lambda it: it.healthy(SGX) == 3)
        eventually(lambda: rig.get(plugin, "/ready")[0] == 200)
        assert len(kubelet.allocate(SGX, ("simulation-0",)).container_responses) == 1


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


def test_a_second_plugin_is_refused_with_the_first_one_s_name(
    rig: Rig, kubelet: FakeKubelet
) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        second = rig.plugin(Mode.HARDWARE, "pod default/two, in hardware")
        with pytest.raises(Conflict, match="pod kube-system/one, in simulation"):
            second.start()
        # The first one is none the worse for it.
        assert kubelet.listens_to(*NAMES)
        assert kubelet.healthy(SGX) == 3
    with rig.plugin(holder="pod kube-system/three"):
        assert (rig.plugins / HOLDER_FILE).read_text() == "pod kube-system/three"


def test_a_plugin_s_holder_file_is_not_believed_blindly(rig: Rig) -> None:
    with rig.plugin():
        (rig.plugins / HOLDER_FILE).write_bytes(b"\xff\x1b[31m")
        with pytest.raises(Conflict, match="it does not say who it is"):
            rig.plugin().start()


def test_stopping_takes_the_sockets_away_and_ends_the_streams(
    rig: Rig, kubelet: FakeKubelet
) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(*NAMES))
    assert sorted(path.name for path in rig.plugins.iterdir()) == [KUBELET_SOCKET]
    kubelet.wait(lambda it: not any(it.listens_to(name) for name in NAMES))


def test_an_upgraded_plugin_takes_over_what_stands(rig: Rig, kubelet: FakeKubelet) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        kubelet.allocate(SGX, ("simulation-0",))
    with rig.plugin(holder="the next"):
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        # The same ids: what was allocated is still a device.
        assert "simulation-0" in [one.device_id for one in kubelet.plugin(SGX).devices]


def test_sockets_that_a_killed_plugin_left_are_replaced(rig: Rig, kubelet: FakeKubelet) -> None:
    for resource in RESOURCES:
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(rig.plugins / resource.endpoint))
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(*NAMES))


def test_a_directory_that_is_not_there(rig: Rig) -> None:
    rig.plugins.rmdir()
    with pytest.raises(Misconfigured, match=r"plugin directory .*: no such file or directory"):
        rig.plugin().start()


def test_a_socket_s_place_that_is_taken_by_a_directory(rig: Rig, kubelet: FakeKubelet) -> None:
    taken = rig.plugins / RESOURCES[0].endpoint
    taken.mkdir()
    with rig.plugin() as plugin:
        kubelet.wait(lambda it: it.listens_to(*(set(NAMES) - {SGX})))
        eventually(lambda: "cannot be made: is a directory" in rig.get(plugin, "/ready")[1])
        taken.rmdir()
        kubelet.wait(lambda it: it.listens_to(*NAMES))


@pytest.mark.parametrize("kind", ["file", "link", "socket of somebody else"])
def test_a_socket_that_is_replaced_is_taken_back(
    rig: Rig, kubelet: FakeKubelet, kind: str, tmp_path: Path
) -> None:
    with rig.plugin(), socket.socket(socket.AF_UNIX) as other:
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        path = rig.plugins / kubelet.plugin(SGX).request.endpoint
        path.unlink()
        if kind == "file":
            path.write_text("mine")
        elif kind == "link":
            (tmp_path / "kept").write_text("kept")
            path.symlink_to(tmp_path / "kept")
        else:
            other.bind(str(path))
            other.listen()
        before = kubelet.registrations
        kubelet.wait(lambda it: it.registrations > before and it.listens_to(*NAMES))
        assert len(kubelet.allocate(SGX, ("simulation-0",)).container_responses) == 1
        assert kind != "link" or (tmp_path / "kept").read_text() == "kept"


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


def test_a_plugin_directory_that_is_removed_ends_the_plugin_by_its_liveness(rig: Rig) -> None:
    with rig.plugin() as plugin:
        eventually(lambda: "waiting for it" in rig.log.getvalue())
        eventually(lambda: len(list(rig.plugins.iterdir())) >= len(NAMES))
        shutil.rmtree(rig.plugins)
        rig.plugins.mkdir()  # another one, which a container's mount does not show
        eventually(lambda: rig.get(plugin, "/live")[0] == 503)
        assert "was removed from the node" in rig.get(plugin, "/live")[1]
        assert rig.log.getvalue().count("was removed from the node") == 1


def test_devices_of_the_other_mode_that_containers_have_are_said(
    rig: Rig, kubelet: FakeKubelet
) -> None:
    entry = {"ResourceName": SGX, "DeviceIDs": {"-1": ["hardware-1"]}}
    content = {"Data": {"PodDeviceEntries": [entry]}, "Checksum": 1}
    (rig.plugins / CHECKPOINT).write_text(json.dumps(content))
    with rig.plugin() as plugin:
        eventually(lambda: "1 devices of hardware are with containers" in rig.log.getvalue())
        assert 'given_devices{mode="hardware"} 1' in rig.get(plugin, "/metrics")[1]


def test_a_las_socket_directory_that_is_a_file(rig: Rig) -> None:
    rig.settings.socket_directory.rmdir()
    rig.settings.socket_directory.write_text("")
    with pytest.raises(Misconfigured, match="is a file, expected a directory"):
        rig.plugin().start()


def test_a_status_port_that_is_taken(rig: Rig) -> None:
    with rig.plugin() as plugin:
        other = DevicePlugin(
            replace(rig.settings, listen=plugin.status_address), log=server_log(rig.log)
        )
        with pytest.raises(Error):
            other.start()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
@pytest.mark.parametrize(
    ("option", "room", "said"),
    [
        ("ro", "remount,rw", "read-only file system"),
        ("nr_inodes=1", "remount,nr_inodes=100", "no space left"),
    ],
)
def test_a_directory_that_takes_no_socket_is_tried_until_it_does(
    rig: Rig, option: str, room: str, said: str
) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", rig.plugins], check=True)
    try:
        with rig.plugin() as plugin:
            eventually(lambda: rig.log.getvalue().count(f"cannot be made: {said}") == len(NAMES))
            eventually(lambda: rig.get(plugin, "/ready")[0] == 503)
            subprocess.run(["mount", "-o", room, rig.plugins], check=True)
            with FakeKubelet(rig.plugins) as kubelet:
                kubelet.wait(lambda it: it.listens_to(*NAMES))
            assert rig.log.getvalue().count(f"cannot be made: {said}") == len(NAMES)
    finally:
        subprocess.run(["umount", rig.plugins], check=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_directory_that_is_full_for_a_while(rig: Rig) -> None:
    # Inodes: the directory itself, the kubelet's socket, four of ours, and who holds it.
    options = f"nr_inodes={3 + len(NAMES)}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", rig.plugins], check=True)
    try:
        with FakeKubelet(rig.plugins) as kubelet, rig.plugin() as plugin:
            kubelet.wait(lambda it: it.listens_to(*NAMES))
            socket_path = rig.plugins / kubelet.plugin(SGX).request.endpoint
            socket_path.rename(rig.plugins / "taken")
            eventually(lambda: "no space left" in rig.get(plugin, "/ready")[1])
            assert rig.log.getvalue().count("no space left on device") == 1
            (rig.plugins / "taken").unlink()
            kubelet.wait(lambda it: it.listens_to(*NAMES))
            eventually(lambda: rig.get(plugin, "/ready")[0] == 200)
    finally:
        subprocess.run(["umount", rig.plugins], check=True)


def test_other_paths_and_methods(rig: Rig) -> None:
    with rig.plugin() as plugin:
        assert rig.get(plugin, "/")[0] == 404
        connection = http.client.HTTPConnection(*plugin.status_address, timeout=10)
        connection.request("POST", "/ready")
        assert connection.getresponse().status == 405
        connection.close()
