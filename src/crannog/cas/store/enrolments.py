"""LASes enrolled by token in the list of whom a CAS trusts: what may get in, and what goes. Pure.

Each function takes a list and gives the next one. (A) What is live is never pushed out by a token
that the same pod or an older one could have: docs/formats/enrolment.md, "The list".
"""

from __future__ import annotations

from typing import NamedTuple

from crannog.cas.store.accepted import Accepted, Enrolment, Entry, Kind
from crannog.errors import AlreadyExists, Conflict, Denied, NotFound

KEPT_SECONDS = 7 * 24 * 3600
"""How long an expired enrolment is still shown; the next enrolment after that drops it."""


class Admission(NamedTuple):
    """What became of an enrolment by token.

    Attributes:
        accepted: the list with it; the same object where nothing changes.
        expires: until when the key is enrolled, seconds since the epoch; None: by hand.
        began: whether the key was not trusted before, so that the audit log has to say it.
        replaced: keys that were trusted for this node until now, 64 hex digits each.
    """

    accepted: Accepted
    expires: int | None
    began: bool
    replaced: tuple[str, ...] = ()


def admit(accepted: Accepted, key: str, enrolment: Enrolment, *, now: int, added: str) -> Admission:
    """The list with a LAS whose token is good.

    Args:
        accepted: the list as it is.
        key: the LAS's, 64 hex digits, possession proved.
        enrolment: what its token says.
        now: seconds since the epoch.
        added: the same as `records.timestamp` writes it.

    Raises:
        Denied: the operator has removed this key.
        Conflict: it is another node's, or this node has another one.
        TooLarge: as `Accepted.with_entry`.
    """
    if accepted.find(Kind.LAS_BARRED, key) is not None:
        raise Denied(
            f"LAS key {key} was removed by the CAS's operator, and no token enrols it again",
            hint=f"crannog cas las readmit {key}, or crannog cas las add {key}, lifts that",
        )
    if accepted.find(Kind.LAS_KEY, key) is not None:
        return Admission(accepted, None, began=False)
    before = accepted.find(Kind.LAS_TOKEN, key)
    old = None if before is None else before.enrolment
    live = old is not None and old.expires > now
    if old is not None and live:
        if old.place != enrolment.place:
            raise Conflict(
                f"LAS key {key} is enrolled for node {old.node!r} until it expires in "
                f"{old.expires - now} s, and this token names node {enrolment.node!r}",
                hint="do two nodes have the same LAS state directory? Each needs a key of its own",
            )
        # An older token of another pod with the same key does not set the clock back.
        if old.expires >= enrolment.expires or old.issued > enrolment.issued:
            return Admission(accepted, old.expires, began=False)
    replaced = _displaced(accepted, key, enrolment, now)
    rest = tuple(
        one
        for one in accepted.entries
        if one is not before and not _stale(one, key, enrolment, now)
    )
    since = before.added if before is not None and live else added
    entry = Entry(Kind.LAS_TOKEN, key, "", since, enrolment)
    renewed = Accepted(rest).with_entry(entry)
    return Admission(renewed, enrolment.expires, began=not live, replaced=replaced)


def _displaced(accepted: Accepted, key: str, enrolment: Enrolment, now: int) -> tuple[str, ...]:
    """The live keys of this node that a token of another, later pod replaces."""
    found: list[str] = []
    for one in accepted.of(Kind.LAS_TOKEN):
        other = one.enrolment
        if other is None or one.value == key or other.place != enrolment.place:
            continue
        # (A) A token that got out of its pod enrols nobody in its LAS's place.
        if other.pod_uid == enrolment.pod_uid:
            raise Conflict(
                f"pod {enrolment.pod!r} has enrolled another LAS key, {one.value}, for node "
                f"{other.node!r}",
                hint="did the LAS lose its state directory while its pod lived? Delete the pod; if "
                "it did not, somebody else has its token",
            )
        if other.expires <= now:
            continue
        # (A) Nor does one of a pod that is gone.
        if enrolment.issued <= other.issued:
            raise Conflict(
                f"node {other.node!r} has LAS key {one.value} enrolled by a token that was issued "
                "later than this one",
                hint="is there more than one LAS on that node for this service account?",
            )
        found.append(one.value)
    return tuple(found)


def _stale(one: Entry, key: str, enrolment: Enrolment, now: int) -> bool:
    other = one.enrolment
    if one.kind is not Kind.LAS_TOKEN or other is None or one.value == key:
        return False
    return other.place == enrolment.place or other.expires + KEPT_SECONDS <= now


def add_by_hand(accepted: Accepted, entry: Entry) -> Accepted:
    """The list with a LAS that the operator enrols: no token and no removal counts any more.

    Raises:
        AlreadyExists: it is there by hand.
        TooLarge: as `Accepted.with_entry`.
    """
    return _without_las(accepted, entry.value, Kind.LAS_TOKEN, Kind.LAS_BARRED).with_entry(entry)


def bar(accepted: Accepted, key: str, *, added: str) -> Accepted:
    """The list without that LAS, whoever enrolled it, and never with it by a token.

    Raises:
        NotFound: it is not enrolled.
        TooLarge: as `Accepted.with_entry`.
    """
    rest = _without_las(accepted, key, Kind.LAS_TOKEN, Kind.LAS_KEY)
    if len(rest.entries) == len(accepted.entries):
        accepted.without(Kind.LAS_KEY, key)  # says so
    return rest.with_entry(Entry(Kind.LAS_BARRED, key, "", added))


def readmit(accepted: Accepted, key: str) -> Accepted:
    """The list in which a token may enrol that key again.

    Raises:
        NotFound: it was not removed.
        AlreadyExists: it is enrolled.
    """
    if accepted.find(Kind.LAS_BARRED, key) is not None:
        return _without_las(accepted, key, Kind.LAS_BARRED)
    if accepted.find(Kind.LAS_KEY, key) or accepted.find(Kind.LAS_TOKEN, key):
        raise AlreadyExists(f"LAS key {key} is enrolled")
    raise NotFound(
        f"LAS key {key} was not removed from this CAS",
        hint="crannog cas las list --removed prints those that were",
    )


def live_keys(accepted: Accepted, now: float) -> tuple[frozenset[bytes], float]:
    """The keys that tokens have enrolled and that count now, and when the first of them expires.

    Args:
        accepted: the list.
        now: seconds since the epoch.
    """
    keys: set[bytes] = set()
    until = float("inf")
    for one in accepted.of(Kind.LAS_TOKEN):
        if one.enrolment is not None and one.enrolment.expires > now:
            keys.add(bytes.fromhex(one.value))
            until = min(until, one.enrolment.expires)
    return frozenset(keys), until


def _without_las(accepted: Accepted, key: str, *kinds: Kind) -> Accepted:
    return Accepted(
        tuple(one for one in accepted.entries if one.kind not in kinds or one.value != key)
    )
