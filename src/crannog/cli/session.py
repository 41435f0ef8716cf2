"""`crannog session`: check, create, update, read and verify sessions.

What a script would read goes to stdout: a hash, or a session's text. Warnings go to stderr.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import replace
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from crannog.cli.cas_client import CasApi, CasOption, UnverifiedOption, open_cas
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.cli.user import IdentityOption, JsonOption, identity_of
from crannog.errors import Conflict, NotFound, StorageFailed
from crannog.session.access import requester, with_creator
from crannog.session.canonical import render, session_hash
from crannog.session.load import LoadedSession, load_session
from crannog.session.problems import Problem
from crannog.session.variables import expand

app = typer.Typer(no_args_is_help=True)

MAX_FILE_BYTES = 1 << 20

FileArgument = Annotated[Path, typer.Argument(help="The session's file; `-` reads stdin.")]
VariableOption = Annotated[
    list[str] | None,
    typer.Option("-e", metavar="VAR=VALUE", help="A value for $VAR in the file; repeatable."),
]
UseEnvOption = Annotated[
    bool, typer.Option("--use-env", help="Take values for $VAR from the environment as well.")
]
NameOption = Annotated[
    str | None, typer.Option("--name", "-n", help="Another name than the file's.")
]
FailOption = Annotated[
    bool, typer.Option("--fail-on-warning", help="End with an error where there is a warning.")
]


class Creator(Enum):
    """Whose key `calculate-hash` puts in as the creator."""

    TLS = "tls"
    SIGNER = "signer"


@app.command()
def check(
    file: FileArgument,
    variable: VariableOption = None,
    use_env: UseEnvOption = False,
    name: NameOption = None,
    fail_on_warning: FailOption = False,
    json: JsonOption = False,
) -> None:
    """Check a session without any CAS; prints it as a CAS would keep it."""
    state.doing = f"checking session {file} failed"
    loaded = _load(file, variable, use_env, name)
    _warn(loaded.warnings, fail_on_warning)
    text = render(loaded.session)
    if json:
        ui.json(
            {
                "name": loaded.session.name,
                "session": text,
                "hash": session_hash(loaded.session),
                "warnings": [str(warning) for warning in loaded.warnings],
            }
        )
        return
    ui.result(text)


@app.command()
def create(
    file: FileArgument,
    cas: CasOption = None,
    variable: VariableOption = None,
    use_env: UseEnvOption = False,
    name: NameOption = None,
    fail_on_warning: FailOption = False,
    identity: IdentityOption = None,
    unverified: UnverifiedOption = False,
    json: JsonOption = False,
) -> None:
    """Create a session, or update one whose `predecessor` the file names; prints the hash."""
    state.doing = "Creating session failed"
    text, loaded = _read_and_load(file, variable, use_env, name)
    _warn(loaded.warnings, fail_on_warning)
    _post(open_cas(cas, identity_of(identity), unverified=unverified), text, json)


@app.command()
def update(
    file: FileArgument,
    cas: CasOption = None,
    variable: VariableOption = None,
    use_env: UseEnvOption = False,
    name: NameOption = None,
    fail_on_warning: FailOption = False,
    identity: IdentityOption = None,
    unverified: UnverifiedOption = False,
    json: JsonOption = False,
) -> None:
    """Update a session; fills in the current version's hash as its predecessor. Prints the hash."""
    state.doing = "Updating session failed"
    text, loaded = _read_and_load(file, variable, use_env, name)
    _warn(loaded.warnings, fail_on_warning)
    api = open_cas(cas, identity_of(identity), unverified=unverified)
    if loaded.session.predecessor is None:
        current = api.read(loaded.session.name)
        text = render(replace(loaded.session, predecessor=current.hash))
    _post(api, text, json)


