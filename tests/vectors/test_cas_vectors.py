"""Every vector of vectors/cas against the code, and against its own generator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from vectors.cas import generate

from crannog.cas.store.accepted import Accepted, stored_entry
from crannog.cas.store.records import (
    Version,
    audit_mac,
    authority_digest,
    first_state,
    parse_head,
)
from crannog.cas.store.sealing import GENESIS, derive_keys, unseal
from crannog.errors import Error
from crannog.levels import parse_level

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return value


def of_kind(kind: str) -> list[str]:
    return [name for name in NAMES if load(name)["kind"] == kind]


def test_generating_again_gives_the_same_files() -> None:
    made = {name: generate.text(vector) for name, vector in generate.vectors().items()}
    assert made == {name: (DIRECTORY / f"{name}.json").read_text() for name in NAMES}


@pytest.mark.parametrize("name", of_kind("sealed"))
def test_opens_or_is_refused_for_its_class(name: str) -> None:
    vector = load(name)
    keys = derive_keys(bytes.fromhex(vector["master"]), bytes.fromhex(vector["database"]))
    row = tuple(bytes.fromhex(part) for part in vector["row"])
    sealed = bytes.fromhex(vector["sealed"])
    if vector["expect"] == "success":
        assert unseal(keys, row, sealed).hex() == vector["plain"]
        return
    with pytest.raises(Error) as caught:
        unseal(keys, row, sealed)
    assert caught.value.code == vector["expect"]


@pytest.mark.parametrize("name", of_kind("keys"))
def test_the_derived_keys(name: str) -> None:
    vector = load(name)
    keys = derive_keys(bytes.fromhex(vector["master"]), bytes.fromhex(vector["database"]))
    found = {
        "seal": keys.seal,
        "version chain": keys.versions,
        "audit chain": keys.audit,
        "state": keys.state,
        "operator": keys.operator,
        "key check": keys.check,
    }
    assert {use: key.hex() for use, key in found.items()} == vector["keys"]


@pytest.mark.parametrize("name", of_kind("chains"))
def test_the_chains_and_what_binds_them(name: str) -> None:
    vector = load(name)
    keys = derive_keys(bytes.fromhex(vector["master"]), bytes.fromhex(vector["database"]))
    previous = GENESIS
    for row in vector["versions"]:
        digests = {field: bytes.fromhex(row[field]) for field in ("document", "secrets", "mac")}
        version = Version(**{**row, **digests})
        assert version.expected_mac(keys, previous) == version.mac
        previous = version.mac
    head = GENESIS
    for row in vector["records"]:
        head = audit_mac(keys, head, row["sequence"], row["record"].encode())
        assert head.hex() == row["mac"]
    bound = authority_digest(
        (one[0], bytes.fromhex(one[1]), bytes.fromhex(one[2])) for one in vector["authority"]
    )
    state = first_state(parse_level(vector["level"]), bound)._replace(
        versions=len(vector["versions"]),
        versions_mac=previous,
        audit=len(vector["records"]),
        audit_mac=head,
    )
    assert state.expected_mac(keys).hex() == vector["state"]
    assert state.head == parse_head(vector["head"])
    entries = tuple(stored_entry(*row) for row in reversed(vector["accepted"]))
    trusting = state._replace(accepted=Accepted(entries))
    assert trusting.expected_mac(keys).hex() == vector["state_with_accepted"]
