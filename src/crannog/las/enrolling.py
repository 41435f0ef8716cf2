"""The LAS's enrolment at a CAS by token, in a thread of its own: when, and what is said of it.

Programs are answered all the while; whether a statement is worth level node is the CAS's question.
When to try is counted by the time since the machine's start: where the node's clock is wrong, a LAS
enrols as often as elsewhere, and after a suspension it does so at once. Format:
docs/formats/enrolment.md, "The LAS".
"""

from __future__ import annotations

import os
import random
import re
import stat
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import Error, Misconfigured, Unavailable, chain, defect, hints
from crannog.exchange.enrolment import Enrolled
from crannog.exchange.limits import SERVICE_TOKEN
from crannog.transport.address import Address
from crannog.transport.enrolment_client import enrol
from crannog.transport.log import Log
from crannog.transport.tls import Pin

LOOK_SECONDS = 20.0
"""How often the token file is read: the kubelet replaces it."""

SHORTEST_SECONDS = 60.0
"""Between two enrolments by the same token, however little time seems to be left."""

LONGEST_SECONDS = 600.0
AGAIN_SECONDS = 60.0
REFUSED_SECONDS = 300.0
SAY_SECONDS = 300.0


def _since_start() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


Show: TypeAlias = Callable[[str], Enrolled]
"""Shows a token to the CAS; as `enrolment_client.enrol`."""


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
        show: shows a token to the CAS; by a connection to it where None is given.
        now: seconds since the epoch.
        clock: seconds since the machine's start, also those in which it was suspended.
        chance: a number from 0 to 1, by which nodes do not all try again at once.
    """

    def __init__(
        self,
        settings: EnrolmentSettings,
        key: Ed25519PrivateKey,
        *,
        log: Log,
        show: Show | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = _since_start,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._settings = settings
        self._log = log
        self._show = show or (lambda token: enrol(settings.cas, token, key, pin=settings.pin))
        self._now = now
        self._clock = clock
        self._chance = chance
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="las-enrol", daemon=True)
        self._shown = ""
        self._due = float("-inf")
        self._failures = 0
        self._last: Enrolled | None = None
        self._said = ""
        self._said_at = float("-inf")

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
        while not self._stop.is_set():
            try:
                pause = self.step()
            except Exception as error:  # noqa: BLE001  # the last line: a LAS must not stop renewing
                self._failed(defect(error))
                pause = AGAIN_SECONDS
            self._stop.wait(pause)

    def step(self) -> float:
        """Look at the token file, and enrol where it is time; seconds until the next look."""
        try:
            token = read_token(self._settings.token)
        except Error as error:
            self._failed(error)
            self._shown = ""
            return LOOK_SECONDS
        now = self._clock()
        if token != self._shown or now >= self._due:
            self._shown = token
            self._due = now + self._try(token)
        return max(0.0, min(LOOK_SECONDS, self._due - self._clock()))

    def _try(self, token: str) -> float:
        """Show the token; seconds until it is shown again."""
        try:
            enrolled = self._show(token)
        except Error as error:
            self._failures += 1
            self._failed(error)
            return pause_after(error, self._failures) * (1 - self._chance() / 4)
        self._failures = 0
        self._enrolled(enrolled)
        return pause_until(enrolled, self._now())

    def _enrolled(self, enrolled: Enrolled) -> None:
        news = self._said or enrolled != self._last
        self._last, self._said = enrolled, ""
        if news:
            self._log.info(
                f"LAS is enrolled at CAS {self._settings.cas} as node {enrolled.node} "
                f"until {_end(enrolled)}"
            )

    def _failed(self, error: Error) -> None:
        reason = "; ".join((": ".join(chain(error)), *hints(error)))
        same = _without_numbers(reason)
        now = self._clock()
        if same == self._said and now < self._said_at + SAY_SECONDS:
            return
        self._said, self._said_at = same, now
        still, last = "", self._last
        if last is not None and (last.expires is None or last.expires > self._now()):
            still = f"; still enrolled until {_end(last)}"
        self._log.warning(f"LAS is not enrolled at CAS {self._settings.cas}: {reason}{still}")


def pause_until(enrolled: Enrolled, now: float) -> float:
    """Seconds until a token is shown again that has enrolled the LAS; `now` may be wrong."""
    if enrolled.expires is None:
        return LONGEST_SECONDS
    return max(SHORTEST_SECONDS, min((enrolled.expires - now) / 2, LONGEST_SECONDS))


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


def _end(enrolled: Enrolled) -> str:
    if enrolled.expires is None:
        return "it is removed"
    return f"{datetime.fromtimestamp(enrolled.expires, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _without_numbers(text: str) -> str:
    # Request ids and seconds do not make a reason a new one.
    return re.sub(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{16,}\b|[0-9]+", "#", text)
