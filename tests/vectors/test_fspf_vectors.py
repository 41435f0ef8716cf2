"""Every vector of vectors/fspf against the code, and against its own generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vectors.fspf import generate

from crannog.errors import Error
from crannog.shield.chunks import read_file
from crannog.shield.fspf import open_fspf, open_plain, plain_tag, seal
from crannog.shield.fspf import open_index as open_sealed_index
from crannog.shield.index import build_index
from crannog.shield.model import FileEntry

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return value


def sealed(vector: dict[str, Any]) -> tuple[bytes, bytes, bytes]:
    return tuple(bytes.fromhex(vector[field]) for field in ("fspf", "key", "tag"))  # type: ignore[return-value]


def test_generating_again_gives_the_same_files() -> None:
    made = {name: generate.text(vector) for name, vector in generate.vectors().items()}
    kept = {name: (DIRECTORY / f"{name}.json").read_text() for name in NAMES}
    assert made == kept


@pytest.mark.parametrize("name", NAMES)
def test_opens_or_is_refused_for_its_class(name: str) -> None:
    vector = load(name)
    if vector["expect"] == "plain":
        data = bytes.fromhex(vector["fspf"])
        open_plain(data)
        assert plain_tag(data).hex() == vector["tag"]
        return
    data, key, tag = sealed(vector)
    if vector["expect"] == "success":
        open_fspf(data, key=key, tag=tag)
        return
    with pytest.raises(Error) as caught:
        open_fspf(data, key=key, tag=tag)
    assert caught.value.code == vector["expect"]


@pytest.mark.parametrize("name", [name for name in NAMES if "disk" in load(name)])
def test_file_is_read_or_refused_for_its_class(name: str) -> None:
    vector = load(name)
    data, key, tag = sealed(vector)
    entry = open_fspf(data, key=key, tag=tag).lookup(bytes.fromhex(vector["path"]))
    assert isinstance(entry, FileEntry)
    disk = bytes.fromhex(vector["disk"])
    if vector["file_expect"] == "success":
        assert read_file(entry, disk).hex() == vector["plaintext"]
        return
    with pytest.raises(Error) as caught:
        read_file(entry, disk)
    assert caught.value.code == vector["file_expect"]


@pytest.mark.parametrize(
    "name", [name for name in NAMES if load(name)["expect"] == "success" and name != "plain-tag"]
)
def test_writing_it_again_gives_the_same_bytes(name: str) -> None:
    data, key, tag = sealed(load(name))
    index = open_sealed_index(data, key=key, tag=tag)
    again = build_index(index.regions, dict(index.items()))
    assert seal(again, key=key, random=lambda length: generate.NONCE) == data or name.startswith(
        "same-gcm-tag"
    )
    assert again.body == index.body
