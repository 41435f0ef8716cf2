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
        Denied: the operator has removed this key, or the one of this pod.
        Conflict: it is another node's, or this node has another one.
        TooLarge: as `Accepted.with_entry`.
    """
    if accepted.find(Kind.LAS_BARRED, key) is not None:
        raise Denied(
            f"LAS key {key} was removed by the CAS's operator, and no token enrols it again",
            hint=f"crannog cas las readmit {key}, or crannog cas las add {key}, lifts that",
        )
    by_hand = accepted.find(Kind.LAS_KEY, key)
    if by_hand is not None:
        return Admission(_noted(accepted, by_hand, enrolment), None, began=False)
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
        # The expiry does not move back. Which pod it is does: the list knows the latest one.
        renewed = enrolment._replace(expires=max(old.expires, enrolment.expires))
        if enrolment.issued < old.issued or renewed == old:
            return Admission(accepted, old.expires, began=False)
        enrolment = renewed
    replaced = _displaced(accepted, key, enrolment, now)
    rest = _with_room(
        Accepted(
            tuple(
                one
                for one in accepted.entries
                if one is not before and not _stale(one, key, enrolment, now)
            )
        ),
        now,
    )
    since = before.added if before is not None and live else added
    entry = Entry(Kind.LAS_TOKEN, key, "", since, enrolment)
    return Admission(rest.with_entry(entry), enrolment.expires, began=not live, replaced=replaced)


def _displaced(accepted: Accepted, key: str, enrolment: Enrolment, now: int) -> tuple[str, ...]:
    """The live keys of this node that a token of another, later pod replaces.

    (A) A token that got out of its pod enrols nobody in its LAS's place, be that enrolled by token,
    enrolled by hand or removed; nor does the token of a pod that is gone.
    """
    found: list[str] = []
    for one in accepted.entries:
        other = one.enrolment
        if other is None or one.value == key or other.place != enrolment.place:
            continue
        if other.pod_uid == enrolment.pod_uid:
            raise _taken(one, enrolment)
        if one.kind is Kind.LAS_TOKEN and other.expires <= now:
            continue
        if enrolment.issued <= other.issued:
            raise Conflict(
                f"LAS key {one.value} of node {other.node!r} was shown with a token that was "
                "issued later than this one",
                hint="is there more than one LAS on that node for this service account?",
            )
        if one.kind is Kind.LAS_TOKEN:
            found.append(one.value)
    return tuple(found)


def _taken(one: Entry, enrolment: Enrolment) -> Denied | Conflict:
    if one.kind is Kind.LAS_BARRED:
        return Denied(
            f"LAS key {one.value} of pod {enrolment.pod!r} was removed by the CAS's operator, and "
            "its tokens enrol no other",
            hint="is the node to be trusted again? Delete the pod: a new one may enrol",
        )
    return Conflict(
        f"pod {enrolment.pod!r} has enrolled another LAS key, {one.value}, for node "
        f"{enrolment.node!r}",
        hint="did the LAS lose its state directory while its pod lived? Delete the pod; if "
        "it did not, somebody else has its token",
    )


def _noted(accepted: Accepted, entry: Entry, enrolment: Enrolment) -> Accepted:
    """The list in which `entry`, by hand or removed, is the key of that pod.

    The same list where it is known, or where the pod has another key.
    """
    known = entry.enrolment
    if known is not None and enrolment.issued <= known.issued:
        return accepted
    if any(
        one.enrolment is not None and one.enrolment.pod_uid == enrolment.pod_uid
        for one in accepted.entries
        if one is not entry
    ):
        return accepted
    rest = tuple(one for one in accepted.entries if one is not entry)
    return Accepted((*rest, entry._replace(enrolment=enrolment)))


def _stale(one: Entry, key: str, enrolment: Enrolment, now: int) -> bool:
    other = one.enrolment
    if one.kind is not Kind.LAS_TOKEN or other is None or one.value == key:
        return False
    return other.place == enrolment.place or other.expires + KEPT_SECONDS <= now


def _with_room(accepted: Accepted, now: int) -> Accepted:
    """The list, without all that has expired where there is no room for one more otherwise."""
    if not accepted.is_full(Kind.LAS_TOKEN):
        return accepted
    return Accepted(
        tuple(
            one
            for one in accepted.entries
            if one.kind is not Kind.LAS_TOKEN
            or (one.enrolment is not None and one.enrolment.expires > now)
        )
    )


def add_by_hand(accepted: Accepted, entry: Entry) -> Accepted:
    """The list with a LAS that the operator enrols: no expiry and no removal counts any more.

    Of which pod it is stays known, so that this pod's tokens enrol no other key.

    Raises:
        AlreadyExists: it is there by hand.
        TooLarge: as `Accepted.with_entry`.
    """
    kinds = (Kind.LAS_TOKEN, Kind.LAS_BARRED)
    rest = _without_las(accepted, entry.value, *kinds)
    return rest.with_entry(entry._replace(enrolment=_last_token(accepted, entry.value, *kinds)))


class Barred(NamedTuple):
    """The list without a LAS.

    Attributes:
        accepted: the list.
        forgotten: the key whose removal is not known any more, 64 hex digits, since there is room
            for so many; empty where there is none.
    """

    accepted: Accepted
    forgotten: str


def bar(accepted: Accepted, key: str, *, added: str) -> Barred:
    """The list without that LAS, whoever enrolled it, and never with it by a token.

    Raises:
        NotFound: it is not enrolled.
    """
    kinds = (Kind.LAS_TOKEN, Kind.LAS_KEY)
    rest = _without_las(accepted, key, *kinds)
    if len(rest.entries) == len(accepted.entries):
        accepted.without(Kind.LAS_KEY, key)  # says so
    forgotten = ""
    if rest.is_full(Kind.LAS_BARRED):
        # (A) Ending trust never fails for want of room.
        oldest = min(rest.of(Kind.LAS_BARRED), key=lambda one: one.added)
        rest, forgotten = rest.without(Kind.LAS_BARRED, oldest.value), oldest.value
    mark = Entry(Kind.LAS_BARRED, key, "", added, _last_token(accepted, key, *kinds))
    return Barred(rest.with_entry(mark), forgotten)


def note_refused(accepted: Accepted, key: str, enrolment: Enrolment) -> Accepted:
    """The list that knows which pod has a key that was removed; else as it is."""
    mark = accepted.find(Kind.LAS_BARRED, key)
    if mark is None or mark.enrolment is not None:
        return accepted
    return _noted(accepted, mark, enrolment)


def readmit(accepted: Accepted, key: str, *, now: int) -> Accepted:
    """The list in which a token may enrol that key again.

    Raises:
        NotFound: it was not removed.
        AlreadyExists: it is enrolled.
    """
    mark = accepted.find(Kind.LAS_BARRED, key)
    if mark is not None:
        rest = _without_las(accepted, key, Kind.LAS_BARRED)
        token = mark.enrolment
        if token is None or rest.is_full(Kind.LAS_TOKEN):
            return rest
        # Expired; it keeps the pod's place from another key until this one is shown again.
        ended = token._replace(expires=min(token.expires, now))
        return rest.with_entry(Entry(Kind.LAS_TOKEN, key, "", mark.added, ended))
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


def _last_token(accepted: Accepted, key: str, *kinds: Kind) -> Enrolment | None:
    found = (accepted.find(kind, key) for kind in kinds)
    tokens = [one.enrolment for one in found if one is not None and one.enrolment is not None]
    return max(tokens, key=lambda one: one.issued, default=None)
