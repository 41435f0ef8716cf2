"""`crannog las`: run a local attestation service, or ask one what it is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crannog.cli.directories import state_directory
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.cli.waiting import stop_signal

if TYPE_CHECKING:
    from crannog.las.enrolling import EnrolmentSettings

app = typer.Typer(no_args_is_help=True)

USUAL_SOCKET = Path("/run/crannog/las/socket")
USUAL_LAUNCHER = Path("/run/crannog/launcher")


@app.command()
def serve(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--state-directory", help="Holds the LAS's key.", show_default="~/.local/state/crannog"
        ),
    ] = None,
    listen: Annotated[
        str, typer.Option("--listen", help="HOST:PORT for programs; `none` for no TCP port.")
    ] = "0.0.0.0:18766",
    socket: Annotated[
        Path | None,
        typer.Option(
            "--socket",
            help="Path of a Unix socket to listen on as well.",
            show_default="/run/crannog/las/socket where that directory is there and writable",
        ),
    ] = None,
    launcher: Annotated[
        Path | None,
        typer.Option(
            "--launcher",
            help="The node's launcher directory: the one that containers are given.",
            show_default="/run/crannog/launcher where it is there",
        ),
    ] = None,
    launchers: Annotated[
        Path | None,
        typer.Option(
            "--launchers",
            help="Instead of --launcher: a directory that holds releases side by side, each in a "
            "directory named by its digest.",
        ),
    ] = None,
    host_root: Annotated[
        Path,
        typer.Option("--host-root", help="Where the node's file system is seen."),
    ] = Path("/"),
    records: Annotated[
        list[str] | None,
        typer.Option(
            "--records",
            metavar="NAME=DIRECTORY",
            help="Where an engine keeps its records, if not where it does by default: "
            "docker-state, docker-root, containerd-state, podman-state, podman-root, "
            "runtime-state. Can be given more than once.",
        ),
    ] = None,
    enrol_at: Annotated[
        str | None,
        typer.Option(
            "--enrol-at",
            metavar="HOST[:PORT]",
            help="Enrol at this CAS's port for programs by a Kubernetes service account token, "
            "and renew that.",
            show_default="by hand: `crannog cas las add`",
        ),
    ] = None,
    enrol_token: Annotated[
        Path | None,
        typer.Option(
            "--enrol-token",
            help="The projected token's file; read for each try.",
            show_default=False,
        ),
    ] = None,
    cas_key: Annotated[
        str | None,
        typer.Option(
            "--cas-key",
            metavar="KEYHASH",
            help="The key that the CAS must have before it gets the token. Without it whoever "
            "answers gets it, and can enrol himself.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the LAS in the foreground.

    On its socket it vouches at level node for containers that the node's launcher starts, where it
    can read the records of Docker, podman or containerd and shares the node's PID namespace.
    Everything else, and all of TCP, is of level simulation, which proves nothing.
    """
    from crannog.las.records.places import parse_places
    from crannog.las.server import LasServer
    from crannog.las.settings import LasSettings
    from crannog.transport.address import LAS_PORT, parse_address

    state.doing = "the LAS cannot run"
    address = None
    if listen != "none":
        parsed = parse_address(listen, LAS_PORT, "--listen")
        address = (parsed.host, parsed.port)
    settings = LasSettings(
        state_directory=directory or state_directory("las"),
        listen=address,
        socket=socket or _usual_socket(),
        launcher=launcher or (_usual_launcher() if launchers is None else None),
        launchers=launchers,
        host_root=host_root,
        enrolment=_enrolment(enrol_at, enrol_token, cas_key),
        places=parse_places(tuple(records or ())),
    )
    with stop_signal() as stop, LasServer(settings):
        stop.wait()


def _enrolment(at: str | None, token: Path | None, key: str | None) -> EnrolmentSettings | None:
    from crannog.errors import Misconfigured
    from crannog.las.enrolling import EnrolmentSettings
    from crannog.transport.address import ENCLAVE_API_PORT, parse_address
    from crannog.transport.tls import parse_pin

    if at is None and token is None and key is None:
        return None
    if at is None or token is None:
        raise Misconfigured("--enrol-at and --enrol-token are given together, --cas-key with them")
    pin = None if key is None else parse_pin(key, "--cas-key")
    return EnrolmentSettings(parse_address(at, ENCLAVE_API_PORT, "--enrol-at"), token, pin)


def _usual_socket() -> Path | None:
    """The place where containers look for the socket, where a node has prepared it."""
    return USUAL_SOCKET if os.access(USUAL_SOCKET.parent, os.W_OK) else None


def _usual_launcher() -> Path | None:
    return USUAL_LAUNCHER if USUAL_LAUNCHER.is_dir() else None


@app.command()
def probe(
    las: Annotated[
        str, typer.Option("--las", help="HOST[:PORT] or unix:PATH.", envvar="SCONE_LAS_ADDR")
    ] = "localhost",
    timeout: Annotated[
        float, typer.Option("--timeout", help="Seconds.", min=0.1, max=3600.0)
    ] = 10.0,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Ask a LAS for its key and level."""
    from crannog.transport.las_client import LasConnection, parse_las_address

    state.doing = f"the LAS at {las} cannot be probed"
    with LasConnection(parse_las_address(las, "--las"), seconds=timeout) as connection:
        status = connection.probe()
    values = {
        "public_key": status.public_key.hex(),
        "level": status.level.value,
        "method": status.method,
        "version": status.version,
        "reason": status.reason,
    }
    if json:
        ui.json(values)
        return
    for name, value in values.items():
        if value:
            ui.result(f"{name.replace('_', ' ') + ':':12}{value}")
