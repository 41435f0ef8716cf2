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
    note_refused,
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


def barred(before: Accepted, key: str = KEY) -> Accepted:
    return bar(before, key, added="then").accepted


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


def test_a_later_token_that_expires_earlier_moves_the_pod_and_not_the_expiry() -> None:
    # The operator has shortened the tokens' life, and the LAS has a new pod.
    later = LATER_POD._replace(expires=NOW + 600)
    found = enrolled(ONE, token=later)
    assert not found.began
    assert found.expires == NOW + 3600
    (entry,) = found.accepted.entries
    assert entry.enrolment == later._replace(expires=NOW + 3600)
    # So a token of the new pod enrols no other key.
    with pytest.raises(Conflict, match="has enrolled another LAS key"):
        enrolled(found.accepted, OTHER, later._replace(issued=NOW + 50, expires=NOW + 3900))


# --- a pod has one key, whatever becomes of it ----------------------------------------------------


STOLEN = TOKEN._replace(issued=NOW + 50, expires=NOW + 3900)


def test_a_removed_key_s_pod_enrols_no_other() -> None:
    after = barred(ONE)
    for key in (OTHER, "cc" * 32):
        with pytest.raises(Denied, match="and its tokens enrol no other") as caught:
            enrolled(after, key, STOLEN)
        assert "Delete the pod" in caught.value.hint


def test_a_removed_key_s_pod_enrols_no_other_after_its_token_has_expired() -> None:
    late = STOLEN._replace(issued=NOW + 90_000, expires=NOW + 93_600)
    with pytest.raises(Denied, match="its tokens enrol no other"):
        enrolled(barred(ONE), OTHER, late, now=NOW + 90_000)


def test_an_older_pod_s_token_does_not_take_a_removed_key_s_place() -> None:
    older = TOKEN._replace(pod_uid="gone", issued=NOW - 20)
    with pytest.raises(Conflict, match="issued later than this one"):
        enrolled(barred(ONE), OTHER, older)


def test_a_later_pod_takes_a_removed_key_s_place() -> None:
    found = enrolled(barred(ONE), OTHER, LATER_POD)
    assert keys(found.accepted) == {OTHER}
    assert found.accepted.find(Kind.LAS_BARRED, KEY) is not None
    assert found.replaced == ()


def test_a_key_that_was_removed_twice_is_still_its_pod_s() -> None:
    by_hand = add_by_hand(barred(ONE), Entry(Kind.LAS_KEY, KEY, "", "then"))
    with pytest.raises(Denied, match="its tokens enrol no other"):
        enrolled(barred(by_hand), OTHER, STOLEN)


def test_a_readmitted_key_s_pod_enrols_no_other() -> None:
    with pytest.raises(Conflict, match="has enrolled another LAS key"):
        enrolled(readmit(barred(ONE), KEY, now=NOW), OTHER, STOLEN)


def test_a_pod_whose_key_is_enrolled_by_hand_enrols_no_other() -> None:
    by_hand = add_by_hand(ONE, Entry(Kind.LAS_KEY, KEY, "", "then"))
    with pytest.raises(Conflict, match="has enrolled another LAS key"):
        enrolled(by_hand, OTHER, STOLEN)


def test_a_key_by_hand_that_shows_a_token_is_known_by_its_pod() -> None:
    shown = enrolled(add_by_hand(NOTHING, Entry(Kind.LAS_KEY, KEY, "note", "then")))
    assert (shown.expires, shown.began) == (None, False)
    assert shown.accepted.entries == (Entry(Kind.LAS_KEY, KEY, "note", "then", TOKEN),)
    with pytest.raises(Conflict, match="has enrolled another LAS key"):
        enrolled(shown.accepted, OTHER, STOLEN)
    # It is written where it is news.
    assert enrolled(shown.accepted).accepted is shown.accepted
    later = enrolled(shown.accepted, token=LATER_POD).accepted
    assert later.entries[0].enrolment == LATER_POD
    assert enrolled(later).accepted is later


def test_a_removed_key_that_shows_its_token_afterwards_is_known_by_its_pod() -> None:
    after = barred(add_by_hand(NOTHING, Entry(Kind.LAS_KEY, KEY, "", "then")))
    noted = note_refused(after, KEY, TOKEN)
    with pytest.raises(Denied, match="its tokens enrol no other"):
        enrolled(noted, OTHER, STOLEN)
    # The first one counts: who holds a removed key cannot move the mark to another node.
    elsewhere = TOKEN._replace(node="node2", pod_uid="uid-2", issued=NOW + 50)
    assert note_refused(noted, KEY, elsewhere) is noted
    assert note_refused(ONE, KEY, TOKEN) is ONE


