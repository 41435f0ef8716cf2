"""What a CAS is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crannog.cas.enrolment.settings import IssuerSettings
from crannog.levels import Level
from crannog.transport.address import CLIENT_API_PORT, ENCLAVE_API_PORT


@dataclass(frozen=True, slots=True)
class CasSettings:
    """Settings of `crannog.cas.server.CasServer`.

    Attributes:
        state_directory: holds the database and, with the file key provider, its key; made with mode
            0700 where it does not exist.
        api_listen: (host, port) of the REST API; port 0 takes a free one.
        enclave_listen: (host, port) of the API for programs.
        minimum_level: the level of a database that is created now; None for an existing one. A
            level other than the database's own is refused.
        key_provider: where the sealing key comes from: `file`, `file:PATH` or `env:NAME`.
        names: further host names for the server's certificate.
        enrolled_las_keys: Ed25519 public keys (32 bytes) of LASes that may vouch for level node,
            beside those that are enrolled in the database (`crannog cas las add`). For embedding
            and tests: they are in no audit record of their own.
        accepted_launchers: digests (32 bytes) of launcher releases that are accepted beside those
            in the database; None adds none. Any launcher is accepted where neither lists one.
        issuer: whose tokens enrol LASes; None takes none.
        handshake_seconds: for a TLS handshake.
        request_seconds: for one request, or one whole attestation.
        idle_seconds: for a kept-alive connection between requests.
        drain_seconds: for open requests when the CAS stops.
        connections: how many at once on each port.
    """

    state_directory: Path
    api_listen: tuple[str, int] = ("0.0.0.0", CLIENT_API_PORT)
    enclave_listen: tuple[str, int] = ("0.0.0.0", ENCLAVE_API_PORT)
    minimum_level: Level | None = None
    key_provider: str = "file"
    names: tuple[str, ...] = ()
    enrolled_las_keys: tuple[bytes, ...] = ()
    accepted_launchers: tuple[bytes, ...] | None = None
    issuer: IssuerSettings | None = None
    handshake_seconds: float = 10.0
    request_seconds: float = 30.0
    idle_seconds: float = 60.0
    drain_seconds: float = 10.0
    connections: int = 256
