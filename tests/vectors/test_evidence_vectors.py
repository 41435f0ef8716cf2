"""Every vector of vectors/evidence against the code, and against its own generator."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from vectors.evidence import generate

from crannog.errors import Error
from crannog.evidence.claims import Trust
from crannog.evidence.envelope import parse_envelope
from crannog.evidence.report import Channel, report_data
from crannog.evidence.verify import verify

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return value


def test_generating_again_gives_the_same_files() -> None:
    made = {name: generate.text(vector) for name, vector in generate.vectors().items()}
    assert made == {name: (DIRECTORY / f"{name}.json").read_text() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    vector = load(name)
    if vector["kind"] == "report-data":
        fields = ("exporter", "client_key", "server_key")
        channel = Channel(*(bytes.fromhex(vector[field]) for field in fields))
        found = report_data(
            role=vector["role"].encode(),
            nonce=bytes.fromhex(vector["nonce"]),
            channel=channel,
            config_id=vector["config_id"],
        )
        assert found.hex() == vector["report_data"]
        return
    trust = Trust(frozenset(bytes.fromhex(key) for key in vector["enrolled"]))
    envelope = parse_envelope(vector["envelope"])
    if vector["kind"] == "refused":
        with pytest.raises(Error) as caught:
            verify(envelope, trust, NOW)
        assert caught.value.code == vector["error"]
        return
    claims = verify(envelope, trust, NOW)
    assert claims.level.value == vector["level"]
    assert claims.signer.hex() == vector["signer"]
    assert claims.mrenclave.hex() == vector["mrenclave"]
