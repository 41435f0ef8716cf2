"""Every vector of vectors/enrolment against the code, and against its own generator."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from vectors.enrolment import generate

from crannog.cas.enrolment.issuer_keys import FetchedKeys
from crannog.cas.enrolment.key_set import parse_key_set
from crannog.cas.enrolment.token import Expected, judge, parse_claims, read_header, verify_token
from crannog.cas.store import enrolments
from crannog.cas.store.accepted import NOTHING, Accepted, Enrolment, Entry, Kind
from crannog.errors import Error
from crannog.evidence.report import Channel
from crannog.exchange import enrolment as exchange
from crannog.exchange.enrolment import EnrolmentClient, EnrolmentServer, check_proof, is_enrolment

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))
START = generate.NOW


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return value


def test_generating_again_gives_the_same_files() -> None:
    made = {name: generate.text(vector) for name, vector in generate.vectors().items()}
    assert made == {name: (DIRECTORY / f"{name}.json").read_text() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    vector = load(name)
    check = CHECKS[vector["kind"]]
    if "error" not in vector:
        check(vector)
        return
    with pytest.raises(Error) as caught:
        check(vector)
    assert caught.value.code == vector["error"]


def _opening(vector: dict[str, Any]) -> None:
    assert bytes.fromhex(vector["bytes"]) == exchange.OPENING
    assert is_enrolment(exchange.OPENING) is True


def _message(vector: dict[str, Any]) -> None:
    end: EnrolmentClient | EnrolmentServer
    if vector["end"] == "server":
        end = EnrolmentServer()
        end.receive(exchange.OPENING)
        end.opened()
        end.challenge(generate.NONCE)
    else:
        end = EnrolmentClient()
        end.enrol()
        if vector["waiting"] == "result":
            end.receive(bytes.fromhex(load("challenge")["bytes"]))
            end.next_event()
            end.enrolment(exchange.Enrolment(bytes(32), "a.b.c", bytes(64)))
    end.receive(bytes.fromhex(vector["bytes"]))
    event = end.next_event()
    assert event is not None
    found = {
        field: value.hex() if isinstance(value, bytes) else value
        for field, value in event._asdict().items()
    }
    assert found == vector["event"]


def _proof(vector: dict[str, Any]) -> None:
    fields = ("exporter", "client_key", "server_key")
    channel = Channel(*(bytes.fromhex(vector[field]) for field in fields))
    made = exchange.Enrolment(
        bytes.fromhex(vector["public_key"]), vector["token"], bytes.fromhex(vector["proof"])
    )
    check_proof(made, nonce=bytes.fromhex(vector["nonce"]), channel=channel)


def _token(vector: dict[str, Any]) -> None:
    keys = parse_key_set(json.dumps(vector["key_set"]).encode(), "key set")
    header = read_header(vector["token"])
    key = FetchedKeys(lambda: keys).find(header.kid)
    claims = parse_claims(verify_token(vector["token"], header, key))
    expected = Expected(vector["issuer"], vector["audience"], frozenset(vector["subjects"]))
    judge(claims, expected, datetime.fromtimestamp(vector["now"], UTC))
    assert {name: getattr(claims, name) for name in vector["claims"]} == vector["claims"]


def _list(vector: dict[str, Any]) -> None:
    accepted = NOTHING
    for step in vector["steps"]:
        accepted = STEPS[step["do"]](accepted, step)
    live, _ = enrolments.live_keys(accepted, START + vector["at"])
    assert sorted(key.hex() for key in live | accepted.las_keys) == vector["trusted"]


def _admit(accepted: Accepted, step: dict[str, Any]) -> Accepted:
    token = Enrolment(
        "issuer",
        "subject",
        step["node"],
        step["pod"],
        f"uid of {step['pod']}",
        START + step["issued"],
        START + step["expires"],
    )
    now = START + step["at"]
    if "error" in step:
        with pytest.raises(Error) as caught:
            enrolments.admit(accepted, step["key"], token, now=now, added="then")
        assert caught.value.code == step["error"]
        return accepted
    found = enrolments.admit(accepted, step["key"], token, now=now, added="then")
    until = None if found.expires is None else found.expires - START
    assert until == step["enrolled"]
    return found.accepted


STEPS: dict[str, Callable[[Accepted, dict[str, Any]], Accepted]] = {
    "admit": _admit,
    "add": lambda accepted, step: enrolments.add_by_hand(
        accepted, Entry(Kind.LAS_KEY, step["key"], "", "then")
    ),
    "remove": lambda accepted, step: enrolments.bar(accepted, step["key"], added="then").accepted,
    "readmit": lambda accepted, step: enrolments.readmit(
        accepted, step["key"], now=START + step["at"]
    ),
}
CHECKS: dict[str, Callable[[dict[str, Any]], None]] = {
    "opening": _opening,
    "message": _message,
    "proof": _proof,
    "token": _token,
    "list": _list,
}
