"""What a LAS is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from crannog.transport.address import LAS_PORT


@dataclass(frozen=True, slots=True)
class LasSettings:
    """Settings of `crannog.las.server.LasServer`.

    Attributes:
        state_directory: holds the key file (0600); made with mode 0700 where it does not exist.
        listen: (host, port) for TCP, port 0 takes a free one; None listens on no TCP port.
        socket: path of the Unix socket, or None.
        request_seconds: how long a connection may take for each message.
        connections: how many at once.
    """

    state_directory: Path
    listen: tuple[str, int] | None = ("0.0.0.0", LAS_PORT)
    socket: Path | None = None
    request_seconds: float = 10.0
    connections: int = 128
