"""Every vector of vectors/plugin against the code, and against its own generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vectors.plugin import generate

from crannog.errors import FormatError
from crannog.kubernetes import messages

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))
MESSAGES: dict[str, Any] = {
    name: getattr(messages, name) for name in generate.SCHEMA if hasattr(messages, name)
}


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return value


def test_generating_again_gives_the_same_files() -> None:
    made = {name: generate.text(vector) for name, vector in generate.vectors().items()}
    assert made == {name: (DIRECTORY / f"{name}.json").read_text() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str) -> None:
    vector = load(name)
    kind, data = MESSAGES[vector["message"]], bytes.fromhex(vector["bytes"])
    if "error" in vector:
        with pytest.raises(FormatError):
            kind.parse(data)
        return
    parsed = kind.parse(data)
    assert parsed == _built(vector["message"], vector["fields"])
    if name != "later-field":
        assert parsed.encode() == data


def _built(message: str, fields: dict[str, Any]) -> object:
    """The message with these fields, in our classes."""
    if message == "AllocateRequest":
        requests = fields["container_requests"]
        return messages.AllocateRequest(tuple(tuple(each["devices_ids"]) for each in requests))
    inner = {
        "devices": "Device",
        "container_responses": "ContainerAllocateResponse",
        "mounts": "Mount",
    }
    if message == "ContainerAllocateResponse":
        inner["devices"] = "DeviceSpec"
    values: dict[str, Any] = {}
    for key, value in fields.items():
        ours = {"ID": "device_id"}.get(key, key)
        if key == "options":
            values[ours] = messages.DevicePluginOptions(**value)
        elif key in inner:
            values[ours] = tuple(_built(inner[key], each) for each in value)
        else:
            values[ours] = value
    return MESSAGES[message](**values)
