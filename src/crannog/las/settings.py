"""What a LAS is started with."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from crannog.las.enrolling import EnrolmentSettings
from crannog.las.records.places import Places
from crannog.transport.address import LAS_PORT


@dataclass(frozen=True, slots=True)
class LasSettings:
    """Settings of `crannog.las.server.LasServer`.

    Attributes:
        state_directory: holds the key file (0600); made with mode 0700 where it does not exist.
        listen: (host, port) for TCP, port 0 takes a free one; None listens on no TCP port.
        socket: path of the Unix socket, or None.
        launcher: the node's launcher directory as this LAS sees it, or None where there is none:
            then everything is of level simulation.
        launchers: instead of `launcher`: a directory that holds releases side by side, each in a
            directory named by its digest.
        host_root: where the node's file system is seen.
        places: where the node's container engines keep their records.
        owner: the user whose files the launcher and the records have to be: root.
        enrolment: at which CAS it enrols by token, or None.
        request_seconds: how long a connection may take for each message.
        connections: how many at once.
    """

    state_directory: Path
    listen: tuple[str, int] | None = ("0.0.0.0", LAS_PORT)
    socket: Path | None = None
    launcher: Path | None = None
    launchers: Path | None = None
    host_root: Path = Path("/")
    places: Places = field(default_factory=Places)
    owner: int = 0
    enrolment: EnrolmentSettings | None = None
    request_seconds: float = 10.0
    connections: int = 128
