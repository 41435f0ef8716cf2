"""The command line's side of the client API: whom it talks to, as whom, and how sure it is."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated, NamedTuple
from urllib.parse import quote

import typer

from crannog.cli.config import CliConfig, KnownCas
from crannog.cli.identity import Identity
from crannog.cli.state import state
from crannog.cli.ui import ui
from crannog.errors import EXIT_FAILED, FormatError, NotFound, Refused, Unavailable
from crannog.keyhash import key_hash, parse_key_hash
from crannog.pki.identity import certificate_pem, parse_certificate, spki_der
from crannog.transport import tls
from crannog.transport.address import CLIENT_API_PORT, Address, parse_address
from crannog.transport.http_client import MAX_ANSWER, Answer, HttpClient
from crannog.wire import Fields, parse_object

if TYPE_CHECKING:
    from cryptography import x509

CasOption = Annotated[
    str | None,
    typer.Option("--cas", "-c", help="The CAS's address.", show_default="the default CAS"),
]
UnverifiedOption = Annotated[
    bool,
    typer.Option(
        "--only_for_testing-disable-attestation-verification",
        help="Talk to a CAS that was not attested: it may be anybody.",
    ),
]


class Created(NamedTuple):
    """A session that the CAS took."""

    hash: str
    warnings: tuple[str, ...]


class Read(NamedTuple):
    """A session as the CAS keeps it."""

    text: str
    hash: str


class NotTaken(Refused):
    """The CAS answered with an error status: the reference's exit status for that is 1."""

    exit_code = EXIT_FAILED


class CasApi:
    """The client API of one CAS, as one user."""

    def __init__(self, name: str, identity: Identity | None, pin: tls.Pin | None) -> None:
        self._name = name
        own = None
        if identity is not None:
            own = tls.load_identity(
                identity.certificate.encode(), identity.private_key.encode(), "identity"
            )
        self._http = HttpClient(client_address(name), identity=own, pin=pin)

    def create(self, text: str) -> Created:
        """Post a session's text; `NotTaken` with the CAS's reasons where it does not take it."""
        fields = self._ask("POST", "/v1/sessions", text.encode("utf-8"))
        warnings = fields.texts("warnings", limit=1000) if fields.has("warnings") else ()
        return Created(fields.hex("hash", 32).hex(), warnings)

    def read(self, name: str, session_hash: str | None = None) -> Read:
        """The session of that name, the latest version or the one with that hash."""
        query = "" if session_hash is None else f"?hash={quote(session_hash, safe='')}"
        fields = self._ask("GET", f"/v1/sessions/{quote(name, safe='~/')}{query}")
        return Read(fields.text("session", limit=MAX_ANSWER), fields.hex("hash", 32).hex())

    def version(self) -> dict[str, str]:
        """What the CAS says of itself."""
        fields = self._ask("GET", "/v1/version")
        return {name: fields.text(name) for name in ("version", "minimum_level")}

    def _ask(self, method: str, target: str, body: bytes | None = None) -> Fields:
        answer = self._http.request(method, target, body)
        if answer.status not in (HTTPStatus.OK, HTTPStatus.CREATED):
            raise self._not_taken(answer)
        return Fields(
            parse_object(answer.body, limit=MAX_ANSWER, what="the CAS's answer"), "answer"
        )

    def _not_taken(self, answer: Answer) -> NotTaken | Unavailable:
        outer = (
            f"CAS at '{named(self._name)}' returned HTTP error status code {_status(answer.status)}"
        )
        messages: tuple[str, ...] = ()
        try:
            fields = _fields(answer)
            # One line each, so that none of them can pass for a hint of ours.
            messages = tuple(
                line.replace("\n", " ")
                for line in fields.texts("msg", limit=1000, characters=65536)
            )
            hint = (fields.optional_text("hint", limit=65536) or "").replace("\n", " ")
        except FormatError:
            hint = "the answer is not a CAS's; is the address right?"
        if answer.status == HTTPStatus.SERVICE_UNAVAILABLE:
            return Unavailable(": ".join((outer, *messages)), hint=hint)
        return NotTaken(outer, messages, hint=hint)


def open_cas(name: str | None, identity: Identity | None, *, unverified: bool) -> CasApi:
    """The API of the CAS of that name, or of the default one, pinned to the key it had.

    Args:
        name: its address as it was attested.
        identity: who asks, None where it does not matter.
        unverified: the user's explicit wish to talk to one that was never attested; said aloud.
    """
    config = state.load()
    if unverified:
        address = name or config.default_cas
        if not address:
            raise missing("")
        ui.warning(f"the CAS at {address} is not verified: it may be anybody")
        return CasApi(address, identity, None)
    known = known_cas(config, name)
    return CasApi(known.name, identity, tls.Pin(key_sha256=parse_key_hash(known.key_hash)))


def known_cas(config: CliConfig, name: str | None) -> KnownCas:
    """The attested CAS of that name, or the default one."""
    wanted = name or config.default_cas
    found = config.cas(wanted)
    if found is None:
        raise missing(wanted)
    return found


@dataclass(frozen=True, slots=True)
class Chain:
    """The certificates that a CAS shows: its server's own first, its root last."""

    certificates: tuple[x509.Certificate, ...]

    @property
    def key_hash(self) -> str:
        """The hash of the root's key: what names a CAS."""
        return key_hash(spki_der(self.certificates[-1].public_key()))

    @property
    def authorities(self) -> str:
        """The CA certificates, instance before root, PEM."""
        return "".join(certificate_pem(certificate) for certificate in self.certificates[1:])


def client_address(text: str) -> Address:
    """HOST or HOST:PORT of a CAS's client API."""
    return parse_address(text, CLIENT_API_PORT, "CAS address")


def show_chain(address: str, *, key_hash: str | None = None) -> Chain:
    """What the CAS at `address` shows.

    Args:
        address: of its client API.
        key_hash: (A) of the root that has to have signed for the server, as it proves in the TLS
            handshake. None verifies nothing: certificates are public, so anybody can show another
            CAS's root, and authorities of his own before it.

    Raises:
        Unavailable: not reached.
        FormatError: not a CAS.
        Denied: another one than that of `key_hash`.
    """
    pin = None if key_hash is None else tls.Pin(key_sha256=parse_key_hash(key_hash))
    shown = HttpClient(client_address(address), pin=pin).server_chain()
    certificates = tuple(parse_certificate(der) for der in shown)
    if len(certificates) < 2:
        raise FormatError(
            f"{address} shows {len(certificates)} certificates, expected a CAS's chain",
            hint="is this the address of a CAS's client API (8081)?",
        )
    return Chain(certificates)


def named(name: str) -> str:
    """The name of a CAS in messages, as the reference prints it."""
    target = client_address(name)
    return f"https://{target}/"


def missing(name: str) -> NotFound:
    """No CAS was attested under that name."""
    return NotFound(
        f"the CAS {name} was not attested" if name else "no CAS was attested",
        hint="crannog cas attest ADDRESS -c KEYHASH; the CAS prints its key hash at start",
    )


def _fields(answer: Answer) -> Fields:
    return Fields(parse_object(answer.body, limit=MAX_ANSWER, what="the CAS's answer"), "answer")


def _status(number: int) -> str:
    try:
        return f"{number} {HTTPStatus(number).phrase}"
    except ValueError:
        return str(number)
