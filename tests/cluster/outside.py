"""A CAS outside the cluster, where the user sits, on the tutorial's ports."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from crannog.testing.platform import DevelopmentPlatform
from tests.cluster.rig import Cluster

CLIENT_PORT = 8081
ENCLAVE_PORT = 18765


class OutsideCas(DevelopmentPlatform):
    """A CAS of level simulation that pods and the user reach at `address`, as `scone-cas.cf`.

    Attributes:
        address: host alone, without a port: the tutorial's SCONE_CAS_ADDR.
    """

    def __init__(self, cluster: Cluster, directory: Path) -> None:
        super().__init__(directory, listen="0.0.0.0", free_ports=False, within=cluster.within)
        ports = {"client": CLIENT_PORT, "enclave": ENCLAVE_PORT, "las": 0}
        for name, port in ports.items():
            self._arguments += [f"--{name}-port", str(port)]
        self.address = cluster.address

    def __enter__(self) -> Self:
        super().__enter__()
        self.cas_client = f"{self.address}:{CLIENT_PORT}"
        self.cas_enclave = f"{self.address}:{ENCLAVE_PORT}"
        return self
