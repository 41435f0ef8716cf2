"""`crannog cas las` and `crannog cas launcher`: whom a CAS takes at their word above simulation.

For whoever has the CAS's state directory and its master key. A running CAS is told through a socket
in that directory and heeds it at once; a stopped one's database is changed. Each change is in the
audit log, whose new head is printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from crannog.cli.cas_options import KeyOption, StateOption
from crannog.cli.directories import state_directory
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.cli.user import JsonOption
from crannog.errors import NotFound, StorageFailed

if TYPE_CHECKING:
    from crannog.cas.keys import KeyProvider
    from crannog.cas.store.accepted import Entry
    from crannog.wire import Json

las = typer.Typer(no_args_is_help=True)
launcher = typer.Typer(no_args_is_help=True)

LasKey = Annotated[
    str,
    typer.Argument(
        metavar="KEY",
        help="The LAS's public key, 64 hex digits, as it prints it at its start.",
    ),
]
Digest = Annotated[
    str,
    typer.Argument(
        metavar="DIGEST", help="The release's digest, 64 hex digits: `crannog self show`."
    ),
]
NoteOption = Annotated[
    str, typer.Option("--note", help="Which node or release this is; shown by `list`.")
]


@las.command("add")
def las_add(
    key: LasKey,
    note: NoteOption = "",
    directory: StateOption = None,
    key_provider: KeyOption = "file",
) -> None:
    """Enrol a LAS: from now on evidence that it witnessed is of level node."""
    state.doing = "the LAS is not enrolled"
    _order("las-add", key, note, directory, key_provider)


@las.command("remove")
def las_remove(
    key: LasKey, directory: StateOption = None, key_provider: KeyOption = "file"
) -> None:
    """Take an enrolment back: from now on its evidence is of level simulation.

    No token enrols that key again: see `readmit`.
    """
    state.doing = "the LAS is not removed"
    _order("las-remove", key, "", directory, key_provider)


@las.command("readmit")
def las_readmit(
    key: LasKey, directory: StateOption = None, key_provider: KeyOption = "file"
) -> None:
    """Let a token enrol a LAS again that was removed. `add` does that as well, without expiry."""
    state.doing = "the LAS is not readmitted"
    _order("las-readmit", key, "", directory, key_provider)


@las.command("list")
def las_list(
    removed: Annotated[
        bool, typer.Option("--removed", help="Those that were removed, and that no token enrols.")
    ] = False,
    directory: StateOption = None,
    key_provider: KeyOption = "file",
    json: JsonOption = False,
) -> None:
    """List the enrolled LASes: key, since when, note.

    Of one that a token has enrolled the node stands in the note's place, and until when.
    """
    import time

    from crannog.cas.store.accepted import Kind

    state.doing = "the enrolled LASes cannot be listed"
    kinds = (Kind.LAS_BARRED,) if removed else (Kind.LAS_KEY, Kind.LAS_TOKEN)
    entries = _entries(tuple(kind.value for kind in kinds), directory, key_provider)
    _show_las(entries, time.time(), json=json)


@launcher.command("add")
def launcher_add(
    digest: Digest,
    note: NoteOption = "",
    directory: StateOption = None,
    key_provider: KeyOption = "file",
) -> None:
    """Accept a launcher release at level node and above, and from now on none that is not listed.

    Accept a new release before the nodes are upgraded to it.
    """
    state.doing = "the launcher is not accepted"
    _order("launcher-add", digest, note, directory, key_provider)


@launcher.command("remove")
def launcher_remove(
    digest: Digest, directory: StateOption = None, key_provider: KeyOption = "file"
) -> None:
    """Accept a launcher release no longer. The last one of the list is not removed: see `clear`."""
    state.doing = "the launcher is not removed"
    _order("launcher-remove", digest, "", directory, key_provider)


@launcher.command("clear")
def launcher_clear(directory: StateOption = None, key_provider: KeyOption = "file") -> None:
    """Empty the list: every launcher that an enrolled LAS vouches for is accepted again."""
    state.doing = "the list of launchers is not emptied"
    _order("launcher-clear", "", "", directory, key_provider)
    ui.warning("every launcher that an enrolled LAS vouches for is accepted now")


@launcher.command("list")
def launcher_list(
    directory: StateOption = None, key_provider: KeyOption = "file", json: JsonOption = False
) -> None:
    """List the accepted launcher releases: digest, since when, note. None listed: all accepted."""
    from crannog.cas.store.accepted import Kind

    state.doing = "the accepted launchers cannot be listed"
    entries = _entries((Kind.LAUNCHER.value,), directory, key_provider)
    _show(entries, "digest", json=json)
    if not entries:
        ui.note("no launcher is listed: every one that an enrolled LAS vouches for is accepted")


def _order(action: str, subject: str, note: str, directory: Path | None, provider: str) -> None:
    from crannog.cas.operating import operate
    from crannog.exchange.operator import Action, Order

    database, keys = _open(directory, provider)
    ui.result(operate(database, keys=keys, order=Order(Action(action), subject, note)))


def _entries(kinds: tuple[str, ...], directory: Path | None, provider: str) -> tuple[Entry, ...]:
    from crannog.cas.audit import read_accepted
    from crannog.cas.store.accepted import Kind

    database, keys = _open(directory, provider)
    accepted = read_accepted(database, keys=keys)
    return tuple(entry for kind in kinds for entry in accepted.of(Kind(kind)))


def _show_las(entries: tuple[Entry, ...], now: float, *, json: bool) -> None:
    from crannog.cas.store.accepted import Kind

    sources = {Kind.LAS_KEY: "operator", Kind.LAS_TOKEN: "token", Kind.LAS_BARRED: "removed"}
    if not json:
        for one in entries:
            ui.result(f"{one.value} {one.added} {_about(one, now)}".rstrip())
        return
    found: list[Json] = []
    for one in entries:
        values: dict[str, Json] = {
            "key": one.value,
            "added": one.added,
            "note": one.note,
            "source": sources[one.kind],
            "expires": None,
        }
        if one.enrolment is not None:
            token = one.enrolment
            if one.kind is Kind.LAS_TOKEN:
                values |= {"expires": _moment(token.expires), "expired": token.expires <= now}
            values |= {
                "issuer": token.issuer,
                "subject": token.subject,
                "node": token.node,
                "pod": token.pod,
            }
        found.append(values)
    ui.json(found)


def _about(entry: Entry, now: float) -> str:
    from crannog.cas.store.accepted import Kind

    token = entry.enrolment
    if token is None or entry.note:
        return entry.note
    if entry.kind is not Kind.LAS_TOKEN:
        return f"node {token.node}"
    word = "expired" if token.expires <= now else "until"
    return f"node {token.node} {word} {_moment(token.expires)}"


def _moment(seconds: int) -> str:
    from datetime import UTC, datetime

    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _show(entries: tuple[Entry, ...], name: str, *, json: bool) -> None:
    if json:
        ui.json([{name: one.value, "added": one.added, "note": one.note} for one in entries])
        return
    for one in entries:
        ui.result(f"{one.value} {one.added} {one.note}".rstrip())


def _open(directory: Path | None, provider: str) -> tuple[Path, KeyProvider]:
    import os

    from crannog.cas.keys import key_provider
    from crannog.cas.server import DATABASE
    from crannog.linux.process import forbid_core_dumps

    forbid_core_dumps()  # the master key will be in memory
    root = directory or state_directory("cas")
    database = root / DATABASE
    try:
        there = database.exists()
    except OSError as error:
        raise StorageFailed(
            f"{root} cannot be looked into: {(error.strerror or 'failed').lower()}",
            hint="give this order as the user that runs the CAS",
        ) from error
    if not there:
        raise NotFound(f"there is no database {database}", hint="name the CAS's --state-directory")
    return database, key_provider(provider, root, os.environ)