@app.command()
def read(
    name: Annotated[str, typer.Argument(help="The session's name.")],
    cas: CasOption = None,
    version: Annotated[
        str | None, typer.Option("--hash", help="The version with this hash, not the latest.")
    ] = None,
    identity: IdentityOption = None,
    unverified: UnverifiedOption = False,
    json: JsonOption = False,
) -> None:
    """Print a session's text. Generated secrets are not in it."""
    state.doing = f"Reading session {name} failed"
    found = open_cas(cas, identity_of(identity), unverified=unverified).read(name, version)
    if json:
        ui.json({"session": found.text, "hash": found.hash})
        return
    ui.result(found.text)


@app.command()
def verify(
    file: FileArgument,
    cas: CasOption = None,
    variable: VariableOption = None,
    use_env: UseEnvOption = False,
    name: NameOption = None,
    identity: IdentityOption = None,
    unverified: UnverifiedOption = False,
) -> None:
    """Print the hash of a file that was read back; with a CAS, fail where it is not the current."""
    state.doing = f"Verifying session {file} failed"
    loaded = _load(file, variable, use_env, name)
    digest = session_hash(loaded.session)
    if cas is not None:
        current = open_cas(cas, identity_of(identity), unverified=unverified).read(
            loaded.session.name
        )
        if current.hash != digest:
            raise Conflict(
                f"session {loaded.session.name}: {file} has hash {digest},"
                f" expected the current version's, {current.hash}",
                hint=f"crannog session read {loaded.session.name}",
            )
    ui.result(digest)


@app.command("calculate-hash")
def calculate_hash(
    file: FileArgument,
    variable: VariableOption = None,
    use_env: UseEnvOption = False,
    name: NameOption = None,
    with_self_as_creator: Annotated[
        Creator | None,
        typer.Option(
            help="Put you in as the creator, as the CAS does where a policy says CREATOR."
        ),
    ] = None,
    identity: IdentityOption = None,
) -> None:
    """Print the hash that a CAS would give this session."""
    state.doing = f"calculating the hash of {file} failed"
    session = _load(file, variable, use_env, name).session
    if with_self_as_creator is Creator.SIGNER:
        raise typer.BadParameter("signed sessions are not supported yet; use `tls`")
    if with_self_as_creator is Creator.TLS:
        session = with_creator(session, requester(identity_of(identity).der), None)
    ui.result(session_hash(session))


def _post(api: CasApi, text: str, json: bool) -> None:
    created = api.create(text)
    for warning in created.warnings:
        ui.warning(warning)
    if json:
        ui.json({"hash": created.hash, "warnings": list(created.warnings)})
        return
    ui.result(created.hash)


def _load(
    file: Path, variables: list[str] | None, use_env: bool, name: str | None
) -> LoadedSession:
    return _read_and_load(file, variables, use_env, name)[1]


def _read_and_load(
    file: Path, variables: list[str] | None, use_env: bool, name: str | None
) -> tuple[str, LoadedSession]:
    """The text with `$VAR` replaced, and what it says; its name replaced afterwards."""
    data = expand(
        _data(file),
        _values(variables or []),
        os.environ if use_env else None,
        limit=MAX_FILE_BYTES,
    )
    loaded = load_session(data)
    if name is not None:
        loaded = load_session(render(replace(loaded.session, name=name)).encode("utf-8"))
        data = render(loaded.session).encode("utf-8")
    return data.decode("utf-8"), loaded


def _values(variables: list[str]) -> dict[str, str]:
    values = {}
    for item in variables:
        key, equals, value = item.partition("=")
        if not equals or not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", key):
            raise typer.BadParameter(f"-e {item!r} is not VAR=VALUE")
        values[key] = value
    return values


def _data(file: Path) -> bytes:
    try:
        if str(file) == "-":
            return sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {file}") from error
    except OSError as error:
        raise StorageFailed(f"cannot read {file}: {error.strerror}") from error


def _warn(warnings: tuple[Problem, ...], fail: bool) -> None:
    for warning in warnings:
        ui.warning(str(warning))
    if warnings and fail:
        raise typer.Exit(1)