@pytest.mark.parametrize("kind", [Kind.LAS_KEY, Kind.LAS_BARRED])
def test_a_stolen_token_does_not_make_a_pod_another_key_s(kind: Kind) -> None:
    # Another key, by hand or removed, is shown with the token of a pod that has its key.
    both = Accepted((*ONE.entries, Entry(kind, OTHER, "", "then")))
    if kind is Kind.LAS_KEY:
        assert enrolled(both, OTHER, STOLEN).accepted is both
    else:
        assert note_refused(both, OTHER, STOLEN) is both
    assert keys(enrolled(both, token=STOLEN).accepted) == {KEY}


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
    assert found.accepted.las_keys == by_hand.las_keys
    assert found.expires is None
    assert not found.began


def test_enrolling_by_hand_ends_expiry_and_removal() -> None:
    entry = Entry(Kind.LAS_KEY, KEY, "", "then")
    for before in (ONE, barred(ONE)):
        # Of which pod it is stays known.
        assert add_by_hand(before, entry).entries == (entry._replace(enrolment=TOKEN),)
        assert keys(add_by_hand(before, entry)) == set()
        assert add_by_hand(before, entry).las_keys == {bytes.fromhex(KEY)}
    assert add_by_hand(NOTHING, entry).entries == (entry,)


@pytest.mark.parametrize("kind", [Kind.LAS_KEY, Kind.LAS_TOKEN])
def test_a_removed_key_stays_removed(kind: Kind) -> None:
    before = ONE
    if kind is Kind.LAS_KEY:
        before = Accepted((Entry(kind, KEY, "", "then"),))
    after = barred(before)
    assert keys(after) == set()
    assert after.las_keys == frozenset()
    with pytest.raises(Denied, match="was removed by the CAS's operator") as caught:
        enrolled(after)
    assert "readmit" in caught.value.hint
    readmitted = readmit(after, KEY, now=NOW)
    assert keys(readmitted) == set()
    again = enrolled(readmitted)
    assert again.began
    assert keys(again.accepted) == {KEY}


def test_what_is_not_enrolled_is_not_removed() -> None:
    with pytest.raises(NotFound):
        bar(ONE, OTHER, added="then")


def test_what_was_not_removed_is_not_readmitted() -> None:
    with pytest.raises(NotFound, match="was not removed"):
        readmit(ONE, OTHER, now=NOW)
    with pytest.raises(AlreadyExists, match="is enrolled"):
        readmit(ONE, KEY, now=NOW)


def test_what_expired_long_ago_is_dropped_by_the_next_enrolment() -> None:
    late = NOW + 3600 + KEPT_SECONDS
    token = TOKEN._replace(node="node2", pod_uid="uid-2", issued=late, expires=late + 10)
    assert len(enrolled(ONE, OTHER, token, now=late - 1).accepted.entries) == 2
    assert len(enrolled(ONE, OTHER, token, now=late).accepted.entries) == 1


def test_removing_never_fails_for_want_of_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_ENTRIES", 2)
    marks = [Entry(Kind.LAS_BARRED, f"{at}{at}" * 32, "", f"2026-01-0{at}") for at in (2, 1)]
    found = bar(Accepted((*ONE.entries, *marks)), KEY, added="2026-01-03")
    assert found.forgotten == "11" * 32
    assert [one.value for one in found.accepted.of(Kind.LAS_BARRED)] == ["22" * 32, KEY]
    assert bar(ONE, KEY, added="then").forgotten == ""


def test_what_has_expired_makes_room_for_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MAX_ENTRIES", 2)
    two = enrolled(ONE, OTHER, TOKEN._replace(node="node2", pod_uid="uid-2", expires=NOW + 60))
    third = TOKEN._replace(node="node3", pod_uid="uid-3")
    with pytest.raises(TooLarge):
        enrolled(two.accepted, "cc" * 32, third, now=NOW + 59)
    found = enrolled(two.accepted, "cc" * 32, third, now=NOW + 60)
    assert keys(found.accepted, NOW + 60) == {KEY, "cc" * 32}


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
        stored_entry("launcher", KEY, "", "then", TOKEN.encode())


@pytest.mark.parametrize("kind", ["las-key", "las-barred"])
def test_a_row_by_hand_may_know_its_pod(kind: str) -> None:
    assert stored_entry(kind, KEY, "", "then").enrolment is None
    assert stored_entry(kind, KEY, "", "then", TOKEN.encode()).enrolment == TOKEN
    with pytest.raises(FormatError):
        stored_entry(kind, KEY, "", "then", "{}")
