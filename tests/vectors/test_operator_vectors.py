"""Every vector of vectors/operator against the code, and against its own generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vectors.operator import generate

from crannog.errors import Error
from crannog.exchange.operator import Action, Challenge, OperatorClient, OperatorServer, Order

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))
ORDER = Order(Action.LAS_ADD, generate.SUBJECT, "node 1")


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return value


def test_generating_again_gives_the_same_files() -> None:
    made = {name: generate.text(vector) for name, vector in generate.vectors().items()}
    assert made == {name: (DIRECTORY / f"{name}.json").read_text() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    vector = load(name)
    key, database, nonce = (bytes.fromhex(vector[one]) for one in ("key", "database", "nonce"))
    frames = [bytes.fromhex(one) for one in vector["bytes"]]
    end: OperatorClient | OperatorServer
    if vector["end"] == "cas":
        end = OperatorServer(key=key, database=database, nonce=nonce)
        assert end.challenge().hex() == load("challenge")["bytes"][0]
    else:
        end = OperatorClient()
    for frame in frames[:-1]:
        end.receive(frame)
        assert isinstance(end.next_event(), Challenge)
        assert isinstance(end, OperatorClient)
        assert end.order(ORDER, key=key).hex() == load("order")["bytes"][0]
    end.receive(frames[-1])
    if "error" in vector:
        with pytest.raises(Error) as caught:
            end.next_event()
        assert caught.value.code == vector["error"]
        return
    event = end.next_event()
    if "order" in vector:
        assert isinstance(event, Order)
        assert [event.action.value, event.subject, event.note] == vector["order"]
    else:
        assert type(event).__name__ == vector["event"]
