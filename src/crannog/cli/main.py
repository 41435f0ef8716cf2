"""The command tree, and the one place where an error becomes an exit status."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer

from crannog import __version__
from crannog.cli import cas, fspf, image, kubernetes, las, session, user
from crannog.cli.arguments import expand_argument_files
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.cli.up import up
from crannog.errors import Error, StorageFailed, defect

_INTERRUPTED = 130
_BROKEN_PIPE = 141

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Confidential applications: programs get their secrets once they have proved what"
    " they are.",
    epilog="`crannog run [--] COMMAND...` starts a program; see `crannog run --help`.",
)
app.add_typer(session.app, name="session", help="Sessions: the policies that a CAS keeps.")
app.add_typer(cas.app, name="cas", help="The configuration and attestation service.")
app.add_typer(las.app, name="las", help="The local attestation service of a node.")
app.add_typer(fspf.app, name="fspf", help="Encrypt or authenticate directory trees.")
app.add_typer(image.app, name="image", help="Protect the files of container images.")
app.add_typer(kubernetes.app, name="kubernetes", help="What runs on the nodes of a cluster.")
app.add_typer(user.app, name="self", help="Who you are to a CAS.")
app.command()(up)


@app.command(
    name="run",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def run(context: typer.Context) -> None:
    """Measure, attest and start a program: `crannog run [--] COMMAND...`."""
    # Reached only when a global option stands before `run`; __main__ takes the short way.
    from crannog.measure.launcher import own_directory
    from crannog.runtime.command import run_command

    # In an image the environment was restored by us: nothing of Python's own is in it.
    environment = None if own_directory() is None else os.environ
    raise typer.Exit(run_command(list(context.args), program=ui.program, environment=environment))


@app.command()
def version() -> None:
    """Print the version."""
    ui.result(f"{ui.program} {__version__}")


def _print_version(wanted: bool) -> None:
    if wanted:
        ui.result(f"{ui.program} {__version__}")
        raise typer.Exit


@app.callback()
def options(
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            help="The file with your identity and the attested CASes.",
            envvar="SCONE_CLI_CONFIG",
            show_default="~/.cas/config.json",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("-o", help="Write the output to this file instead of stdout.")
    ] = None,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Options that stand before the command."""
    del show_version
    if config is not None:
        state.config_path = config
    if output is not None:
        _redirect(output)


def run_cli(arguments: list[str], *, program: str) -> int:
    """Run one command; returns the exit status and raises nothing that a user would see.

    Our own bugs end in a line that names their kind and place, not in a traceback.
    """
    ui.program = program
    if not _standard_streams():
        # Before anything is done: a key that is printed once must not be lost.
        return ui.error(StorageFailed("standard output is closed", hint="redirect it to a file"))
    try:
        typer.main.get_command(app).main(args=expand_argument_files(arguments), prog_name=program)
    except SystemExit as end:  # how Typer ends, also well
        return _flushed(end.code if isinstance(end.code, int) else 0)
    except Error as error:
        return ui.error(error, doing=state.doing)
    except KeyboardInterrupt:
        ui.note("interrupted")
        return _INTERRUPTED
    except BrokenPipeError:
        return _flushed(_BROKEN_PIPE)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return ui.error(defect(error), doing=state.doing)
        ui.abandon_output()  # the help text, which the library prints
        return ui.error(StorageFailed(f"cannot write the output: {error.strerror}"))
    except Exception as error:  # noqa: BLE001  # (A) its text, and a traceback, may hold secrets
        return ui.error(defect(error), doing=state.doing)
    return _flushed(0)


def _standard_streams() -> bool:
    """Whether there is a standard output; closed descriptors below 3 are never another file's."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    # Python has None where a stream was closed at its start, whatever its types say.
    streams: tuple[TextIO | None, TextIO | None] = (sys.stdout, sys.stderr)
    if streams[1] is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115  # as long as the process
    return streams[0] is not None


def _flushed(status: int) -> int:
    """The exit status, once what was printed has arrived or its reader has gone."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        ui.abandon_output()
        return _BROKEN_PIPE
    except OSError as error:
        ui.abandon_output()
        return ui.error(StorageFailed(f"cannot write the output: {error.strerror}"))
    return status


def _redirect(path: Path) -> None:
    try:
        sys.stdout = path.open("w", encoding="utf-8")
    except OSError as error:
        raise typer.BadParameter(f"cannot write {path}: {error.strerror}") from error
