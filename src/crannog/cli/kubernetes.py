"""`crannog kubernetes`: what runs on the nodes of a cluster."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.cli.waiting import stop_signal

app = typer.Typer(no_args_is_help=True)

_CARRIED = Path("/crannog")
_LAUNCHERS = Path("/var/lib/crannog/launcher")


@app.command("device-plugin")
def device_plugin(
    simulation: Annotated[
        bool,
        typer.Option(
            "--simulation",
            help="Offer the resources without a device: for nodes without SGX. Protects nothing.",
        ),
    ] = False,
    max_pods: Annotated[
        int,
        typer.Option(
            "--max-sgx-pods",
            help="How many containers of each resource on a node.",
            envvar="MAX_SGX_PODS",
            min=1,
            max=10_000,
        ),
    ] = 110,
    offered: Annotated[
        list[str] | None,
        typer.Option(
            "--offer",
            metavar="RESOURCE",
            help="Offer this resource; repeatable. Where another plugin of the node has one of "
            "them, offer the others.",
            show_default="all",
        ),
    ] = None,
    label_node: Annotated[
        bool,
        typer.Option("--label-node", help="Label the node by what it has.", envvar="LABEL_NODES"),
    ] = False,
    node: Annotated[
        str, typer.Option("--node", help="The node's name.", envvar="NODE_NAME", metavar="NAME")
    ] = "",
    launchers: Annotated[
        Path,
        typer.Option("--launchers", help="The node's launcher releases, under the node's path."),
    ] = _LAUNCHERS,
    release: Annotated[
        str,
        typer.Option(
            "--release",
            metavar="DIGEST",
            help="The release that containers get.",
            show_default="that of /crannog in this image",
        ),
    ] = "",
    plugin_directory: Annotated[
        Path, typer.Option("--plugin-directory", help="The kubelet's directory for plugins.")
    ] = Path("/var/lib/kubelet/device-plugins"),
    socket_directory: Annotated[
        Path, typer.Option("--las-socket-directory", help="Of the LAS's socket, on the node.")
    ] = Path("/run/crannog/las"),
    devices: Annotated[
        Path, typer.Option("--devices", help="Where the node's /dev is seen.")
    ] = Path("/dev"),
    listen: Annotated[
        str, typer.Option("--listen", help="HOST:PORT for /ready, /live and /metrics.")
    ] = "0.0.0.0:18767",
) -> None:
    """Run the device plugin in the foreground.

    Offers sgx.k8s.io/sgx and its like to the kubelet. A container that asks for one gets the
    node's devices, the node's launcher and the LAS's socket directory.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # what concerns an operator is in our own log
    from crannog.kubernetes.api_server import find_api_server
    from crannog.kubernetes.labels import Labeler
    from crannog.kubernetes.plugin import DevicePlugin
    from crannog.kubernetes.release import carried_release, find_release
    from crannog.kubernetes.resources import NAMES, Mode
    from crannog.kubernetes.settings import STATUS_PORT, PluginSettings
    from crannog.kubernetes.status import Metrics
    from crannog.transport.address import parse_address
    from crannog.transport.log import server_log
    from crannog.wire import parse_hex

    state.doing = "the device plugin cannot run"
    unknown = [name for name in offered or () if name not in NAMES]
    if unknown:
        raise typer.BadParameter(f"--offer {unknown[0]!r}: expected one of {', '.join(NAMES)}")
    digest = parse_hex(release, 32, "--release").hex() if release else carried_release(_CARRIED)
    address = parse_address(listen, STATUS_PORT, "--listen")
    settings = PluginSettings(
        release=find_release(launchers, digest),
        mode=Mode.SIMULATION if simulation else Mode.HARDWARE,
        max_pods=max_pods,
        resources=tuple(offered or NAMES),
        plugin_directory=plugin_directory,
        socket_directory=socket_directory,
        devices=devices,
        listen=(address.host, address.port),
        holder=_holder(simulation),
    )
    log, metrics = server_log(), Metrics()
    labeler = None
    if label_node:
        if not node:
            raise typer.BadParameter("--label-node needs --node or NODE_NAME")
        labeler = Labeler(find_api_server(os.environ), node, log=log, metrics=metrics)
    with (
        stop_signal() as stop,
        DevicePlugin(settings, labeler=labeler, log=log, metrics=metrics),
    ):
        stop.wait()


def _holder(simulation: bool) -> str:
    pod = os.environ.get("POD_NAME") or os.uname().nodename
    namespace = os.environ.get("POD_NAMESPACE")
    name = f"pod {namespace}/{pod}" if namespace else pod
    return f"{name}, in {'simulation' if simulation else 'hardware'}"


@app.command("install-launcher")
def install_launcher(
    source: Annotated[Path, typer.Option("--from", help="A whole launcher directory.")] = _CARRIED,
    launchers: Annotated[
        Path, typer.Option("--to", help="The node's directory of releases.")
    ] = _LAUNCHERS,
) -> None:
    """Install a launcher on this node, beside those that are there, and print its digest.

    Whole or not at all. What is there already is verified and left as it is; what was changed is
    set aside, for the containers that have it mounted.
    """
    from crannog.kubernetes.release import install_launcher as install

    state.doing = "the launcher cannot be installed"
    done = install(source, launchers)
    place = launchers / done.digest
    if done.set_aside is not None:
        ui.warning(f"{place} was not whole, and is {done.set_aside.name} now: {done.because}")
    ui.note(f"installed {place}" if done.new else f"{place} is there already")
    ui.result(done.digest)
