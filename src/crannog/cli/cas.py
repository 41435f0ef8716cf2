"""`crannog cas`: run a configuration and attestation service, attest one, read its audit log."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from crannog.cli import cas_trust
from crannog.cli.cas_client import (
    CasOption,
    UnverifiedOption,
    known_cas,
    named,
    open_cas,
    show_chain,
)
from crannog.cli.cas_options import KeyOption, StateOption
from crannog.cli.config import KnownCas, save_config
from crannog.cli.directories import state_directory
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.cli.user import JsonOption
from crannog.cli.waiting import stop_signal
from crannog.errors import Denied, NotFound
from crannog.levels import Level

app = typer.Typer(no_args_is_help=True)
app.add_typer(cas_trust.las, name="las", help="The LASes whose word is worth level node.")
app.add_typer(cas_trust.launcher, name="launcher", help="The launcher releases that are accepted.")


@app.command()
def serve(
    directory: StateOption = None,
    minimum_level: Annotated[
        Level | None,
        typer.Option(
            help="The weakest evidence that gets a configuration. Needed for a new database, where"
            " it is fixed; `simulation` accepts what proves nothing.",
            show_default=False,
        ),
    ] = None,
    client_listen: Annotated[
        str, typer.Option(help="HOST:PORT of the client API.")
    ] = "0.0.0.0:8081",
    enclave_listen: Annotated[
        str, typer.Option(help="HOST:PORT of the API for programs.")
    ] = "0.0.0.0:18765",
    key_provider: KeyOption = "file",
    host_name: Annotated[
        list[str] | None,
        typer.Option(help="A further host name for the server's certificate; repeatable."),
    ] = None,
    las_issuer: Annotated[
        str | None,
        typer.Option(
            help="The issuer of the service account tokens that enrol LASes: a cluster.",
            show_default="LASes are enrolled by hand only",
        ),
    ] = None,
    las_issuer_keys: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|URL",
            help="The issuer's published keys (JWKS): a file, or an https URL.",
            show_default=False,
        ),
    ] = None,
    las_issuer_ca: Annotated[
        Path | None,
        typer.Option(
            help="For a URL: the certificates, PEM, that its server's has to chain to.",
            show_default=False,
        ),
    ] = None,
    las_issuer_token: Annotated[
        Path | None,
        typer.Option(
            help="For a URL: a file with a bearer token; read for each request.",
            show_default=False,
        ),
    ] = None,
    las_audience: Annotated[
        str, typer.Option(help="What a LAS's token has to be for, and for nothing else.")
    ] = "crannog-cas",
    las_subject: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SUBJECT",
            help="A service account whose LASes may enrol, "
            "system:serviceaccount:NAMESPACE:NAME; repeatable.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Run the CAS in the foreground, until SIGTERM or Ctrl-C."""
    from crannog.cas.enrolment.settings import issuer_settings
    from crannog.cas.server import CasServer
    from crannog.cas.settings import CasSettings
    from crannog.transport.address import CLIENT_API_PORT, ENCLAVE_API_PORT, parse_address

    state.doing = "the CAS cannot run"
    api = parse_address(client_listen, CLIENT_API_PORT, "--client-listen")
    enclave = parse_address(enclave_listen, ENCLAVE_API_PORT, "--enclave-listen")
    settings = CasSettings(
        state_directory=directory or state_directory("cas"),
        api_listen=(api.host, api.port),
        enclave_listen=(enclave.host, enclave.port),
        minimum_level=minimum_level,
        key_provider=key_provider,
        names=tuple(host_name or ()),
        issuer=issuer_settings(
            las_issuer,
            las_issuer_keys,
            authorities=las_issuer_ca,
            bearer=las_issuer_token,
            audience=las_audience,
            subjects=tuple(las_subject or ()),
        ),
    )
    with stop_signal() as stop, CasServer(settings):
        stop.wait()


