"""The record's environment is read as the launcher reads it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import Denied, Misconfigured
from crannog.evidence.subject import Pins
from crannog.las.told import told
from crannog.las.witness import Told
from crannog.runtime.attest import cas_address
from crannog.runtime.settings import read_settings

HASH = "0A" * 32


def test_what_is_told() -> None:
    found = told(
        (
            "PATH=/bin",
            "SCONE_CONFIG_ID=ns~s/app@secret",
            "SCONE_CAS_ADDR=cas.example",
            "CRANNOG_CAS_KEY=key",
            f"CRANNOG_SESSION_HASH={HASH}",
        )
    )
    assert found == Told("ns~s/app", "cas.example:18765", Pins("key", HASH.lower()))


def test_nothing_is_told() -> None:
    assert told(()) == Told("", "cas:18765", Pins("", ""))


@pytest.mark.parametrize(
    "name", ["SCONE_CONFIG_ID", "SCONE_CAS_ADDR", "CRANNOG_CAS_KEY", "CRANNOG_SESSION_HASH"]
)
def test_a_variable_that_is_there_twice(name: str) -> None:
    with pytest.raises(Denied, match=f"{name} twice"):
        told((f"{name}=a", f"{name}=a"))


def test_an_address_that_is_none() -> None:
    with pytest.raises(Denied, match="SCONE_CAS_ADDR"):
        told(("SCONE_CAS_ADDR=a b",))


_part = st.text(st.sampled_from("ab1~/@.-: "), min_size=1, max_size=12)


@given(_part, _part)
def test_the_launcher_reads_the_same(config_id: str, cas: str) -> None:
    environment = {"SCONE_CONFIG_ID": config_id, "SCONE_CAS_ADDR": cas}
    try:
        settings = read_settings(environment)
        address = cas_address(settings)
    except Misconfigured:
        return
    assert settings.config_id is not None
    found = told(tuple(f"{name}={value}" for name, value in environment.items()))
    assert found.config_id == settings.config_id.public
    assert found.cas == str(address)
