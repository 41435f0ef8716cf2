"""From a measurement to a configuration: how often it is tried, and what is checked.

Decides that the answer is for the pinned session and this program. Leaves to `witness` who vouches.
It takes no configuration before its evidence is made: `transport.client` enforces the order. The
LAS is told afterwards that the configuration has come.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from crannog.errors import Misconfigured, Refused, Unavailable, chain
from crannog.evidence.subject import Pins
from crannog.exchange.configuration import Configuration
from crannog.runtime.log import Log
from crannog.runtime.settings import DEFAULT_CAS, Settings
from crannog.runtime.witness import Las, Proof, Witness
from crannog.transport.address import ENCLAVE_API_PORT, Address, parse_address
from crannog.transport.client import Wanted, attest
from crannog.transport.tls import Pin, parse_pin

T = TypeVar("T")

_FIRST_PAUSE = 0.1  # seconds; doubles up to the longest
_LONGEST_PAUSE = 2.0


def cas_address(settings: Settings) -> Address:
    """Where the CAS is: SCONE_CAS_ADDR, or the name `cas`; port 18765 unless given."""
    return parse_address(settings.cas or DEFAULT_CAS, ENCLAVE_API_PORT, "SCONE_CAS_ADDR")


def cas_pin(settings: Settings) -> Pin | None:
    """CRANNOG_CAS_KEY as a pin, or None."""
    return parse_pin(settings.cas_key, "CRANNOG_CAS_KEY") if settings.cas_key else None


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
    pins = Pins(settings.cas_key or "", settings.session_hash or "")
    witness = Witness(Las(settings, log), proof, wanted_id.public, str(cas), pins, log)
    wanted = Wanted(wanted_id.public, proof.launcher, wanted_id.otp, settings.service_access_token)

    def attempt() -> Configuration:
        witness.find()
        return attest(cas, wanted, witness.evidence, pin=pin)

    try:
        configuration = _again(attempt, settings.retry_seconds, log)
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
