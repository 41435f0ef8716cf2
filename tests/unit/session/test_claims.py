"""`claims`: which container a service may run in, and what is said of those that mean nothing."""

from __future__ import annotations

import pytest

from crannog.cas.changes import widened
from crannog.session.canonical import canonical, render, session_hash
from crannog.session.document import ContainerClaims
from crannog.session.load import load_session
from tests.unit.session.documents import load, refused, said, service, warned

IMAGE_ID = "sha256:" + "ab" * 32


def claiming(claims: str, level: str = "minimum_level: node") -> str:
    return service(f"{level}\nclaims: {claims}")


def test_any_of_several_containers_with_their_keys_in_one_order() -> None:
    text = claiming(f"[{{pod: p, image: i}}, {{engine: podman, image_id: '{IMAGE_ID}'}}]")
    assert load(text).services[0].claims == (
        ContainerClaims((("image", "i"), ("pod", "p"))),
        ContainerClaims((("image_id", IMAGE_ID), ("engine", "podman"))),
    )
    assert warned(text) == []


def test_they_are_read_back_as_they_were() -> None:
    session = load(claiming("[{image: 'r:5000/a@sha256:0', namespace: ~x, container: no}]"))
    assert load_session(render(session).encode()).session == session


def test_the_order_of_keys_does_not_change_the_hash() -> None:
    one, other = (
        load(claiming(f"[{{{text}}}]")) for text in ("image: i, pod: p", "pod: p, image: i")
    )
    assert session_hash(one) == session_hash(other)


def test_a_session_without_claims_has_the_hash_that_it_had() -> None:
    assert b"claims" not in canonical(load(service()))


@pytest.mark.parametrize("level", ["pwd: /", "minimum_level: simulation"])
def test_claims_that_simulation_could_forge_are_refused(level: str) -> None:
    assert said(claiming("[{image: i}]", level)) == (
        "line 8: services[0].claims: nobody vouches for a container at level simulation, which "
        "this session allows; write minimum_level: node beside claims"
    )


@pytest.mark.parametrize(
    "security",
    ["{minimum_level: node}", "{minimum_level: hardware}", "{attestation: {mode: hardware}}"],
)
def test_the_whole_session_may_ask_for_the_level(security: str) -> None:
    text = service("claims: [{image: i}]") + f"security: {security}\n"
    assert load(text).services[0].claims


def test_an_unknown_key_is_refused_with_a_suggestion() -> None:
    assert said(claiming("[{image: i, name_space: n}]")) == (
        'line 8: services[0].claims[0]: unknown key "name_space" in claims of a container; '
        'did you mean "namespace"?'
    )


def test_a_digest_needs_its_algorithm() -> None:
    assert said(claiming(f"[{{image_id: {'ab' * 32}}}]")).endswith(
        "expected sha256: and 64 lower-case hex digits"
    )


def test_an_engine_is_one_of_those_that_are_known() -> None:
    assert said(claiming("[{engine: Docker}]")) == (
        'line 8: services[0].claims[0].engine: found "Docker", expected one of docker, podman, '
        'containerd; did you mean "docker"?'
    )


def test_claims_that_ask_for_nothing_are_refused() -> None:
    assert "is empty" in said(claiming("[{}]"))
    assert "is empty" in said(claiming("[]"))


def test_all_problems_are_reported_at_once() -> None:
    problems = refused(claiming("[{image: 'a b', pod: ''}, {engine: x}, text]"))
    assert [problem.path for problem in problems] == [
        "services[0].claims[0].image",
        "services[0].claims[0].pod",
        "services[0].claims[1].engine",
        "services[0].claims[2]",
    ]


def test_a_container_that_stands_twice_counts_once() -> None:
    text = claiming("[{image: i}, {image: i}]")
    assert len(load(text).services[0].claims) == 1
    assert any("the same container stands twice" in line for line in warned(text))


@pytest.mark.parametrize(
    ("before", "after", "wider"),
    [
        ("[{image: i}]", "[{image: i}]", False),
        ("[{image: i}]", "[{image: i}, {image: j}]", True),
        ("[{image: i}, {image: j}]", "[{image: i}]", False),
        ("[{image: i}]", "[{image: j}]", True),
        ("[{image: i, pod: p}]", "[{image: i}]", True),
    ],
)
def test_an_update_that_lets_another_container_in_is_called_wider(
    before: str, after: str, wider: bool
) -> None:
    found = widened(load(claiming(before)), load(claiming(after)))
    assert ("service app claims" in found) == wider


def test_an_update_that_drops_the_claims_is_called_wider() -> None:
    bare = load(service("minimum_level: node"))
    claims = load(claiming("[{image: i}]"))
    assert "service app claims" in widened(claims, bare)
    assert "service app claims" not in widened(bare, claims)
