"""The store against a model: any sequence of writes, refusals and restarts gives what it should."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from crannog.cas.audit import verify_audit_log
from crannog.cas.keys import FileKey
from crannog.cas.store.batch import Batch
from crannog.cas.store.records import Event, Record
from crannog.errors import AlreadyExists, Conflict, NotFound
from tests.unit.cas.support import NOW, add, opened

NAMES = st.sampled_from(["a", "b", "c"])


class StoreModel(RuleBasedStateMachine):
    """Beside the store, a dictionary of what should be in it."""

    def __init__(self) -> None:
        super().__init__()
        self._temporary = tempfile.TemporaryDirectory()
        self._directory = Path(self._temporary.name)
        self._store = opened(self._directory)
        self._expected: dict[str, list[tuple[str, bytes]]] = {}
        self._records = 1

    @rule(name=NAMES, document=st.binary(max_size=30))
    def create_or_update(self, name: str, document: bytes) -> None:
        version = add(self._store, name, predecessor=self._store.latest(name), document=document)
        self._expected.setdefault(name, []).append((version.hash, document))
        self._records += 1

    @rule(name=NAMES)
    def create_again(self, name: str) -> None:
        if name in self._expected:
            try:
                add(self._store, name)
            except AlreadyExists:
                return
            raise AssertionError("a second first version")

    @rule(name=NAMES)
    def update_from_a_stale_version(self, name: str) -> None:
        history = self._expected.get(name, [])
        if len(history) > 1:
            stale = self._store.version(name, history[-2][0])
            try:
                add(self._store, name, predecessor=stale)
            except Conflict:
                return
            raise AssertionError("two versions with one predecessor")

    @rule(name=NAMES)
    def update_what_is_not_there(self, name: str) -> None:
        anything = next((self._store.latest(one) for one in self._expected), None)
        if anything is not None and name not in self._expected:
            try:
                add(self._store, name, predecessor=anything)
            except NotFound:
                return
            raise AssertionError("an update of nothing")

    @rule()
    def log(self) -> None:
        self._store.append(Record(NOW, Event.SESSION_READ))
        self._records += 1

    @rule()
    def fail_halfway(self) -> None:
        def broken(batch: Batch) -> None:
            batch.add_record(Record(NOW, Event.SESSION_READ))
            raise KeyError("a bug")

        try:
            self._store._writer.submit(broken)
        except KeyError:
            return
        raise AssertionError("a bug was swallowed")

    @rule()
    def restart(self) -> None:
        self._store.close()
        self._store = opened(self._directory, level=None)

    @invariant()
    def everything_is_as_it_should_be(self) -> None:
        assert self._store.names() == tuple(sorted(self._expected))
        assert self._store.head.sequence == self._records
        for name, history in self._expected.items():
            newest = self._store.latest(name)
            assert newest is not None
            assert newest.number == len(history)
            for session_hash, document in history:
                version = self._store.version(name, session_hash)
                assert version is not None
                assert self._store.read(version)[0] == document

    def teardown(self) -> None:
        head = self._store.head
        self._store.close()
        keys = FileKey(self._directory / "master.key")
        found = verify_audit_log(self._directory / "cas.db", keys=keys, expect_head=head)
        assert found.findings == ()
        self._temporary.cleanup()


TestStoreModel = StoreModel.TestCase
TestStoreModel.settings = settings(
    max_examples=15,
    stateful_step_count=20,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
