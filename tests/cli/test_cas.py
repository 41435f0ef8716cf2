"""`crannog cas …` against a running CAS."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from cryptography import x509

from crannog.cli.cas_client import client_address
from crannog.cli.config import CliConfig, KnownCas, save_config
from crannog.testing.platform import DevelopmentPlatform
from crannog.transport.http_client import HttpClient
from crannog.transport.tls import Identity, fresh_identity
from tests.api.helpers import false_cas
from tests.cli.conftest import Commands

WRONG = "3s1pm8W6Be6cPpe9y6vBZqTpEUC4Ky2n8XwZAx5Xg3Hs7q3KHx"


def test_attest_says_what_the_reference_says(stranger: Commands) -> None:
    platform = stranger.platform
    result = stranger("cas", "attest", platform.cas_client, "-c", platform.cas_key_hash)
    address = platform.cas_client
    assert result.status == 0
    assert result.stdout == f"CAS {address} at https://{address}/ is trustworthy\n"
    assert "simulation" in result.stderr


def test_attest_without_anything_to_know_the_cas_by_is_refused(stranger: Commands) -> None:
    result = stranger("cas", "attest", stranger.platform.cas_client)
    assert result.status == 78
    assert result.stdout == ""
    assert result.stderr.startswith("Error: Error during attestation of CAS\nCaused by: ")
    assert stranger.platform.cas_key_hash in result.stderr
    assert "Hint: -c KEYHASH" in result.stderr


def test_attest_of_a_cas_with_another_key_is_refused(stranger: Commands) -> None:
    result = stranger("cas", "attest", stranger.platform.cas_client, "-c", WRONG)
    assert result.status == 78
    assert stranger.platform.cas_key_hash in result.stderr
    assert WRONG in result.stderr
    assert stranger.ok("cas", "list") == ""


@pytest.mark.parametrize("command", ["attest", "show-certificate"])
def test_who_shows_the_certificate_of_another_cas_is_not_taken_for_it(
    stranger: Commands, command: str
) -> None:
    # Certificates are public: the false CAS shows an authority of its own, then the genuine root.
    platform = stranger.platform
    root = HttpClient(client_address(platform.cas_client)).server_chain()[-1]
    shown = (*fresh_identity().chain, x509.load_der_x509_certificate(root))
    own = fresh_identity()
    with false_cas(Identity(own.key, (*own.chain, *shown))) as (address, heard):
        if command == "attest":
            result = stranger("cas", "attest", str(address), "-c", platform.cas_key_hash)
        else:
            known = (KnownCas(str(address), platform.cas_key_hash, "simulation"),)
            save_config(CliConfig(stranger.home / ".cas" / "config.json", known=known))
            result = stranger("cas", "show-certificate", str(address))
    assert result.status == 78
    assert "not the pinned one" in result.stderr
    assert result.stdout == ""
    assert b"".join(heard) == b""
    if command == "attest":
        assert stranger.ok("cas", "list") == ""


def test_trusting_any_key_is_said(stranger: Commands) -> None:
    result = stranger("cas", "attest", stranger.platform.cas_client, "--only_for_testing-trust-any")
    assert result.status == 0
    assert "ANY key was accepted" in result.stderr


def test_the_default_is_marked(crannog: Commands) -> None:
    address = crannog.platform.cas_client
    assert crannog.ok("cas", "list") == f"* {address}: https://{address}/\n"
    (entry,) = json.loads(crannog.ok("cas", "list", "--json"))
    assert entry["default"] is True
    assert entry["level"] == "simulation"


def test_an_unknown_cas_is_no_default(crannog: Commands) -> None:
    result = crannog("cas", "set-default", "nobody.example")
    assert result.status == 1
    assert "nobody.example" in result.stderr


def test_the_certificates_are_instance_and_root(crannog: Commands) -> None:
    pem = crannog.ok("cas", "show-certificate")
    names = []
    for block in pem.split("-----END CERTIFICATE-----\n")[:-1]:
        shown = subprocess.run(
            ["openssl", "x509", "-noout", "-subject", "-issuer"],
            input=block + "-----END CERTIFICATE-----\n",
            capture_output=True,
            text=True,
            check=True,
        )
        names.append(shown.stdout.replace(" ", ""))
    assert names == ["subject=CN=cas-instance\nissuer=CN=cas\n", "subject=CN=cas\nissuer=CN=cas\n"]


def test_version(crannog: Commands) -> None:
    assert "version" in json.loads(crannog.ok("cas", "version", "--json"))


def test_an_address_where_nobody_listens(stranger: Commands) -> None:
    result = stranger("cas", "attest", "127.0.0.1:1", "-c", WRONG)
    assert result.status == 75
    assert "127.0.0.1:1" in result.stderr


def test_the_audit_log_verifies_while_the_cas_runs(crannog: Commands) -> None:
    state = str(crannog.platform.directory / "state" / "cas")
    head = crannog.ok("cas", "verify-audit-log", "--state-directory", state).strip()
    crannog.ok("session", "create", "-", stdin="name: audited\n")
    found = json.loads(
        crannog.ok(
            "cas", "verify-audit-log", "--state-directory", state, "--expect-head", head, "--json"
        )
    )
    assert found["findings"] == []
    assert found["head"] != head


def test_a_head_of_another_history_is_found_out(crannog: Commands) -> None:
    state = str(crannog.platform.directory / "state" / "cas")
    result = crannog(
        *("cas", "verify-audit-log", "--state-directory", state),
        *("--expect-head", "1:" + "00" * 32),
    )
    assert result.status in range(14, 21)
    assert result.stdout == ""


def test_a_second_cas_on_the_same_state_is_refused(crannog: Commands) -> None:
    state = str(crannog.platform.directory / "state" / "cas")
    result = crannog(
        *("cas", "serve", "--state-directory", state),
        *("--client-listen", "127.0.0.1:0", "--enclave-listen", "127.0.0.1:0"),
    )
    assert result.status != 0
    assert str(crannog.platform.pid) in result.stderr


def test_a_new_database_asks_for_its_minimum_level(stranger: Commands) -> None:
    result = stranger(
        *("cas", "serve", "--state-directory", str(stranger.home / "new")),
        *("--client-listen", "127.0.0.1:0", "--enclave-listen", "127.0.0.1:0"),
    )
    assert result.status == 78
    assert "minimum" in result.stderr
    assert not (stranger.home / "new" / "cas.db").exists()


def test_the_minimum_level_of_a_running_cas_stays(crannog: Commands) -> None:
    state = str(crannog.platform.directory / "state" / "cas")
    result = crannog("cas", "set-minimum-level", "node", "--state-directory", state)
    assert result.status != 0
    assert str(crannog.platform.pid) in result.stderr


def test_the_minimum_level_is_changed_on_the_record(tmp_path: Path) -> None:
    with DevelopmentPlatform(tmp_path) as platform:
        pass
    commands = Commands(platform, tmp_path)
    state = str(tmp_path / "state" / "cas")
    head = commands.ok("cas", "set-minimum-level", "hardware", "--state-directory", state).strip()
    audit = ("cas", "verify-audit-log", "--state-directory", state)
    log = commands.ok(*audit, "--expect-head", head, "--export")
    assert '"hardware"' in log
    refused = commands("up", "--state-directory", str(tmp_path / "state"))
    assert refused.status == 78
    assert "hardware" in refused.stderr
    weakened = commands("cas", "set-minimum-level", "simulation", "--state-directory", state)
    assert "weakened from hardware to simulation" in weakened.stderr
    commands.ok(*audit, "--expect-head", head)
