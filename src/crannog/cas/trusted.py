"""Whom a CAS takes at their word above simulation: what is enrolled and accepted, and changing it.

A change is on disk, with its line in the audit log, before it returns, and heeded from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from crannog.cas.store.accepted import Accepted, Kind, make_entry
from crannog.cas.store.records import Event, Record, timestamp
from crannog.cas.store.store import Store
from crannog.evidence.claims import Trust


class Vouching(NamedTuple):
    """Whom a CAS takes at their word above simulation, at one moment.

    Attributes:
        accepted: the list in the database that this was made from.
        trust: enrolled LASes, those of the settings included.
        launchers: accepted launcher releases, those of the settings included; None lists none.
    """

    accepted: Accepted
    trust: Trust
    launchers: frozenset[bytes] | None


class Trusted:
    """The list of one open CAS. Every method may be called from any thread.

    Args:
        store: open.
        trust: LASes beside those that are enrolled in the store.
        launchers: launcher releases beside those in the store; None adds none.
        now: the clock.
    """

    def __init__(
        self,
        store: Store,
        *,
        trust: Trust,
        launchers: frozenset[bytes] | None,
        now: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._trust = trust
        self._launchers = launchers
        self._now = now
        self._vouching = self._vouch(store.accepted)

    def present(self) -> Vouching:
        """Who it is now."""
        accepted = self._store.accepted
        found = self._vouching
        if found.accepted is not accepted:
            # Two threads may both get here; either result is right.
            found = self._vouching = self._vouch(accepted)
        return found

    def enrol_las(self, key: bytes, note: str, *, actor: str) -> None:
        """Let evidence that this LAS signs be worth level node, from now on.

        Raises:
            AlreadyExists, TooLarge, FormatError: as `Accepted.with_entry` and `make_entry`.
        """
        self._accept(Kind.LAS_KEY, key, note, Event.LAS_ENROLLED, actor)

    def accept_launcher(self, digest: bytes, note: str, *, actor: str) -> None:
        """Accept this launcher release at level node and above, and none that is not listed.

        Raises:
            AlreadyExists, TooLarge, FormatError: as `Accepted.with_entry` and `make_entry`.
        """
        self._accept(Kind.LAUNCHER, digest, note, Event.LAUNCHER_ACCEPTED, actor)

    def withdraw(self, kind: Kind, value: bytes, *, actor: str) -> None:
        """Take an enrolled LAS or an accepted launcher back, from now on.

        Raises:
            NotFound: it is not in the list.
            Denied: it is the last launcher of the list, without which any would be accepted.
        """
        launcher = kind is Kind.LAUNCHER
        event = Event.LAUNCHER_REMOVED if launcher else Event.LAS_REMOVED
        record = Record(self._now(), event, actor=actor, notes=((kind.value, value.hex()),))
        self._store.withdraw(kind, value.hex(), record, keep=1 if launcher else 0)

    def clear_launchers(self, *, actor: str) -> None:
        """Accept any launcher again; `NotFound` where none is listed."""
        self._store.clear(Kind.LAUNCHER, Record(self._now(), Event.LAUNCHERS_CLEARED, actor=actor))

    def _accept(self, kind: Kind, value: bytes, note: str, event: Event, actor: str) -> None:
        now = self._now()
        notes = ((kind.value, value.hex()), *((("note", note),) if note else ()))
        entry = make_entry(kind, value, note, timestamp(now))
        self._store.accept(entry, Record(now, event, actor=actor, notes=notes))

    def _vouch(self, accepted: Accepted) -> Vouching:
        launchers = self._launchers
        if accepted.launchers:
            launchers = accepted.launchers | (launchers or frozenset())
        return Vouching(accepted, Trust(self._trust.node_keys | accepted.las_keys), launchers)
