"""Reading back and hashing, for any session the language allows."""

from __future__ import annotations

import json
import random
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from crannog.session.canonical import canonical, render, session_hash
from crannog.session.document import Session
from crannog.session.load import load_session
from tests.property.session.strategies import sessions, texts


@given(sessions())
def test_what_is_read_back_is_the_same_session(session: Session) -> None:
    """`scone session verify FILE` with a file just read back yields the same hash."""
    loaded = load_session(render(session).encode()).session
    assert loaded == session
    assert session_hash(loaded) == session_hash(session)


@given(sessions())
def test_rendering_twice_gives_the_same_text(session: Session) -> None:
    text = render(session)
    assert render(load_session(text.encode()).session) == text


@given(sessions(), st.randoms(use_true_random=False))
def test_the_order_of_variables_does_not_change_the_hash(
    session: Session, chance: random.Random
) -> None:
    def shuffled(pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        return tuple(chance.sample(pairs, len(pairs)))

    services = tuple(replace(s, environment=shuffled(s.environment)) for s in session.services)
    assert session_hash(replace(session, services=services)) == session_hash(session)


@given(sessions(), sessions())
def test_different_sessions_have_different_forms(one: Session, other: Session) -> None:
    assert (canonical(one) == canonical(other)) == (_unordered(one) == _unordered(other))


@given(sessions(), texts())
def test_a_changed_value_changes_the_hash(session: Session, text: str) -> None:
    for index, service in enumerate(session.services):
        changed = replace(service, environment=(*service.environment, ("é new", text)))
        services = (*session.services[:index], changed, *session.services[index + 1 :])
        assert session_hash(replace(session, services=services)) != session_hash(session)


@given(sessions())
def test_the_canonical_form_is_json_with_a_version_marker(session: Session) -> None:
    form = json.loads(canonical(session))
    assert form["format"] == "crannog session 1"
    assert form["name"] == session.name


def _unordered(session: Session) -> Session:
    """`session` with its variables sorted; the order is not part of what it means."""
    services = tuple(replace(s, environment=tuple(sorted(s.environment))) for s in session.services)
    return replace(session, services=services)
