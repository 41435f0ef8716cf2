"""The list of LASes that tokens have enrolled: who gets in, who is pushed out, who never is."""

from __future__ import annotations

import pytest

from crannog.cas.store import accepted as lists
from crannog.cas.store.accepted import NOTHING, Accepted, Enrolment, Entry, Kind, stored_entry
from crannog.cas.store.enrolments import (
    KEPT_SECONDS,
    Admission,
    add_by_hand,
    admit,
    bar,
    live_keys,
    readmit,
)
from crannog.errors import AlreadyExists, Conflict, Denied, FormatError, NotFound, TooLarge

KEY, OTHER = "aa" * 32, "bb" * 32
NOW = 1_000_000
TOKEN = Enrolment(
    "issuer", "subject", "node1", "las-x", "uid-x", issued=NOW - 10, expires=NOW + 3600
)
LATER_POD = TOKEN._replace(pod="las-y", pod_uid="uid-y", issued=NOW + 5, expires=NOW + 3700)


def enrolled(
    before: Accepted, key: str = KEY, token: Enrolment = TOKEN, now: int = NOW
) -> Admission:
    return admit(before, key, token, now=now, added="then")


ONE = enrolled(NOTHING).accepted


def keys(accepted: Accepted, now: float = NOW) -> set[str]:
    return {one.hex() for one in live_keys(accepted, now)[0]}


def test_a_key_counts_until_its_token_expires() -> None:
    assert keys(ONE) == {KEY}
    assert keys(ONE, NOW + 3599.9) == {KEY}
    assert keys(ONE, NOW + 3600) == set()
    assert live_keys(ONE, NOW)[1] == NOW + 3600
    assert live_keys(NOTHING, NOW)[1] == float("inf")


def test_the_first_enrolment_begins_and_a_renewal_does_not() -> None:
    assert enrolled(NOTHING).began
    renewed = enrolled(ONE, token=TOKEN._replace(issued=NOW + 9, expires=NOW + 3660))
    assert not renewed.began
    assert keys(renewed.accepted, NOW + 3650) == {KEY}


def test_after_it_has_expired_it_begins_again() -> None:
    late = TOKEN._replace(issued=NOW + 4000, expires=NOW + 7600)
    assert enrolled(ONE, token=late, now=NOW + 4000).began


def test_the_same_token_again_changes_nothing() -> None:
    again = enrolled(ONE)
    assert again.accepted is ONE
    assert again.expires == TOKEN.expires


def test_an_older_token_with_the_same_key_does_not_set_the_clock_back() -> None:
    older = TOKEN._replace(pod_uid="gone", issued=NOW - 99, expires=NOW + 3601)
    assert enrolled(ONE, token=older).accepted is ONE


def test_the_same_pod_enrols_no_other_key() -> None:
    stolen = TOKEN._replace(issued=NOW + 50, expires=NOW + 3900)
    with pytest.raises(Conflict, match="has enrolled another LAS key") as caught:
        enrolled(ONE, OTHER, stolen)
    assert "somebody else has its token" in caught.value.hint


def test_the_same_pod_enrols_no_other_key_after_the_first_has_expired() -> None:
    stolen = TOKEN._replace(issued=NOW + 4000, expires=NOW + 7600)
    with pytest.raises(Conflict, match="has enrolled another LAS key"):
        enrolled(ONE, OTHER, stolen, now=NOW + 4000)


def test_a_later_pod_of_the_node_replaces_the_key() -> None:
    found = enrolled(ONE, OTHER, LATER_POD)
    assert found.replaced == (KEY,)
    assert found.began
    assert keys(found.accepted) == {OTHER}


def test_an_older_pod_of_the_node_does_not_replace_the_key() -> None:
    newer = enrolled(ONE, OTHER, LATER_POD).accepted
    with pytest.raises(Conflict, match="issued later than this one"):
        enrolled(newer, "cc" * 32, TOKEN._replace(pod_uid="uid-z"))
    with pytest.raises(Conflict, match="issued later than this one"):
        enrolled(newer, KEY, TOKEN)


def test_a_key_is_one_node_s() -> None:
    with pytest.raises(Conflict, match="is enrolled for node 'node1'") as caught:
        enrolled(ONE, token=TOKEN._replace(node="node2", pod_uid="uid-z", issued=NOW))
    assert "a key of its own" in caught.value.hint


