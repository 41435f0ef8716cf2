"""Whatever LASes, thieves and the operator do: what holds of the list of LASes at any time."""

from __future__ import annotations

import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from crannog.cas.store.accepted import NOTHING, Accepted, Enrolment, Entry, Kind, stored_entry
from crannog.cas.store.enrolments import add_by_hand, admit, bar, live_keys, note_refused, readmit
from crannog.errors import Error

KEYS = [f"{number}{number}" * 32 for number in range(1, 6)]
_keys = st.sampled_from(KEYS)
_pods = st.sampled_from(["a", "b", "c", "d"])
NODE_OF = {"a": "node1", "b": "node1", "c": "node1", "d": "node2"}


class Cas(RuleBasedStateMachine):
    """A list, a clock, and for each pod the keys that its tokens ever began trust in."""

    def __init__(self) -> None:
        super().__init__()
        self.accepted: Accepted = NOTHING
        self.now = 1_000_000
        self.removed: set[str] = set()
        self.by_pod: dict[str, set[str]] = {}

    @rule(seconds=st.sampled_from([1, 60, 1000, 4000]))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(
        key=_keys,
        pod=_pods,
        age=st.sampled_from([0, 1, 30, 500]),
        life=st.sampled_from([600, 3600, 7200]),
    )
    def a_token_is_shown(self, key: str, pod: str, age: int, life: int) -> None:
        issued = self.now - age
        token = Enrolment("i", "s", NODE_OF[pod], pod, f"uid-{pod}", issued, issued + life)
        if token.expires <= self.now:
            return
        before = live_keys(self.accepted, self.now)[0]
        try:
            found = admit(self.accepted, key, token, now=self.now, added="then")
        except Error:
            self.accepted = note_refused(self.accepted, key, token)
            return
        after = live_keys(found.accepted, self.now)[0]
        assert key not in self.removed
        if found.expires is not None:
            assert after - before <= {bytes.fromhex(key)}
            assert found.began is (bytes.fromhex(key) in after - before)
            assert {one.hex() for one in before - after} == set(found.replaced)
            assert found.expires > self.now
            self.by_pod.setdefault(pod, set()).add(key)
        else:
            assert after == before
        self.accepted = found.accepted

    @rule(key=_keys)
    def the_operator_removes(self, key: str) -> None:
        with contextlib.suppress(Error):
            self.accepted = bar(self.accepted, key, added="then").accepted
            self.removed.add(key)

    @rule(key=_keys)
    def the_operator_readmits(self, key: str) -> None:
        before = live_keys(self.accepted, self.now)[0]
        with contextlib.suppress(Error):
            self.accepted = readmit(self.accepted, key, now=self.now)
            self.removed.discard(key)
        assert live_keys(self.accepted, self.now)[0] == before

    @rule(key=_keys)
    def the_operator_adds(self, key: str) -> None:
        with contextlib.suppress(Error):
            self.accepted = add_by_hand(self.accepted, Entry(Kind.LAS_KEY, key, "", "then"))
            self.removed.discard(key)

    @invariant()
    def a_node_has_one_live_key_by_token(self) -> None:
        live = [
            one.enrolment.place
            for one in self.accepted.of(Kind.LAS_TOKEN)
            if one.enrolment is not None and one.enrolment.expires > self.now
        ]
        assert len(live) == len(set(live))

    @invariant()
    def a_removed_key_is_not_trusted(self) -> None:
        trusted = live_keys(self.accepted, self.now)[0] | self.accepted.las_keys
        assert not {bytes.fromhex(key) for key in self.removed} & trusted

    @invariant()
    def a_key_stands_once(self) -> None:
        values = [one.value for one in self.accepted.entries]
        assert len(values) == len(set(values))

    @invariant()
    def each_row_gives_back_its_entry(self) -> None:
        for one in self.accepted.entries:
            text = "" if one.enrolment is None else one.enrolment.encode()
            assert stored_entry(one.kind.value, one.value, one.note, one.added, text) == one


Cas.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
test_the_list = Cas.TestCase
