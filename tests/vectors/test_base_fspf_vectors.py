"""Every vector of vectors/base_fspf against the code, and against its own generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vectors.base_fspf import generate
from vectors.fspf.generate import text

from crannog.errors import Error
from crannog.shield.fspf import open_plain
from crannog.shield.layers import Layers, layer

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


def opened(vector: dict[str, Any]) -> Layers:
    session = vector.get("session")
    return layer(
        open_plain(bytes.fromhex(vector["base"])),
        None if session is None else open_plain(bytes.fromhex(session)),
    )


def test_generating_again_gives_the_same_files() -> None:
    made = {name: text(vector) for name, vector in generate.vectors().items()}
    kept = {name: (DIRECTORY / f"{name}.json").read_text() for name in NAMES}
    assert made == kept


@pytest.mark.parametrize("name", NAMES)
def test_opens_or_is_refused_for_its_class(name: str) -> None:
    vector = json.loads((DIRECTORY / f"{name}.json").read_text())
    if vector["expect"] != "success":
        with pytest.raises(Error) as caught:
            opened(vector)
        assert caught.value.code == vector["expect"]
        return
    layers = opened(vector)
    assert {path: said(layers, bytes.fromhex(path)) for path in vector["paths"]} == vector["paths"]


def said(layers: Layers, path: bytes) -> str:
    if not layers.is_guarded(path):
        return "other"
    entry = layers.lookup(path)
    return "base absent" if entry is None else f"base {entry.kind.name.lower()}"
