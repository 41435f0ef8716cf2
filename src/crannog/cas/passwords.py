"""Is this one-time password good, and has nobody used it before?

Each code is good once, also where the clock is set back: of each secret the last codes that were
spent are kept for good, and none before them is taken. What was spent is in the audit log
(`otp_step`), from where it is read again when a CAS starts. A code has six digits only, so wrong
ones are counted: after a few the service waits, twice as long each time (RFC 4226 section 7.3). The
count is lost with the process.
"""

from __future__ import annotations

import hmac
import threading
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from crannog.errors import Denied
from crannog.session.otp import DIGITS, STEP_SECONDS, one_time_password, time_step
from crannog.wire import Json

# The reference's texts, which people search for (reference, section 4.5).
INVALID = "The given One-time Password is invalid. Please try again."
USED = (
    "A One-time Password was already used within this time-step. "
    "Please try again in the next time-step"
)

WINDOW = 1
"""Time-steps before and after the present one whose codes are good: for clocks that differ, and the
time between typing a code and being attested."""

KEEP_SECONDS = (2 * WINDOW + 2) * STEP_SECONDS
"""How long it matters that a code was spent."""

TRIES = 5
MAX_WAIT = 3600
_EXPIRED_STEPS = 120  # how far back a code is told from a wrong one: an hour
_MAX_SCOPES = 4096


class Scope(NamedTuple):
    """Whose codes: a session, and the place of its shared secret."""

    session: str
    place: str


class Spent(NamedTuple):
    """A code that was used."""

    scope: Scope
    step: int


class _Wrong(NamedTuple):
    times: int
    until: float


class OneTimePasswords:
    """What was spent, and how often somebody was wrong. Every method from any thread.

    Args:
        spent: codes of the last `KEEP_SECONDS`, as the audit log has them.
    """

    def __init__(self, spent: Iterable[Spent] = ()) -> None:
        self._spent: dict[Scope, frozenset[int]] = {}
        for scope, step in spent:
            self._keep(scope, step)
        self._wrong: dict[Scope, _Wrong] = {}
        self._lock = threading.Lock()

    def spend(self, scope: Scope, shared_secret: str, code: str | None, now: datetime) -> int:
        """The time-step of a good code, which from now on is spent.

        Raises:
            Denied: none was given; it is wrong, expired or used; or too many were wrong.
        """
        seconds = now.timestamp()
        if code is None:
            raise Denied(
                "this service asks for a one-time password",
                hint="append it to the configuration id: SCONE_CONFIG_ID=SESSION/SERVICE@CODE; "
                "oathtool --totp -b SECRET prints the present one",
            )
        with self._lock:
            wrong = self._wrong.get(scope, _Wrong(0, 0.0))
            if seconds < wrong.until:
                raise Denied(
                    "too many one-time passwords for this service were wrong",
                    hint=f"wait {int(wrong.until - seconds) + 1} seconds",
                )
            present = time_step(seconds)
            step = _find(shared_secret, code, range(present - WINDOW, present + WINDOW + 1))
            if step is None:
                self._note_wrong(scope, wrong.times + 1, seconds)
                raise Denied(INVALID) from _why(shared_secret, code, present)
            spent = self._spent.get(scope, frozenset())
            if step in spent:
                raise Denied(USED, hint=f"codes change every {STEP_SECONDS} seconds")
            if spent and step < max(spent) - 2 * WINDOW:
                # Whether it was used is not known any more.
                raise Denied(USED, hint="later codes were used: the clock of the CAS was set back")
            self._keep(scope, step)
            self._wrong.pop(scope, None)
            return step

    def _keep(self, scope: Scope, step: int) -> None:
        # By the codes and not by the clock: a clock that does not go back accepts none further back
        # than twice the window behind the last one.
        steps = self._spent.get(scope, frozenset()) | {step}
        oldest = max(steps) - 2 * WINDOW
        self._spent[scope] = frozenset(one for one in steps if one >= oldest)

    def _note_wrong(self, scope: Scope, times: int, seconds: float) -> None:
        rounds, rest = divmod(times, TRIES)
        wait = 0 if rest else min(STEP_SECONDS * 2 ** (rounds - 1), MAX_WAIT)
        self._wrong[scope] = _Wrong(times, seconds + wait)
        while len(self._wrong) > _MAX_SCOPES:
            # Sessions exist before they are asked for, so this takes somebody thousands of them.
            self._wrong.pop(next(iter(self._wrong)))


def spent_codes(records: Iterable[Mapping[str, Json]]) -> Iterator[Spent]:
    """The codes that were spent by the services that these audit records tell of."""
    for record in records:
        notes, session = record.get("notes"), record.get("session")
        if not isinstance(notes, dict) or not isinstance(session, str):
            continue
        place, step = notes.get("otp"), notes.get("otp_step")
        if isinstance(place, str) and isinstance(step, str) and step.isdecimal():
            yield Spent(Scope(session, place), int(step))


def _find(shared_secret: str, code: str, steps: Iterable[int]) -> int | None:
    if len(code) != DIGITS or not (code.isascii() and code.isdecimal()):
        return None
    found: int | None = None
    for step in steps:
        # All of them, so that the time taken does not say which one it was.
        good = step >= 0 and hmac.compare_digest(one_time_password(shared_secret, step), code)
        if good and found is None:
            found = step
    return found


def _why(shared_secret: str, code: str, present: int) -> Denied:
    before = range(present - WINDOW - 1, present - WINDOW - 1 - _EXPIRED_STEPS, -1)
    step = _find(shared_secret, code, before)
    if step is not None:
        ago = (present - step) * STEP_SECONDS
        return Denied(
            f"it has expired: its time-step began about {ago} seconds ago",
            hint=f"codes change every {STEP_SECONDS} seconds: take the present one",
        )
    return Denied(
        "it is none of this service's codes",
        hint="does the session hold the shared secret that the code was made with; do the clocks "
        "agree?",
    )
