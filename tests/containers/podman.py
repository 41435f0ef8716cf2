"""Podman's settings for the tests: two files named by environment variables, and one variable."""

from __future__ import annotations

import os
import resource
import shutil
from pathlib import Path

SETTINGS = ("CONTAINERS_CONF", "CONTAINERS_REGISTRIES_CONF", "BUILDAH_LAYERS")
_BACKEND = Path("/usr/lib/podman/netavark")
_INIT = Path("/usr/libexec/podman/catatonit")  # for --init; Debian only recommends it


def write_settings(directory: Path, registry: str) -> dict[str, str]:
    """Write both files into `directory`; the variables to set."""
    containers = directory / "containers.conf"
    init = shutil.which("tini-static") or shutil.which("docker-init")
    containers.write_text(
        "[containers]\n"
        f"default_ulimits = {_limits()}\n"
        "[engine]\n"
        + ('runtime = "runc"\n' if shutil.which("runc") else "")
        + ('cgroup_manager = "cgroupfs"\n' if not Path("/run/systemd/system").exists() else "")
        + 'events_logger = "file"\n'
        + (f'init_path = "{init}"\n' if init and not _INIT.exists() else "")
        + ('[network]\nnetwork_backend = "netavark"\n' if _BACKEND.exists() else "")
    )
    registries = directory / "registries.conf"
    registries.write_text(f'[[registry]]\nlocation = "{registry}"\ninsecure = true\n')
    # No image for each step of a build, which nobody would remove.
    return dict(zip(SETTINGS, (str(containers), str(registries), "false"), strict=True))


def write_docker_shim(directory: Path) -> Path:
    """Write a `docker` that is Podman, as the package podman-docker has it; the directory."""
    shim = directory / "docker"
    shim.write_text(f'#!/bin/sh\nexec {shutil.which("podman")} "$@"\n')
    shim.chmod(0o755)
    return directory


def _limits() -> str:
    wanted = {
        "nofile": (resource.RLIMIT_NOFILE, 1024, 4096),
        "nproc": (resource.RLIMIT_NPROC, 1024, 2048),
    }
    found = []
    for name, (which, soft, hard) in wanted.items():
        allowed = resource.getrlimit(which)[1]
        if allowed != resource.RLIM_INFINITY:
            hard = min(hard, allowed)
        found.append(f'"{name}={min(soft, hard)}:{hard}"')
    return f"[{', '.join(found)}]"


def settings_in_force(settings: dict[str, str]) -> dict[str, str | None]:
    """Put `settings` into this process's environment; what was there before."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    return before
