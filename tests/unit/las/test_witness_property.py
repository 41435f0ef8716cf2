"""Laws of the witness: what is changed at random in a genuine record never crashes it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.errors import Error
from crannog.las.told import told
from tests.unit.las.genuine import ENGINES, document, genuine

_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=2) | st.dictionaries(st.text(max_size=5), children, max_size=2)
    ),
    max_leaves=5,
)


def _places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [above] if above else []
    if isinstance(value, dict):
        for name, item in value.items():
            found += _places(item, (*above, name))
    elif isinstance(value, list):
        for number, item in enumerate(value[:4]):
            found += _places(item, (*above, number))
    return found


DOCUMENTS = {engine: document(engine) for engine in ENGINES}
PLACES = {engine: _places(DOCUMENTS[engine]) for engine in ENGINES}


def _changed(engine: str, place: tuple[Any, ...], value: Any) -> Any:
    config = json.loads(json.dumps(DOCUMENTS[engine]))
    at = config
    for step in place[:-1]:
        at = at[step]
    at[place[-1]] = value
    return config


def _reasons(engine: str, config: Any) -> tuple[str, ...]:
    def replace(old: dict[str, Any]) -> None:
        old.clear()
        old.update(config)

    return genuine(engine, replace).reasons()


@given(st.sampled_from(ENGINES), st.data(), _json)
@settings(deadline=None, max_examples=300)
def test_a_record_changed_anywhere_is_judged_or_refused(
    engine: str, data: st.DataObject, value: Any
) -> None:
    place = data.draw(st.sampled_from(PLACES[engine]))
    config = _changed(engine, place, value)
    try:
        reasons = _reasons(engine, config)
    except Error:
        return
    assert all(reasons)


@given(st.sampled_from(ENGINES), st.data(), st.text(max_size=8))
@settings(deadline=None, max_examples=200)
def test_another_text_in_a_command_or_a_namespace_is_refused(
    engine: str, data: st.DataObject, text: str
) -> None:
    places: list[tuple[Any, ...]] = [("process", "args", 0)]
    places += [("linux", "namespaces", number, "type") for number in range(5)]
    place = data.draw(st.sampled_from(places))
    config = _changed(engine, place, f"x{text}")
    try:
        reasons = _reasons(engine, config)
    except Error:
        return
    assert reasons


@given(st.lists(st.text(max_size=30), max_size=5))
def test_an_environment_is_read_or_refused(environment: list[str]) -> None:
    try:
        told(tuple(environment))
    except Error:
        return
