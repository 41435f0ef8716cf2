"""`crannog up`: CAS and LAS for development, in the foreground, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crannog.cli.cas_client import show_chain
from crannog.cli.directories import state_directory
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.cli.waiting import stop_signal
from crannog.levels import Level

Port = Annotated[int, typer.Option(min=0, max=65535)]

PASTE = """\
CAS for clients   {cas_client}
CAS for programs  {cas_enclave}
LAS               {las}
state             {state_directory}
minimum level     simulation: this platform proves nothing to anybody; it is for development

Paste this to use it:

    {program} cas attest {cas_client} -c {cas_key_hash}
    export SCONE_CAS_ADDR={cas_host} SCONE_LAS_ADDR={las_host}

Then create a session and start its program:

    {program} session create session.yaml
    SCONE_CONFIG_ID=SESSION/SERVICE {program} run -- COMMAND...

Ctrl-C ends it; sessions and secrets stay in the state directory."""


def up(
    directory: Annotated[
        Path | None,
        typer.Option(
            "--state-directory",
            help="Holds sessions, secrets and keys.",
            show_default="~/.local/state/crannog/up",
        ),
    ] = None,
    listen: Annotated[
        str,
        typer.Option(
            "--listen",
            help="The address for all ports; 0.0.0.0 lets containers and others in.",
        ),
    ] = "127.0.0.1",
    client_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8081,
    enclave_port: Annotated[
        int, typer.Option(min=0, max=65535, help="0 takes a free one.")
    ] = 18765,
    las_port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 18766,
    json: Annotated[
        bool, typer.Option("--json", help="Print the addresses as one JSON object.")
    ] = False,
) -> None:
    """Run a development platform: CAS and LAS, minimum level simulation, until Ctrl-C."""
    from crannog.cas.server import CasServer
    from crannog.cas.settings import CasSettings
    from crannog.las.server import LasServer
    from crannog.las.settings import LasSettings

    state.doing = "the development platform cannot run"
    root = directory or state_directory("up")
    cas_settings = CasSettings(
        state_directory=root / "cas",
        api_listen=(listen, client_port),
        enclave_listen=(listen, enclave_port),
        minimum_level=Level.SIMULATION,
    )
    las_settings = LasSettings(state_directory=root / "las", listen=(listen, las_port))
    with stop_signal() as stop, CasServer(cas_settings) as cas, LasServer(las_settings) as las:
        chain = show_chain(_address(cas.api_address, listen))
        values = {
            "cas_client": _address(cas.api_address, listen),
            "cas_enclave": _address(cas.enclave_address, listen),
            "las": _address(las.address, listen),
            "cas_key_hash": chain.key_hash,
            "state_directory": str(root),
            "minimum_level": Level.SIMULATION.value,
        }
        if json:
            ui.json(values)
        else:
            hosts = {
                "cas_host": _short(values["cas_enclave"], 18765),
                "las_host": _short(values["las"], 18766),
                "program": ui.program,
            }
            ui.result(PASTE.format(**values, **hosts))
        stop.wait()


def _address(bound: tuple[str, int], listen: str) -> str:
    host = "127.0.0.1" if listen in ("0.0.0.0", "::") else listen
    return f"[{host}]:{bound[1]}" if ":" in host else f"{host}:{bound[1]}"


def _short(address: str, default_port: int) -> str:
    return address.removesuffix(f":{default_port}")
