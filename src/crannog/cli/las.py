"""`crannog las`: run a local attestation service, or ask one what it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crannog.cli.directories import state_directory
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.cli.waiting import stop_signal

app = typer.Typer(no_args_is_help=True)


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
        Path | None, typer.Option("--socket", help="Path of a Unix socket to listen on as well.")
    ] = None,
) -> None:
    """Run the LAS in the foreground. What it says is of level simulation: it proves nothing."""
    from crannog.las.server import LasServer
    from crannog.las.settings import LasSettings
    from crannog.transport.address import LAS_PORT, parse_address

    state.doing = "the LAS cannot run"
    address = None
    if listen != "none":
        parsed = parse_address(listen, LAS_PORT, "--listen")
        address = (parsed.host, parsed.port)
    settings = LasSettings(
        state_directory=directory or state_directory("las"), listen=address, socket=socket
    )
    with stop_signal() as stop, LasServer(settings):
        stop.wait()


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
