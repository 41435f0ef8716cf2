"""Every vector of vectors/attestation against the code, and against its own generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vectors.attestation import generate

from crannog.errors import Error
from crannog.evidence.envelope import Envelope
from crannog.exchange.attestation import AttestationClient, AttestationServer, Evidence

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))
EVIDENCE = Evidence(
    (Envelope("application/vnd.crannog.las-statement+json", b"{}"),), bytes([5]) * 32, None, "token"
)


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return value


def test_generating_again_gives_the_same_files() -> None:
    made = {name: generate.text(vector) for name, vector in generate.vectors().items()}
    assert made == {name: (DIRECTORY / f"{name}.json").read_text() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    vector = load(name)
    end = AttestationClient() if vector["end"] == "client" else AttestationServer()
    for step in vector["steps"]:
        _take(end, step)


def _take(end: AttestationClient | AttestationServer, step: dict[str, Any]) -> None:
    if "receive" in step:
        end.receive(bytes.fromhex(step["receive"]))
    elif "none" in step:
        assert end.next_event() is None
    elif "send" in step:
        assert _send(end, step).hex() == step["bytes"]
    elif "event" in step:
        event = end.next_event()
        assert type(event).__name__.lower() == step["event"]
        for field, value in step["fields"].items():
            found = getattr(event, field)
            assert (found.hex() if isinstance(found, bytes) else found) == value
    else:
        with pytest.raises(Error) as caught:
            end.next_event()
        assert caught.value.code == step["error"]


def _send(end: AttestationClient | AttestationServer, step: dict[str, Any]) -> bytes:
    if isinstance(end, AttestationServer):
        return end.challenge(bytes.fromhex(step["nonce"]))
    return end.hello(step["config_id"]) if step["send"] == "hello" else end.evidence(EVIDENCE)
