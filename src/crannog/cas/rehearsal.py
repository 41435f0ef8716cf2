"""A session is rehearsed before it is stored (docs/adr/0206-a-session-is-rehearsed.md).

What cannot be given to a program is refused when the session is posted, and not when the program
starts on another machine.
"""

from __future__ import annotations

from datetime import datetime

from crannog.cas.configure import Budget, configure
from crannog.cas.secrets import Bundle
from crannog.cas.store.sealing import Randomness
from crannog.cas.values import Values
from crannog.levels import Level
from crannog.pki.authority import Authority
from crannog.session.document import Session

MAX_REHEARSED = 64 * 1024 * 1024
"""Bytes in all configurations of one session: anybody may post a session, and services that share
an image multiply what it holds."""


def rehearse(
    session: Session,
    bundle: Bundle,
    authority: Authority,
    *,
    new_hash: str,
    now: datetime,
    random: Randomness,
) -> None:
    """Make the configuration of each service, as if it had attested.

    Args:
        session: the version that is about to be stored.
        bundle: its generated secrets.
        authority: the CAS's keys.
        new_hash: the version's hash.
        now: the present.
        random: randomness for serial numbers.

    Raises:
        SubstitutionFailed, FormatError, TooLarge, Unsupported: as `configure`.
    """
    budget = Budget(MAX_REHEARSED)
    for service in session.services:
        configuration = configure(
            session,
            service,
            Values(session, bundle, authority, now=now, random=random),
            session_hash=new_hash,
            level=Level.SIMULATION,
            mrenclave=bytes(32),
            budget=budget,
        )
        budget.spend(sum(len(file.content) for file in configuration.files))
