"""Which SGX devices a node has, in whatever form its driver makes them.

Decides which names are device nodes, and of which family. Opens nothing: a name and `stat` are
enough, so that the plugin needs no right on a device. What they are for is `resources`' question.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

_ENCLAVE = ("sgx_enclave", "sgx/enclave", "sgx/sgx_enclave", "sgx")
_PROVISION = ("sgx_provision", "sgx/provision", "sgx/sgx_provision")
_IAS = ("isgx",)
_MAX_LINKS = 8


@dataclass(frozen=True, slots=True)
class Node:
    """A device node.

    Attributes:
        name: below /dev, as programs look for it, such as `sgx/enclave`.
        target: below /dev, where the node itself lies; another than `name` for a link.
    """

    name: str
    target: str


@dataclass(frozen=True, slots=True)
class Found:
    """The device nodes that are there.

    Attributes:
        enclave: of the in-kernel or the DCAP driver, under each of its names.
        provision: their provisioning device.
        ias: of the older driver, `/dev/isgx`.
    """

    enclave: tuple[Node, ...] = ()
    provision: tuple[Node, ...] = ()
    ias: tuple[Node, ...] = ()

    def names(self) -> tuple[str, ...]:
        """All paths, as on the node."""
        return tuple(f"/dev/{node.name}" for node in (*self.enclave, *self.provision, *self.ias))


def scan(root: str) -> Found:
    """The SGX devices below `root`, which shows the node's /dev.

    A name that leads out of /dev, that cannot be looked at, or that is no character device does not
    count.
    """
    return Found(_nodes(root, _ENCLAVE), _nodes(root, _PROVISION), _nodes(root, _IAS))


def _nodes(root: str, names: tuple[str, ...]) -> tuple[Node, ...]:
    found = ((name, _character_device(root, name)) for name in names)
    return tuple(Node(name, target) for name, target in found if target is not None)


def _character_device(root: str, name: str) -> str | None:
    """Where the device `name` lies below /dev, links followed as on the node; None if none."""
    for _ in range(_MAX_LINKS):
        try:
            mode = os.lstat(os.path.join(root, name)).st_mode
            if not stat.S_ISLNK(mode):
                return name if stat.S_ISCHR(mode) else None
            target = os.readlink(os.path.join(root, name))
        except OSError:
            return None
        # `root` is /dev of another root: an absolute link is not to be followed from ours.
        path = os.path.normpath(os.path.join("/dev", os.path.dirname(name), target))
        if not path.startswith("/dev/"):
            return None
        name = path.removeprefix("/dev/")
    return None
