"""The plugin and its directories: full, gone, taken by somebody else; the release it gives."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from crannog.errors import Conflict, Misconfigured, Refused
from crannog.kubernetes.kubelet import HOLDER_FILE, KUBELET_SOCKET
from crannog.kubernetes.release import install_launcher
from crannog.kubernetes.resources import RESOURCES, Mode
from crannog.testing.kubelet import FakeKubelet
from tests.unit.kubernetes.rig import NAMES, SGX, Rig, eventually


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


def test_a_release_that_could_not_be_read_for_a_while_is_read_again(
    rig: Rig, kubelet: FakeKubelet, monkeypatch: pytest.MonkeyPatch
) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.healthy(SGX) == 3)
        with monkeypatch.context() as patch:
            patch.setattr("crannog.kubernetes.watched.verify_release", _too_many_files)
            os.utime(rig.settings.release / "run")
            kubelet.wait(lambda it: it.healthy(SGX) == 0)
        kubelet.wait(lambda it: it.healthy(SGX) == 3)
    assert rig.log.getvalue().count("too many open files") == 1


def _too_many_files(_directory: Path, *, owner: int) -> None:
    raise Misconfigured(f"launcher directory of {owner} cannot be read: too many open files")


def test_stopping_takes_the_sockets_away_and_ends_the_streams(
    rig: Rig, kubelet: FakeKubelet
) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(*NAMES))
    assert sorted(path.name for path in rig.plugins.iterdir()) == [KUBELET_SOCKET]
    kubelet.wait(lambda it: not any(it.listens_to(name) for name in NAMES))


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


def test_a_plugin_directory_that_is_removed_ends_the_plugin_by_its_liveness(rig: Rig) -> None:
    with rig.plugin() as plugin:
        eventually(lambda: "waiting for it" in rig.log.getvalue())
        eventually(lambda: len(list(rig.plugins.iterdir())) >= len(NAMES))
        shutil.rmtree(rig.plugins)
        rig.plugins.mkdir()  # another one, which a container's mount does not show
        eventually(lambda: rig.get(plugin, "/live")[0] == 503)
        assert "was removed from the node" in rig.get(plugin, "/live")[1]
        assert rig.log.getvalue().count("was removed from the node") == 1


def test_a_las_socket_directory_that_is_a_file(rig: Rig) -> None:
    rig.settings.socket_directory.rmdir()
    rig.settings.socket_directory.write_text("")
    with pytest.raises(Misconfigured, match="is a file, expected a directory"):
        rig.plugin().start()


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
