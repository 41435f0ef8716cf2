"""A node for tests of the plugin: its directories, and what plugins on it have logged."""

from __future__ import annotations

import http.client
import io
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from crannog.kubernetes.plugin import DevicePlugin
from crannog.kubernetes.release import install_launcher
from crannog.kubernetes.resources import NAMES as _RESOURCES
from crannog.kubernetes.resources import Mode
from crannog.kubernetes.settings import PluginSettings
from crannog.transport.log import server_log
from tests.unit.kubernetes.test_release import _launcher

NAMES = tuple(sorted(_RESOURCES))
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
