"""`crannog session …` against a running CAS."""

from __future__ import annotations

import json
import re
import uuid

import pytest

from tests.cli.conftest import Commands

HASH = re.compile(r"[0-9a-f]{64}\n")


@pytest.fixture
def name() -> str:
    return f"session-{uuid.uuid4()}"


def _session(name: str, greeting: str = "hello") -> str:
    return f"""\
name: {name}
version: "0.2"
services:
  - name: application
    mrenclaves: [{"ab" * 32}]
    command: python3 /app/server.py
    environment: {{GREETING: {greeting}}}
"""


def test_create_prints_the_hash_only(crannog: Commands, name: str) -> None:
    assert HASH.fullmatch(crannog.ok("session", "create", "-", stdin=_session(name)))


def test_the_same_name_again_is_refused_in_the_references_words(
    crannog: Commands, name: str
) -> None:
    crannog.ok("session", "create", "-", stdin=_session(name))
    result = crannog("session", "create", "-", stdin=_session(name))
    assert result.status == 1
    assert result.stdout == ""
    assert result.stderr.splitlines()[:3] == [
        "Error: Creating session failed",
        (
            f"Caused by: CAS at 'https://{crannog.platform.cas_client}/' returned HTTP error status"
            " code 400 Bad Request"
        ),
        "Caused by: Session already exists, please specify predecessor hash",
    ]
    assert "Hint: " in result.stderr


def test_update_fills_in_the_predecessor(crannog: Commands, name: str) -> None:
    first = crannog.ok("session", "create", "-", stdin=_session(name))
    second = crannog.ok("session", "update", "-", stdin=_session(name, "hi"))
    assert first != second
    text = crannog.ok("session", "read", name)
    assert f"predecessor: {first.strip()}" in text.replace('"', "").replace("'", "")
    assert "GREETING: hi" in text
    old = crannog.ok("session", "read", name, "--hash", first.strip())
    assert "GREETING: hello" in old


def test_updating_what_does_not_exist_is_refused(crannog: Commands, name: str) -> None:
    result = crannog("session", "update", "-", stdin=_session(name))
    assert result.status == 1
    assert "Session not found" in result.stderr


def test_a_stale_predecessor_is_refused(crannog: Commands, name: str) -> None:
    first = crannog.ok("session", "create", "-", stdin=_session(name)).strip()
    crannog.ok("session", "update", "-", stdin=_session(name, "second"))
    stale = _session(name, "third") + f"predecessor: {first}\n"
    result = crannog("session", "create", "-", stdin=stale)
    assert result.status == 1
    assert "409 Conflict" in result.stderr


def test_what_is_read_back_has_the_same_hash(crannog: Commands, name: str) -> None:
    digest = crannog.ok("session", "create", "-", stdin=_session(name))
    text = crannog.ok("session", "read", name)
    assert crannog.ok("session", "verify", "-", stdin=text) == digest
    assert (
        crannog.ok("session", "verify", "-", "-c", crannog.platform.cas_client, stdin=text)
        == digest
    )


def test_a_changed_text_does_not_verify(crannog: Commands, name: str) -> None:
    crannog.ok("session", "create", "-", stdin=_session(name))
    text = crannog.ok("session", "read", name).replace("hello", "hallo")
    result = crannog("session", "verify", "-", "-c", crannog.platform.cas_client, stdin=text)
    assert result.status == 1
    assert result.stdout == ""


def test_the_hash_is_known_beforehand(crannog: Commands, name: str) -> None:
    expected = crannog.ok(
        "session", "calculate-hash", "-", "--with-self-as-creator", "tls", stdin=_session(name)
    )
    assert crannog.ok("session", "create", "-", stdin=_session(name)) == expected


def test_variables_come_from_e_before_the_environment(crannog: Commands, name: str) -> None:
    template = _session(name, "$WHO")
    result = crannog(
        *("session", "check", "-", "-e", "WHO=option", "--use-env"),
        stdin=template,
        more={"WHO": "environment"},
    )
    assert "GREETING: option" in result.stdout
    result = crannog(
        "session", "check", "-", "--use-env", stdin=template, more={"WHO": "environment"}
    )
    assert "GREETING: environment" in result.stdout


def test_a_missing_variable_is_named_with_its_place(crannog: Commands) -> None:
    result = crannog("session", "check", "-", stdin='version: "0.3"\nname: $SESSION\n')
    assert result.status != 0
    assert "Value for variable $SESSION is missing at line 2 column 7" in result.stderr


def test_check_prints_every_problem(crannog: Commands) -> None:
    text = """\
name: checked
version: "0.2"
servces: []
services:
  - name: application
    mrenclaves: [xyz]
    command: a
"""
    result = crannog("session", "check", "-", stdin=text)
    assert result.status != 0
    assert result.stdout == ""
    assert "servces" in result.stderr
    assert "services" in result.stderr
    assert "mrenclaves[0]" in result.stderr


def test_check_as_json(crannog: Commands, name: str) -> None:
    found = json.loads(crannog.ok("session", "check", "-", "--json", stdin=_session(name)))
    assert found["name"] == name
    assert HASH.fullmatch(found["hash"] + "\n")
    assert crannog.ok("session", "verify", "-", stdin=found["session"]) == found["hash"] + "\n"


def test_another_name_than_the_files(crannog: Commands, name: str) -> None:
    text = crannog.ok("session", "check", "-", "-n", f"{name}-x", stdin=_session(name))
    assert f"name: {name}-x" in text


def test_a_stranger_may_not_read(crannog: Commands, name: str) -> None:
    crannog.ok("session", "create", "-", stdin=_session(name))
    other = crannog.home / "other.json"
    crannog.ok(
        *("--config", str(other), "cas", "attest", crannog.platform.cas_client),
        *("-c", crannog.platform.cas_key_hash),
    )
    result = crannog("--config", str(other), "session", "read", name)
    assert result.status != 0
    assert "hello" not in result.stdout + result.stderr


def test_an_unattested_cas_gets_nothing(stranger: Commands, name: str) -> None:
    result = stranger("session", "create", "-", stdin=_session(name))
    assert result.status == 1
    assert "no CAS was attested" in result.stderr
    result = stranger(
        "session", "create", "-", "-c", stranger.platform.cas_client, stdin=_session(name)
    )
    assert result.status == 1
    assert "was not attested" in result.stderr


def test_an_unattested_cas_on_demand_for_testing(stranger: Commands, name: str) -> None:
    result = stranger(
        *("session", "create", "-", "-c", stranger.platform.cas_client),
        "--only_for_testing-disable-attestation-verification",
        stdin=_session(name),
    )
    assert result.status == 0
    assert "may be anybody" in result.stderr


def test_no_file(crannog: Commands) -> None:
    result = crannog("session", "check", "missing.yaml")
    assert result.status == 1
    assert "there is no file missing.yaml" in result.stderr
