"""The LAS's enrolment at a CAS by token, in a thread of its own: when, and what is said of it.

Programs are answered all the while; whether a statement is worth level node is the CAS's question.
Format: docs/formats/enrolment.md, "The LAS".
"""

from __future__ import annotations

import os
import random
import stat
import threading
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import Error, Misconfigured, Unavailable, chain, hints
from crannog.exchange.enrolment import Enrolled
from crannog.exchange.limits import SERVICE_TOKEN
from crannog.transport.address import Address
from crannog.transport.enrolment_client import enrol
from crannog.transport.log import Log
from crannog.transport.tls import Pin

LOOK_SECONDS = 20.0
"""How often the token file is read: the kubelet replaces it."""

LONGEST_SECONDS = 600.0
AGAIN_SECONDS = 60.0
REFUSED_SECONDS = 300.0
_SAY_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class EnrolmentSettings:
    """Where a LAS enrols, by which token, and what it knows of the CAS's key (None: nothing)."""

    cas: Address
    token: Path
    pin: Pin | None


class Enroller:
    """Enrols and renews until it is stopped.

    Args:
        settings: where and by what.
        key: the LAS's.
        log: lines for the operator.
    """

    def __init__(self, settings: EnrolmentSettings, key: Ed25519PrivateKey, *, log: Log) -> None:
        self._settings = settings
        self._key = key
        self._log = log
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="las-enrol", daemon=True)
        self._until: int | None = None
        self._said: tuple[str, float] = ("", float("-inf"))

    def start(self) -> None:
        """Begin; returns at once."""
        if self._settings.pin is None:
            self._log.warning(
                f"LAS enrols at whatever CAS answers at {self._settings.cas}: a false one gets "
                "its token and could enrol itself; give --cas-key"
            )
        self._thread.start()

    def stop(self) -> None:
        """End, without waiting for a CAS that does not answer: the thread is a daemon."""
        self._stop.set()
        self._thread.join(1.0)

    def _run(self) -> None:
        shown, due, failures = "", float("-inf"), 0
        while not self._stop.is_set():
            now = time.monotonic()
            try:
                token = read_token(self._settings.token)
                if token == shown and now < due:
                    self._stop.wait(min(LOOK_SECONDS, due - now))
                    continue
                enrolled = enrol(self._settings.cas, token, self._key, pin=self._settings.pin)
            except Error as error:
                failures += 1
                pause = pause_after(error, failures)
                self._failed(error)
                self._stop.wait(pause * (1 - random.random() / 4))
                shown = ""
                continue
            shown, failures = token, 0
            due = time.monotonic() + self._enrolled(enrolled)

    def _enrolled(self, enrolled: Enrolled) -> float:
        """Say so where it is news; seconds until it is to be renewed."""
        left = LONGEST_SECONDS * 2
        if enrolled.expires is not None:
            left = max(0.0, enrolled.expires - time.time())
        if self._said[0] or enrolled.expires != self._until or self._until is None:
            until = "it is removed" if enrolled.expires is None else _moment(enrolled.expires)
            self._log.info(
                f"LAS is enrolled at CAS {self._settings.cas} as node {enrolled.node} until {until}"
            )
        self._until, self._said = enrolled.expires or 0, ("", float("-inf"))
        return max(1.0, min(left / 2, LONGEST_SECONDS))

    def _failed(self, error: Error) -> None:
        reason = "; ".join((": ".join(chain(error)), *hints(error)))
        before, said = self._said
        now = time.monotonic()
        if error.code == before and now < said + _SAY_SECONDS:
            return
        self._said = (error.code, now)
        still = ""
        if self._until is not None and self._until > time.time():
            still = f"; still enrolled until {_moment(self._until)}"
        self._log.warning(f"LAS is not enrolled at CAS {self._settings.cas}: {reason}{still}")


def pause_after(error: Error, failures: int) -> float:
    """Seconds until the next try, at most, after that many failures in a row."""
    longest = AGAIN_SECONDS if isinstance(error, Unavailable) else REFUSED_SECONDS
    return float(min(longest, 2.0 ** min(failures - 1, 20)))


def read_token(path: Path) -> str:
    """The token in that file; links are followed, as in the volumes that a cluster projects.

    Raises:
        Misconfigured: it is not there, no regular file, too large, or holds no token.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Misconfigured(f"token file {path} is not a regular file")
            data = file.read(SERVICE_TOKEN + 2)
    except OSError as error:
        raise Misconfigured(
            f"token file {path} cannot be read: {(error.strerror or 'failed').lower()}",
            hint="project a serviceAccountToken with the CAS's audience there",
        ) from error
    text = data.strip().decode("ascii", "replace")
    if not 0 < len(text) <= SERVICE_TOKEN or not text.isascii() or not text.isprintable():
        raise Misconfigured(f"token file {path} does not hold a service account token")
    return text


def _moment(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
