"""Every vector of vectors/las against the code, and against its own generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vectors.las import generate

from crannog.errors import Error
from crannog.exchange.las import LasClient, LasServer, QuoteRequest

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return value


def test_generating_again_gives_the_same_files() -> None:
    made = {name: generate.text(vector) for name, vector in generate.vectors().items()}
    assert made == {name: (DIRECTORY / f"{name}.json").read_text() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    vector = load(name)
    end: LasClient | LasServer = LasServer()
    if vector["end"] == "client":
        end = LasClient()
        request = QuoteRequest(b"\4" * 64, b"\3" * 32, b"\5" * 32, "s/a", "cas:18765")
        if vector["asked"] == "quote":
            assert end.quote(request).hex() == load("quote")["bytes"]
        else:
            sent = end.probe() if vector["asked"] == "probe" else end.configured()
            assert sent.hex() == load(vector["asked"])["bytes"]
    end.receive(bytes.fromhex(vector["bytes"]))
    if "event" in vector:
        assert type(end.next_event()).__name__ == vector["event"]
        return
    with pytest.raises(Error) as caught:
        end.next_event()
    assert caught.value.code == vector["error"]
