"""Whom a CAS takes at their word above simulation: what is enrolled and accepted, and changing it.

A change is on disk, with its line in the audit log, before it returns, and heeded from then on.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import NamedTuple

from crannog.cas.store import enrolments
from crannog.cas.store.accepted import Accepted, Enrolment, Entry, Kind, make_entry
from crannog.cas.store.records import Event, Record, timestamp
from crannog.cas.store.store import Store
from crannog.evidence.claims import Trust


class Vouching(NamedTuple):
    """Whom a CAS takes at their word above simulation, at one moment.

    Attributes:
        accepted: the list in the database that this was made from.
        trust: enrolled LASes, those of the settings included.
        launchers: accepted launcher releases, those of the settings included; None lists none.
        until: when the first of the LASes that a token has enrolled expires, seconds since the
            epoch; infinity where none does.
    """

    accepted: Accepted
    trust: Trust
    launchers: frozenset[bytes] | None
    until: float


class Admitted(NamedTuple):
    """What became of an enrolment by token: until when, and whether trust in the key began."""

    expires: int | None
    began: bool


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
        self._vouching = self._vouch(store.accepted, now().timestamp())

    def present(self) -> Vouching:
        """Who it is now: an enrolment that has expired counts from that second no more."""
        accepted = self._store.accepted
        found = self._vouching
        now = self._now().timestamp()
        if found.accepted is not accepted or now >= found.until:
            # Two threads may both get here; either result is right.
            found = self._vouching = self._vouch(accepted, now)
        return found

    def enrol_las(self, key: bytes, note: str, *, actor: str) -> None:
        """Let evidence that this LAS signs be worth level node, from now on and without expiry.

        Raises:
            AlreadyExists, TooLarge, FormatError: as `enrolments.add_by_hand` and `make_entry`.
        """
        entry, record = self._entry(Kind.LAS_KEY, key, note, Event.LAS_ENROLLED, actor)
        self._store.change_accepted(
            lambda accepted: (enrolments.add_by_hand(accepted, entry), record, None)
        )

    def admit_las(
        self, key: bytes, enrolment: Enrolment, notes: tuple[tuple[str, str], ...]
    ) -> Admitted:
        """Enrol a LAS by a token that was verified, or renew that; returns when it is on disk.

        Args:
            key: the LAS's; it has proved possession.
            enrolment: what its token says.
            notes: what the audit log keeps beside that. It has a line where trust in the key
                begins, and none of a renewal.

        Raises:
            Denied, Conflict, TooLarge: as `enrolments.admit`.
        """
        now = self._now()
        value = key.hex()

        def change(accepted: Accepted) -> tuple[Accepted, Record | None, Admitted]:
            found = enrolments.admit(
                accepted, value, enrolment, now=int(now.timestamp()), added=timestamp(now)
            )
            record = None
            if found.began:
                replaced = (("replaces", ", ".join(found.replaced)),) if found.replaced else ()
                all_notes = ((Kind.LAS_KEY.value, value), *notes, *replaced)
                record = Record(now, Event.LAS_ENROLLED, actor=enrolment.subject, notes=all_notes)
            return found.accepted, record, Admitted(found.expires, found.began)

        # A renewal that changes nothing costs no transaction: the list is looked at beforehand.
        accepted = self._store.accepted
        ahead, record, result = change(accepted)
        if ahead is accepted and record is None:
            return result
        return self._store.change_accepted(change)

    def remove_las(self, key: bytes, *, actor: str) -> None:
        """Take a LAS's enrolment back, by hand or by token, and let no token enrol it again.

        Raises:
            NotFound: it is not enrolled.
        """
        record = self._record(Event.LAS_REMOVED, Kind.LAS_KEY, key, actor)
        added = timestamp(record.at)

        def change(accepted: Accepted) -> tuple[Accepted, Record, None]:
            found = enrolments.bar(accepted, key.hex(), added=added)
            forgotten = (("readmits", found.forgotten),) if found.forgotten else ()
            return found.accepted, record._replace(notes=(*record.notes, *forgotten)), None

        self._store.change_accepted(change)

    def readmit_las(self, key: bytes, *, actor: str) -> None:
        """Let a token enrol a LAS again that was removed.

        Raises:
            NotFound, AlreadyExists: as `enrolments.readmit`.
        """
        record = self._record(Event.LAS_READMITTED, Kind.LAS_KEY, key, actor)
        now = int(record.at.timestamp())
        self._store.change_accepted(
            lambda accepted: (enrolments.readmit(accepted, key.hex(), now=now), record, None)
        )

    def refuse_las(
        self, key: bytes, enrolment: Enrolment, notes: tuple[tuple[str, str], ...]
    ) -> None:
        """Say in the audit log that a LAS with a good token was not enrolled.

        Where its key was removed, its pod is known from then on, whose tokens enrol no other.
        """
        all_notes = ((Kind.LAS_KEY.value, key.hex()), *notes)
        record = Record(self._now(), Event.LAS_REFUSED, actor=enrolment.subject, notes=all_notes)
        self._store.change_accepted(
            lambda accepted: (
                enrolments.note_refused(accepted, key.hex(), enrolment),
                record,
                None,
            )
        )

    def accept_launcher(self, digest: bytes, note: str, *, actor: str) -> None:
        """Accept this launcher release at level node and above, and none that is not listed.

        Raises:
            AlreadyExists, TooLarge, FormatError: as `Accepted.with_entry` and `make_entry`.
        """
        self._store.accept(
            *self._entry(Kind.LAUNCHER, digest, note, Event.LAUNCHER_ACCEPTED, actor)
        )

    def withdraw_launcher(self, digest: bytes, *, actor: str) -> None:
        """Take an accepted launcher back, from now on.

        Raises:
            NotFound: it is not in the list.
            Denied: it is the last launcher of the list, without which any would be accepted.
        """
        record = self._record(Event.LAUNCHER_REMOVED, Kind.LAUNCHER, digest, actor)
        self._store.withdraw(Kind.LAUNCHER, digest.hex(), record, keep=1)

    def clear_launchers(self, *, actor: str) -> None:
        """Accept any launcher again; `NotFound` where none is listed."""
        self._store.clear(Kind.LAUNCHER, Record(self._now(), Event.LAUNCHERS_CLEARED, actor=actor))

    def _record(self, event: Event, kind: Kind, value: bytes, actor: str) -> Record:
        return Record(self._now(), event, actor=actor, notes=((kind.value, value.hex()),))

    def _entry(
        self, kind: Kind, value: bytes, note: str, event: Event, actor: str
    ) -> tuple[Entry, Record]:
        record = self._record(event, kind, value, actor)
        if note:
            record = record._replace(notes=(*record.notes, ("note", note)))
        return make_entry(kind, value, note, timestamp(record.at)), record

    def _vouch(self, accepted: Accepted, now: float) -> Vouching:
        launchers = self._launchers
        if accepted.launchers:
            launchers = accepted.launchers | (launchers or frozenset())
        by_token, until = enrolments.live_keys(accepted, now)
        trust = Trust(self._trust.node_keys | accepted.las_keys | by_token)
        return Vouching(accepted, trust, launchers, until)
