from __future__ import annotations

import os
from pathlib import Path

import pytest

from crannog.cas import prepared
from crannog.cas.prepared import PreparedSessions
from crannog.cas.secrets import Bundle
from crannog.cas.store.records import Event, Record, Version
from crannog.cas.store.store import Store
from crannog.errors import IntegrityError
from crannog.pki.authority import create_authority
from crannog.session.canonical import render, session_hash
from crannog.session.load import load_session
from tests.unit.cas.support import NOW, opened, session


def stored(store: Store, name: str, *, hash_of: str | None = None) -> Version:
    loaded = load_session(session(name)).session
    other = load_session(session(hash_of or name)).session
    return store.add_version(
        name=name,
        session_hash=session_hash(other),
        predecessor=None,
        document=render(loaded).encode(),
        secrets=Bundle().encode(),
        record=Record(NOW, Event.SESSION_CREATED, session=name),
    )


def sessions(store: Store) -> PreparedSessions:
    authority = create_authority(now=NOW, random=os.urandom)
    return PreparedSessions(store, authority, random=os.urandom)


def test_a_version_is_read_once(tmp_path: Path) -> None:
    store = opened(tmp_path)
    version = stored(store, "a")
    found = sessions(store)
    assert found.get(version) is found.get(version)
    store.close()


def test_a_document_under_another_hash_is_refused(tmp_path: Path) -> None:
    store = opened(tmp_path)
    version = stored(store, "a", hash_of="b")
    with pytest.raises(IntegrityError, match="does not have its hash"):
        sessions(store).get(version)
    store.close()


@pytest.mark.parametrize(("name", "limit"), [("MAX_PREPARED", 2), ("MAX_COST", 2500)])
def test_what_is_kept_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    monkeypatch.setattr(prepared, name, limit)
    store = opened(tmp_path)
    versions = [stored(store, one) for one in "abcdef"]
    found = sessions(store)
    kept = [found.get(version) for version in versions]
    assert len(found._found) <= 2
    assert found.get(versions[-1]) is kept[-1]
    again = found.get(versions[0])
    assert again is not kept[0]
    assert again.session == kept[0].session
    store.close()