def test_another_node_or_service_account_has_its_own_place() -> None:
    both = enrolled(ONE, OTHER, TOKEN._replace(node="node2", pod_uid="uid-2")).accepted
    assert keys(both) == {KEY, OTHER}
    third = TOKEN._replace(subject="another", pod_uid="uid-3")
    assert keys(enrolled(both, "cc" * 32, third).accepted) == {KEY, OTHER, "cc" * 32}


def test_a_key_enrolled_by_hand_needs_no_token() -> None:
    by_hand = add_by_hand(NOTHING, Entry(Kind.LAS_KEY, KEY, "", "then"))
    found = enrolled(by_hand)
    assert found.accepted is by_hand
    assert found.expires is None
    assert not found.began


def test_enrolling_by_hand_ends_expiry_and_removal() -> None:
    entry = Entry(Kind.LAS_KEY, KEY, "", "then")
    for before in (ONE, bar(ONE, KEY, added="then")):
        assert add_by_hand(before, entry).entries == (entry,)


@pytest.mark.parametrize("kind", [Kind.LAS_KEY, Kind.LAS_TOKEN])
def test_a_removed_key_stays_removed(kind: Kind) -> None:
    before = ONE
    if kind is Kind.LAS_KEY:
        before = Accepted((Entry(kind, KEY, "", "then"),))
    after = bar(before, KEY, added="then")
    assert keys(after) == set()
    assert after.las_keys == frozenset()
    with pytest.raises(Denied, match="was removed by the CAS's operator") as caught:
        enrolled(after)
    assert "readmit" in caught.value.hint
    assert keys(enrolled(readmit(after, KEY)).accepted) == {KEY}


def test_what_is_not_enrolled_is_not_removed() -> None:
    with pytest.raises(NotFound):
        bar(ONE, OTHER, added="then")


def test_what_was_not_removed_is_not_readmitted() -> None:
    with pytest.raises(NotFound, match="was not removed"):
        readmit(ONE, OTHER)
    with pytest.raises(AlreadyExists, match="is enrolled"):
        readmit(ONE, KEY)


def test_what_expired_long_ago_is_dropped_by_the_next_enrolment() -> None:
    late = NOW + 3600 + KEPT_SECONDS
    token = TOKEN._replace(node="node2", pod_uid="uid-2", issued=late, expires=late + 10)
    assert len(enrolled(ONE, OTHER, token, now=late - 1).accepted.entries) == 2
    assert len(enrolled(ONE, OTHER, token, now=late).accepted.entries) == 1


def test_the_list_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_ENTRIES", 1)
    with pytest.raises(TooLarge):
        enrolled(ONE, OTHER, TOKEN._replace(node="node2", pod_uid="uid-2"))
    assert enrolled(ONE, OTHER, LATER_POD).replaced == (KEY,)


@pytest.mark.parametrize(
    "changed",
    [
        TOKEN._replace(issuer="x"),
        TOKEN._replace(subject="x"),
        TOKEN._replace(node="x"),
        TOKEN._replace(pod="x"),
        TOKEN._replace(pod_uid="x"),
        TOKEN._replace(issued=1),
        TOKEN._replace(expires=TOKEN.expires + 1),
    ],
)
def test_what_a_token_said_is_bound_with_the_entry(changed: Enrolment) -> None:
    assert enrolled(NOTHING, token=changed).accepted.digest != ONE.digest


def test_a_row_gives_back_its_entry() -> None:
    (entry,) = ONE.entries
    assert entry.enrolment is not None
    row = ("las-token", KEY, "", "then", entry.enrolment.encode())
    assert stored_entry(*row) == entry


@pytest.mark.parametrize(
    "enrolment", ["", "{}", TOKEN.encode() + " ", TOKEN.encode().replace("node1", "\\u006eode1")]
)
def test_a_row_that_a_cas_did_not_write_is_no_entry(enrolment: str) -> None:
    with pytest.raises(FormatError):
        stored_entry("las-token", KEY, "", "then", enrolment)
    with pytest.raises(ValueError, match="where there can be none"):
        stored_entry("las-key", KEY, "", "then", TOKEN.encode())
