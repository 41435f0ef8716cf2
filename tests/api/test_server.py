"""How a CAS starts, or says why it does not."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from crannog.errors import Error
from tests.api.helpers import running

_PR_GET_DUMPABLE = 3


def test_a_state_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Error, match="state directory"), running(tmp_path / "file" / "state"):
        raise AssertionError("started")


def test_a_second_cas_on_one_database_is_refused(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cas:
        with pytest.raises(Error), running(tmp_path / "state"):
            raise AssertionError("started")
        assert cas.call("GET", "/v1/health")[0] == 200


def test_a_cas_leaves_no_core_dump_and_cannot_be_traced(tmp_path: Path) -> None:
    with running(tmp_path / "state"):
        assert ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0) == 0


def test_a_port_that_is_taken_is_named_and_nothing_is_left_open(tmp_path: Path) -> None:
    with running(tmp_path / "one") as cas:
        taken = cas.server.enclave_address
        with (
            pytest.raises(Error, match="address already in use"),
            running(tmp_path / "two", enclave_listen=taken),
        ):
            raise AssertionError("started")
        # The store of the second was not locked by the attempt.
        with running(tmp_path / "two") as other:
            assert other.call("GET", "/v1/health")[0] == 200


def test_the_lines_that_a_cas_prints_at_its_start(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cas:
        text = cas.logged.text
    for line in (
        f"CAS client API is listening on {cas.api}",
        f"CAS enclave API is listening on {cas.enclave}",
        f"CAS server key has SHA-256 {cas.server.key_sha256}",
        "CAS minimum trust level is simulation",
        "WARNING CAS accepts simulated evidence",
        "CAS has stopped",
    ):
        assert line in cas.logged.text
    assert "-----BEGIN" not in text
