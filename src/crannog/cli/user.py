"""`crannog self`: who you are to a CAS. The private key is printed by none of these."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crannog.cli.identity import Identity, load_identity, own_identity
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.measure.launcher import claimed_digest, own_digest, own_directory

app = typer.Typer(no_args_is_help=True)

IdentityOption = Annotated[
    Path | None,
    typer.Option(
        "--identity",
        help="A PEM file with a private key and its certificate, instead of your own.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def identity_of(path: Path | None) -> Identity:
    """The identity in that file, or the user's own."""
    if path is not None:
        return load_identity(path)
    return own_identity(state.load())[1]


@app.command()
def show(identity: IdentityOption = None, json: JsonOption = False) -> None:
    """Show your key hash, your certificate's hash, and the digest of `crannog run`'s launcher."""
    me = identity_of(identity)
    values = {
        "key_hash": me.key_hash,
        "certificate_hash": me.certificate_hash,
        "launcher_digest": _launcher_digest().hex(),
    }
    if json:
        ui.json({**values, "certificate": me.certificate})
        return
    for name, value in values.items():
        ui.result(f"{name.replace('_', ' ') + ':':18}{value}")


def _launcher_digest() -> bytes:
    """Of the launcher that `crannog run` is: in an image that of the launcher directory."""
    directory = own_directory()
    return own_digest() if directory is None else claimed_digest(directory)


@app.command("show-certificate")
def show_certificate(identity: IdentityOption = None) -> None:
    """Print your certificate, PEM: it may stand in an access policy."""
    ui.result(identity_of(identity).certificate)


@app.command("show-key-hash")
def show_key_hash(identity: IdentityOption = None) -> None:
    """Print the hash of your public key: what access policies of language 0.3 list."""
    ui.result(identity_of(identity).key_hash)


@app.command("show-certificate-hash")
def show_certificate_hash(identity: IdentityOption = None) -> None:
    """Print the SHA-256 of your certificate's PEM: what access policies of 0.2 list."""
    ui.result(identity_of(identity).certificate_hash)
