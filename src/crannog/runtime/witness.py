"""Whose word a start's evidence is: the node's LAS, one by address, or the launcher's own.

Decides which is asked, anew for each try, since a LAS that was away may have come back: the LAS's
Unix socket where it is there, SCONE_LAS_ADDR, the name `las`, and the launcher itself only where
nothing of it is configured. What the word is worth is the CAS's to judge, by the key that signed.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable
from typing import NamedTuple

from crannog.errors import Error, FormatError, Misconfigured, TooLarge, Unavailable
from crannog.evidence.envelope import MAX_DATA, Envelope
from crannog.evidence.subject import Pins
from crannog.exchange.las import MAX_PATH, QuoteRequest
from crannog.levels import Level
from crannog.runtime.log import Log
from crannog.runtime.settings import DEFAULT_LAS, DEFAULT_LAS_SOCKET, Settings
from crannog.transport.address import LAS_PORT, Address
from crannog.transport.las_client import (
    LasAddress,
    LasConnection,
    UnixAddress,
    parse_las_address,
)
from crannog.transport.names import resolve
from crannog.transport.stream import Deadline
from crannog.wire import Fields, parse_object

_RESOLVE_SECONDS = 10.0


class Proof(NamedTuple):
    """What the launcher says about itself and the program.

    Attributes:
        mrenclave: 32 bytes.
        launcher: digest of the launcher, 32 bytes.
        foreign: the first measured path that is not on the container's root mount, "" for none.
    """

    mrenclave: bytes
    launcher: bytes
    foreign: str = ""


class Las:
    """Which LAS is asked.

    Args:
        settings: what is configured.
        log: for what lowers the level.
        there: whether there is a socket at a path; raises for what should be one and is none.
        resolves: whether a name has an address.

    Raises:
        Misconfigured: SCONE_LAS_ADDR is no address, whether it would be asked or not.
    """

    def __init__(
        self,
        settings: Settings,
        log: Log,
        *,
        there: Callable[[str], bool] | None = None,
        resolves: Callable[[str], bool] | None = None,
    ) -> None:
        named = settings.las
        self._tcp = parse_las_address(named, "SCONE_LAS_ADDR") if named is not None else None
        self._socket = settings.las_socket
        self._log = log
        self._there = there or socket_there
        self._resolves = resolves or _resolves
        self._default: tuple[LasAddress | None] | None = None

    def find(self) -> LasAddress | None:
        """The one to ask now, or None where none is configured and the name `las` is not known.

        Raises:
            Unavailable: a socket was named, is not there, and nothing else was named.
            Misconfigured: what is there is no socket.
        """
        path = self._socket or DEFAULT_LAS_SOCKET
        if self._there(path):
            return UnixAddress(path)
        if self._tcp is not None:
            if self._socket is not None:
                self._log.notable(
                    f"there is no LAS socket at {path}: asking LAS at {self._tcp} "
                    "(SCONE_LAS_ADDR) instead, at level simulation"
                )
            return self._tcp
        if self._socket is not None:
            raise Unavailable(
                f"there is no LAS socket at {path}",
                hint="is the LAS running on this node? SCONE_LAS_ADDR names one to ask over TCP, "
                "at level simulation",
            )
        if self._default is None:
            known = self._resolves(DEFAULT_LAS)
            self._default = (Address(DEFAULT_LAS, LAS_PORT) if known else None,)
            if not known:
                self._log.notable(
                    f"Unable to connect to LAS at default 'las' address (Resolution of LAS "
                    f"address {DEFAULT_LAS}:{LAS_PORT} failed) - the launcher signs its "
                    "statement itself, at level simulation"
                )
        return self._default[0]


def socket_there(path: str) -> bool:
    """Whether there is a socket at `path`; one look, since few lookups are allowed here (A).

    Raises:
        Misconfigured: something else is there, or in the place of its directory.
    """
    hint = "CRANNOG_LAS_SOCKET names the socket; its directory is the node's, mounted read-only"
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return False
    except NotADirectoryError as error:
        raise Misconfigured(
            f"LAS socket {path}: {os.path.dirname(path)} is a file, expected the directory with "
            "the LAS's socket",
            hint=hint,
        ) from error
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise Misconfigured(f"LAS socket {path}: {reason}", hint=hint) from error
    if not stat.S_ISSOCK(mode):
        found = "a directory" if stat.S_ISDIR(mode) else "a file"
        raise Misconfigured(f"LAS socket {path}: it is {found}, expected a socket", hint=hint)
    return True


def stated(envelope: Envelope) -> tuple[str, str]:
    """The level and the reason in a statement, for the log: its signature is the CAS's to judge.

    Empty where it is no statement of the known form.
    """
    try:
        outer = Fields(parse_object(envelope.data, limit=MAX_DATA), "signed statement")
        inner = Fields(parse_object(outer.data("payload", limit=MAX_DATA), limit=MAX_DATA), "it")
        return inner.text("level", limit=40), inner.text("reason", limit=2000)
    except (FormatError, TooLarge):
        return "", ""


class Witness:
    """Makes the evidence of each try; keeps its connection for the word that ends it."""

    def __init__(
        self,
        las: Las,
        proof: Proof,
        config_id: str,
        cas: str,
        pins: Pins,
        log: Log,
    ) -> None:
        self._search = las
        self._las: LasAddress | None = None
        self._proof = proof
        self._config_id = config_id
        self._cas = cas
        self._pins = pins
        self._log = log
        self._said = ""
        self._vouched = False
        self._connection: LasConnection | None = None

    def find(self) -> None:
        """Decide whom the next evidence is asked of; raises as `Las.find`."""
        self._las = self._search.find()

    def evidence(self, report_data: bytes) -> tuple[Envelope, ...]:
        """The word for one connection's report data: `find` was called for this try."""
        if self._las is None:
            return (self._own(report_data),)
        self.close()
        self._connection = LasConnection(self._las)
        request = QuoteRequest(
            report_data,
            self._proof.mrenclave,
            self._proof.launcher,
            self._config_id,
            self._cas,
            # A path may be no UTF-8. Only whether there is one is judged.
            foreign=os.fsencode(self._proof.foreign).decode("utf-8", "replace")[:MAX_PATH],
            pins=self._pins,
        )
        if isinstance(self._las, UnixAddress):
            # (A) Its answer says that the LAS holds this process: what is sent then is not taken
            # for another's who had the same id before (docs/formats/las.md, "Who sends").
            self._connection.probe()
        envelope = self._connection.quote(request)
        self._say(envelope)
        return (envelope,)

    def because(self, level: Level) -> str:
        """Why the CAS has found no higher level, as far as that is known here."""
        if self._said:
            return f" ({self._said})"
        if self._vouched and level is Level.SIMULATION:
            return " (the LAS vouches for more, and its key is not enrolled at this CAS)"
        return ""

    def _say(self, envelope: Envelope) -> None:
        # Before the CAS answers: a CAS that asks for more tells a stranger no reason.
        level, reason = stated(envelope)
        self._vouched = level not in ("", Level.SIMULATION.value)
        said = "" if self._vouched else reason or "it does not say why"
        if said and said != self._said:
            self._log.notable(f"LAS at {self._las} vouches at level simulation only: {said}")
        self._said = said

    def configured(self, log: Log) -> None:
        """(A) After this the LAS gives this process no more evidence."""
        if self._las is None:
            return
        try:
            if self._connection is None:
                self._connection = LasConnection(self._las)
            try:
                self._connection.configured()
            except Unavailable:
                # It may have taken longer with the CAS than the LAS waits for a message.
                self.close()
                self._connection = LasConnection(self._las)
                self._connection.configured()
        except Error as error:
            if isinstance(self._las, UnixAddress):
                raise
            # Over TCP the LAS cannot tell processes apart, so that nothing depends on it.
            log.warn(f"LAS at {self._las} was not told of the configuration: {error.message}")

    def close(self) -> None:
        """End the connection to the LAS."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _own(self, report_data: bytes) -> Envelope:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        from crannog.evidence.statement import METHOD_LAUNCHER, Statement, sign_statement

        statement = Statement(
            level=Level.SIMULATION,
            method=METHOD_LAUNCHER,
            mrenclave=self._proof.mrenclave,
            report_data=report_data,
            launcher=self._proof.launcher,
            config_id=self._config_id,
            cas=self._cas,
            issued_at=int(time.time()),
            reason="no LAS: the launcher signs its statement itself",
            pins=self._pins,
        )
        return sign_statement(statement, Ed25519PrivateKey.generate())


def _resolves(name: str) -> bool:
    try:
        resolve(Address(name, LAS_PORT), Deadline.after(_RESOLVE_SECONDS))
    except Unavailable:
        return False
    return True
