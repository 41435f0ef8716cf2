"""Where the engines keep their records, as the node names the directories."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

from crannog.errors import Misconfigured


@dataclass(frozen=True, slots=True)
class Places:
    """Directories of the node. The defaults are those of the engines as distributed.

    Attributes:
        docker_state: dockerd's --exec-root; with it runc's state below it.
        docker_root: dockerd's --data-root.
        containerd_state: containerd's `state`, for Kubernetes and for Docker with a containerd of
            the system.
        podman_state: podman's --runroot.
        podman_root: podman's --root.
        runtime_state: holds the directories of runc and crun for podman.
    """

    docker_state: str = "/run/docker"
    docker_root: str = "/var/lib/docker"
    containerd_state: str = "/run/containerd"
    podman_state: str = "/run/containers/storage"
    podman_root: str = "/var/lib/containers/storage"
    runtime_state: str = "/run"


def parse_places(given: tuple[str, ...]) -> Places:
    """The places with NAME=DIRECTORY of the command line in their stead; `Misconfigured`."""
    known = {field.name.replace("_", "-"): field.name for field in fields(Places)}
    places = Places()
    for text in given:
        name, equals, directory = text.partition("=")
        if name not in known or not equals:
            raise Misconfigured(
                f"--records is {text[:80]!r}, expected NAME=DIRECTORY",
                hint=f"names: {', '.join(known)}",
            )
        if not directory.startswith("/") or ".." in directory.split("/"):
            raise Misconfigured(f"--records {name}: {directory[:200]!r} is not an absolute path")
        places = replace(places, **{known[name]: directory.rstrip("/") or "/"})
    return places