@app.command()
def attest(
    address: Annotated[str, typer.Argument(help="HOST[:PORT] of the CAS's client API.")],
    key_hash: Annotated[
        str | None,
        typer.Option("-c", "--cas-key-hash", help="The hash of the key that the CAS must have."),
    ] = None,
    trust_any: Annotated[
        bool,
        typer.Option(
            "--only_for_testing-trust-any", help="Take whatever key is shown, and remember it."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option("--only_for_testing-debug", help="Of the reference; changes nothing here."),
    ] = False,
    ignore_signer: Annotated[
        bool,
        typer.Option(
            "--only_for_testing-ignore-signer", help="Of the reference; changes nothing here."
        ),
    ] = False,
    tolerate_configuration: Annotated[
        bool, typer.Option("-C", help="Of the reference; matters with hardware evidence only.")
    ] = False,
    tolerate_group: Annotated[
        bool, typer.Option("-G", help="Of the reference; matters with hardware evidence only.")
    ] = False,
    tolerate_software: Annotated[
        bool, typer.Option("-S", help="Of the reference; matters with hardware evidence only.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Decide whether to trust a CAS, and remember it by its key.

    This release's CASes bring no hardware evidence: what makes one trustworthy is that its key is
    the one you expect (-c). Without that, nothing distinguishes it from a false one.
    """
    del debug, ignore_signer, tolerate_configuration, tolerate_group, tolerate_software
    state.doing = "Error during attestation of CAS"
    chain = show_chain(address)
    if key_hash is None and not trust_any:
        raise Denied(
            f"the CAS at {address} brings no evidence, and no key hash is given to know it by;"
            f" the key that it shows has hash {chain.key_hash}",
            hint="-c KEYHASH with the hash that the CAS prints at start,"
            " or --only_for_testing-trust-any",
        )
    if key_hash is not None and key_hash != chain.key_hash:
        raise Denied(
            f"the CAS at {address} has another key: its hash is {chain.key_hash},"
            f" expected {key_hash}",
            hint="is this the right address; was the CAS set up anew?",
        )
    config = state.load()
    before = config.cas(address)
    if before is not None and key_hash is None and before.key_hash != chain.key_hash:
        raise Denied(
            f"the CAS at {address} had another key when it was attested before: {before.key_hash},"
            f" now {chain.key_hash}",
            hint="-c KEYHASH, when the change is meant",
        )
    # (A) What it shows anybody could show: now it has to prove that it is the one of that key.
    show_chain(address, key_hash=chain.key_hash)
    level = Level.SIMULATION
    known = KnownCas(address, chain.key_hash, level.value)
    save_config(config.with_cas(known))
    if json:
        ui.json({"cas": address, "key_hash": chain.key_hash, "level": level.value})
        return
    how = "its key is the expected one" if key_hash else "ANY key was accepted"
    ui.warning(f"level {level.value}: {how}; no hardware vouches for this CAS")
    ui.result(f"CAS {address} at {named(address)} is trustworthy")


@app.command("list")
def list_known(json: JsonOption = False) -> None:
    """List the attested CASes; `*` marks the default."""
    config = state.load()
    if json:
        ui.json(
            [
                {
                    "name": cas.name,
                    "url": named(cas.name),
                    "key_hash": cas.key_hash,
                    "level": cas.level,
                    "default": cas.name == config.default_cas,
                }
                for cas in config.known
            ]
        )
        return
    for cas in config.known:
        mark = "*" if cas.name == config.default_cas else " "
        ui.result(f"{mark} {cas.name}: {named(cas.name)}")


@app.command("set-default")
def set_default(name: Annotated[str, typer.Argument(help="An attested CAS.")]) -> None:
    """Make an attested CAS the one that other commands use."""
    state.doing = "setting the default CAS failed"
    config = state.load()
    if config.cas(name) is None:
        raise NotFound(f"no CAS {name} was attested", hint=f"crannog cas attest {name}")
    save_config(config.with_default(name))


@app.command("show-certificate")
def show_certificate(
    cas: Annotated[
        str | None, typer.Argument(help="HOST[:PORT].", show_default="the default CAS")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Print the CA certificates of an attested CAS, PEM: `cas-instance`, then `cas`."""
    state.doing = "showing the CAS's certificates failed"
    known = known_cas(state.load(), cas)
    chain = show_chain(known.name)
    if chain.key_hash != known.key_hash:
        raise Denied(
            f"the CAS at {known.name} has another key than when it was attested:"
            f" {chain.key_hash}, expected {known.key_hash}"
        )
    # (A) Whoever takes these as authorities takes nothing from a server that has not proved itself.
    chain = show_chain(known.name, key_hash=known.key_hash)
    if json:
        ui.json({"certificates": chain.authorities, "key_hash": chain.key_hash})
        return
    ui.result(chain.authorities)


@app.command()
def version(
    cas: CasOption = None, unverified: UnverifiedOption = False, json: JsonOption = False
) -> None:
    """Print the version of a CAS."""
    state.doing = "asking the CAS for its version failed"
    value = open_cas(cas, None, unverified=unverified).version()
    if json:
        ui.json(value)
        return
    for name, text in value.items():
        ui.result(f"{name}: {text}")


@app.command("set-minimum-level")
def set_minimum_level(
    level: Annotated[Level, typer.Argument(help="simulation, node or hardware.")],
    directory: StateOption = None,
    key_provider: KeyOption = "file",
) -> None:
    """Change the weakest evidence that a stopped CAS accepts; it is written to the audit log.

    Prints the audit log's new head.
    """
    import os

    from crannog.cas.keys import key_provider as find_provider
    from crannog.cas.server import DATABASE
    from crannog.cas.service import CasService
    from crannog.linux.process import forbid_core_dumps

    forbid_core_dumps()  # the master key will be in memory
    state.doing = "the minimum level cannot be changed"
    root = directory or state_directory("cas")
    path = root / DATABASE
    if not path.exists():
        raise NotFound(f"there is no database {path}", hint="name the CAS's --state-directory")
    service = CasService.open(path, keys=find_provider(key_provider, root, os.environ))
    try:
        before = service.minimum_level
        service.set_minimum_level(level, actor="command line")
        head = str(service.head)
    finally:
        service.close("minimum level set")
    if not level.satisfies(before):
        ui.warning(f"weakened from {before.value} to {level.value}")
    ui.result(head)


@app.command("verify-audit-log")
def verify_audit_log(
    directory: StateOption = None,
    key_provider: KeyOption = "file",
    expect_head: Annotated[
        str | None,
        typer.Option(
            help="A head that was printed before: shows whether the database was put back to an"
            " older state.",
            show_default=False,
        ),
    ] = None,
    export: Annotated[
        bool, typer.Option(help="Print the records as JSON lines after verifying them.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Verify both chains of a CAS's database; prints the head of the audit log.

    The exit status is 0 when all is well, else 14 to 20 by severity (docs/formats/audit-log.md).
    """
    import os

    from crannog.cas import audit
    from crannog.cas.keys import key_provider as find_provider
    from crannog.cas.server import DATABASE
    from crannog.cas.store.records import parse_head
    from crannog.linux.process import forbid_core_dumps

    forbid_core_dumps()  # the master key will be in memory
    state.doing = "the audit log cannot be verified"
    root = directory or state_directory("cas")
    keys = find_provider(key_provider, root, os.environ)
    path = root / DATABASE
    expected = None if expect_head is None else parse_head(expect_head)
    found = audit.verify_audit_log(path, keys=keys, expect_head=expected)
    head = "" if found.head is None else str(found.head)
    if json:
        ui.json(
            {
                "head": head,
                "records": found.records,
                "versions": found.versions,
                "severity": int(found.severity),
                "findings": [
                    {"severity": int(one.severity), "message": one.message}
                    for one in found.findings
                ],
            }
        )
    else:
        for one in found.findings:
            ui.note(f"Error: {one.message}")
        if not found.findings:
            ui.note(f"verified {found.records} records and {found.versions} session versions")
            ui.result(head)
    if found.findings:
        raise typer.Exit(int(found.severity))
    if export:
        for line in audit.export_audit_log(path, keys=keys):
            ui.result(line.decode("utf-8"))
