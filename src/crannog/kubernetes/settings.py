"""What a device plugin is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crannog.kubernetes.resources import MAX_PODS, NAMES, Mode

PLUGIN_DIRECTORY = Path("/var/lib/kubelet/device-plugins")
LAUNCHERS = Path("/var/lib/crannog/launcher")
SOCKET_DIRECTORY = Path("/run/crannog/las")
STATUS_PORT = 18767


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """Settings of `crannog.kubernetes.plugin.DevicePlugin`.

    Attributes:
        release: the launcher release that containers are given: its directory on the node, which
            the plugin sees under the same path.
        mode: whether containers are given a device.
        max_pods: how many containers of each resource.
        resources: the names of those that are offered.
        plugin_directory: the kubelet's directory for plugins.
        socket_directory: on the node, the directory of the LAS's socket.
        devices: where the node's /dev is seen.
        listen: (host, port) for readiness and metrics.
        holder: who this is, for another plugin that finds the directory taken.
        poll_seconds: how often devices and sockets are looked at.
        stream_seconds: how long a kubelet may leave a registered resource without a stream.
        release_seconds: how often the release is looked at, besides at each allocation.
        owner: the user whose files are trusted: root.
    """

    release: Path
    mode: Mode
    max_pods: int = MAX_PODS
    resources: tuple[str, ...] = NAMES
    plugin_directory: Path = PLUGIN_DIRECTORY
    socket_directory: Path = SOCKET_DIRECTORY
    devices: Path = Path("/dev")
    listen: tuple[str, int] = ("0.0.0.0", STATUS_PORT)
    holder: str = ""
    poll_seconds: float = 1.0
    stream_seconds: float = 5.0
    release_seconds: float = 10.0
    owner: int = 0
