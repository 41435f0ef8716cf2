"""From a measurement to a configuration: who vouches, how often it is tried, what is checked.

Decides which witness is asked (the LAS's Unix socket, SCONE_LAS_ADDR, the name `las`, and the
launcher itself only where there is none of them) and that the answer is for the pinned session.
It takes no configuration before its evidence is made: `transport.client` enforces the order. The
LAS is told afterwards that the configuration has come.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from crannog.errors import (
    Error,
    FormatError,
    Misconfigured,
    Refused,
    TooLarge,
    Unavailable,
    chain,
)
from crannog.evidence.envelope import MAX_DATA, Envelope
from crannog.evidence.subject import Pins
from crannog.exchange.configuration import Configuration
from crannog.exchange.las import MAX_PATH, QuoteRequest
from crannog.levels import Level
from crannog.runtime.log import Log
from crannog.runtime.settings import DEFAULT_CAS, DEFAULT_LAS, DEFAULT_LAS_SOCKET, Settings
from crannog.transport.address import ENCLAVE_API_PORT, LAS_PORT, Address, parse_address
from crannog.transport.client import Wanted, attest
from crannog.transport.las_client import (
    LasAddress,
    LasConnection,
    UnixAddress,
    parse_las_address,
)
from crannog.transport.names import resolve
from crannog.transport.stream import Deadline
from crannog.transport.tls import Pin, parse_pin
from crannog.wire import Fields, parse_object

T = TypeVar("T")

_FIRST_PAUSE = 0.1  # seconds; doubles up to the longest
_LONGEST_PAUSE = 2.0
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


def cas_address(settings: Settings) -> Address:
    """Where the CAS is: SCONE_CAS_ADDR, or the name `cas`; port 18765 unless given."""
    return parse_address(settings.cas or DEFAULT_CAS, ENCLAVE_API_PORT, "SCONE_CAS_ADDR")


def cas_pin(settings: Settings) -> Pin | None:
    """CRANNOG_CAS_KEY as a pin, or None."""
    return parse_pin(settings.cas_key, "CRANNOG_CAS_KEY") if settings.cas_key else None


def find_las(
    settings: Settings,
    *,
    socket_exists: Callable[[str], bool] = os.path.exists,
    resolves: Callable[[str], bool] | None = None,
) -> LasAddress | None:
    """The witness to ask, or None where no LAS is configured and the name `las` is not known.

    A LAS that is named and cannot be reached is an error later, and never this None.
    """
    if settings.las_socket is not None:
        return UnixAddress(settings.las_socket)
    if socket_exists(DEFAULT_LAS_SOCKET):
        return UnixAddress(DEFAULT_LAS_SOCKET)
    if settings.las is not None:
        return parse_las_address(settings.las, "SCONE_LAS_ADDR")
    if (resolves or _resolves)(DEFAULT_LAS):
        return Address(DEFAULT_LAS, LAS_PORT)
    return None


def get_configuration(settings: Settings, proof: Proof, log: Log) -> Configuration:
    """Attest and take the configuration.

    Args:
        settings: with a configuration id.
        proof: what is stated.
        log: for what is tried again and why.

    Raises:
        Refused, Denied, Misconfigured, FormatError: no; trying again will not help.
        Unavailable: CAS or LAS not reached within `settings.retry_seconds`.
    """
    wanted_id = settings.config_id
    if wanted_id is None:
        raise ValueError("no configuration id")
    cas = cas_address(settings)
    pin = cas_pin(settings)
    las = find_las(settings)
    if las is None:
        log.warn(
            f"Unable to connect to LAS at default 'las' address (Resolution of LAS address "
            f"{DEFAULT_LAS}:{LAS_PORT} failed) - the launcher signs its statement itself, "
            "at level simulation"
        )
    pins = Pins(settings.cas_key or "", settings.session_hash or "")
    witness = _Witness(las, proof, wanted_id.public, str(cas), pins, log)
    wanted = Wanted(wanted_id.public, proof.launcher, wanted_id.otp, settings.service_access_token)
    try:
        configuration = _again(
            lambda: attest(cas, wanted, witness.evidence, pin=pin), settings.retry_seconds, log
        )
        check_configuration(configuration, settings, proof)
        witness.configured(log)
    finally:
        witness.close()
    level = configuration.level
    log.warn(
        f"configured by CAS at {cas} at level {level.value}{witness.because(level)}, "
        f"session version {configuration.session_hash}"
    )
    return configuration


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


def check_configuration(configuration: Configuration, settings: Settings, proof: Proof) -> None:
    """Return when the configuration is for this program and of the pinned session version.

    Raises:
        Refused: it is not.
    """
    if configuration.mrenclave != proof.mrenclave:
        raise Refused(
            f"CAS configured a program with MRENCLAVE {configuration.mrenclave.hex()}, "
            f"this one has {proof.mrenclave.hex()}"
        )
    pinned = settings.session_hash
    if pinned is not None and configuration.session_hash != pinned:
        raise Refused(
            f"CAS applied session version {configuration.session_hash}, "
            f"CRANNOG_SESSION_HASH pins {pinned}",
            hint="was the session updated? Pin the new hash if that is meant",
        )


class _Witness:
    """Makes the evidence of each try; keeps its connection for the word that ends it."""

    def __init__(
        self,
        las: LasAddress | None,
        proof: Proof,
        config_id: str,
        cas: str,
        pins: Pins,
        log: Log,
    ) -> None:
        self._las = las
        self._proof = proof
        self._config_id = config_id
        self._cas = cas
        self._pins = pins
        self._log = log
        self._said = ""
        self._vouched = False
        self._connection: LasConnection | None = None

    def evidence(self, report_data: bytes) -> tuple[Envelope, ...]:
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
            self._log.warn(f"LAS at {self._las} vouches at level simulation only: {said}")
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


def _again(
    attempt: Callable[[], T],
    seconds: float,
    log: Log,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """The result of `attempt`, tried again while it is `Unavailable`, with the reason logged."""
    start = clock()
    pause = _FIRST_PAUSE
    said = ""
    while True:
        try:
            return attempt()
        except Unavailable as error:
            left = start + seconds - clock()
            if left <= 0:
                raise
            reason = ": ".join(chain(error))
            if reason != said:
                log.warn(f"{reason}; trying again for {max(1, round(left))} seconds")
                said = reason
            sleep(min(pause, left))
            pause = min(2 * pause, _LONGEST_PAUSE)


def _resolves(name: str) -> bool:
    try:
        resolve(Address(name, LAS_PORT), Deadline.after(_RESOLVE_SECONDS))
    except Unavailable:
        return False
    return True


def note_service(settings: Settings) -> str:
    """The reference's note on whom was asked for what; it holds no secret."""
    config = settings.config_id
    try:
        cas = cas_address(settings)
    except Misconfigured:
        return "Note: SCONE_CAS_ADDR is not an address"
    return (
        f"Note: Connecting to CAS at {cas.host} (port {cas.port}) using service ID "
        f"{config.public if config else '<none>'}"
    )
