from __future__ import annotations

import os

import pytest

from crannog.cas.configure import DEFAULT_ENVIRONMENT, configure
from crannog.cas.requirements import requirements
from crannog.cas.secrets import generate
from crannog.cas.values import Values
from crannog.errors import Error, TooLarge, Unsupported
from crannog.exchange.configuration import (
    Configuration,
    configuration_message,
    parse_configuration,
)
from crannog.levels import Level
from crannog.pki.authority import create_authority
from crannog.session.load import load_session
from crannog.session.template import SubstitutionFailed
from crannog.wire import encode_json, parse_object
from tests.unit.cas.support import MRENCLAVE, NOW, OTHER, session

AUTHORITY = create_authority(now=NOW, random=os.urandom)


def configured(document: bytes) -> Configuration:
    loaded = load_session(document).session
    bundle = generate(loaded, None, AUTHORITY, now=NOW, random=os.urandom)
    return configure(
        loaded,
        loaded.services[0],
        Values(loaded, bundle, AUTHORITY, now=NOW, random=os.urandom),
        session_hash="0" * 64,
        level=Level.SIMULATION,
        mrenclave=bytes(32),
    )


def test_the_tutorials_environment_and_nothing_of_the_host() -> None:
    os.environ["CRANNOG_TEST_OF_THE_HOST"] = "host"
    found = configured(session(environment="GREETING: hello from SCONE!!!"))
    del os.environ["CRANNOG_TEST_OF_THE_HOST"]
    assert found.argv == ("python3", "/app/server.py")
    assert dict(found.environment) == {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/",
        "GREETING": "hello from SCONE!!!",
    }
    assert found.pwd == "/"
    assert found.files == ()
    assert found.fspf is None


def test_the_session_overrides_the_fixed_path() -> None:
    found = configured(session(environment="PATH: /only"))
    assert dict(found.environment) == {**dict(DEFAULT_ENVIRONMENT), "PATH": "/only"}


def test_secrets_are_substituted_in_arguments_environment_and_files() -> None:
    found = configured(
        f"""
name: s
version: "0.3"
services:
  - name: application
    image_name: image
    mrenclaves: [{MRENCLAVE}]
    command: [run, "--key=$$SCONE::A$$"]
    environment: {{V: "<$$SCONE::A$$>"}}
    fspf_path: /fspf.pb
    fspf_key: {"11" * 32}
    fspf_tag: {"22" * 16}
images:
  - name: image
    injection_files:
      - path: /a
        content: "x $$SCONE::B$$ y"
        permission: 0o640
      - {{path: /b, content: plain}}
secrets:
  - {{name: A, kind: ascii, value: secret}}
  - {{name: B, kind: binary, value: 00ff}}
""".encode()
    )
    assert found.argv == ("run", "--key=secret")
    assert dict(found.environment)["V"] == "<secret>"
    assert [(file.path, file.content, file.mode) for file in found.files] == [
        ("/a", b"x \0\xff y", 0o640),
        ("/b", b"plain", 0o700),
    ]
    assert found.fspf is not None
    assert (found.fspf.path, found.fspf.key, found.fspf.tag) == (
        "/fspf.pb",
        b"\x11" * 32,
        b"\x22" * 16,
    )
    message = parse_object(encode_json(configuration_message(found)), limit=1 << 20)
    assert parse_configuration(message) == found


def test_a_value_is_not_looked_at_again() -> None:
    found = configured(
        session(
            environment="V: $$SCONE::B$$",
            secrets=f"  - {{name: B, kind: binary, value: {b'$$SCONE::B$$'.hex()}}}",
        )
    )
    assert dict(found.environment)["V"] == "$$SCONE::B$$"


@pytest.mark.parametrize("value", ["ff", "00"])
def test_what_no_variable_can_hold_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(SubstitutionFailed, match="Environment variable 'V' contains"):
        configured(
            session(
                environment="V: $$SCONE::B$$",
                secrets=f"  - {{name: B, kind: binary, value: {value}}}",
            )
        )


def test_a_variable_that_linux_does_not_take_is_refused() -> None:
    secrets = f"  - {{name: A, kind: ascii, value: {'a' * 70_000}}}"
    with pytest.raises(TooLarge, match="more than 131071 bytes"):
        configured(session(environment='V: "$$SCONE::A$$$$SCONE::A$$"', secrets=secrets))


def test_many_references_to_a_large_secret_are_bounded_together() -> None:
    variables = "\n      ".join(f"V{n}: $$SCONE::A$$" for n in range(300))
    secrets = "  - {name: A, kind: ascii, size: 65536}"
    with pytest.raises(TooLarge, match="SCONE value replacement gives more than 16777216 bytes"):
        configured(session(environment=variables, secrets=secrets))


def test_a_template_on_the_programs_disk_is_not_supported_yet() -> None:
    document = f"""
name: s
version: "0.3"
services: [{{name: a, image_name: i, mrenclaves: [{MRENCLAVE}], command: a}}]
images: [{{name: i, injection_files: [/template]}}]
""".encode()
    with pytest.raises(Error) as caught:
        configured(document)
    assert isinstance(caught.value, Unsupported) or caught.value.code == "session-invalid"


# --- requirements ---------------------------------------------------------------------------------


def test_any_of_the_sessions_measurements_is_required() -> None:
    loaded = load_session(session(mrenclave=f"{MRENCLAVE}, {OTHER}")).session
    found = requirements(
        loaded, loaded.services[0], minimum=Level.SIMULATION, launchers=frozenset({b"l" * 32})
    )
    assert found.mrenclaves == (bytes.fromhex(MRENCLAVE), bytes.fromhex(OTHER))
    assert found.launchers == frozenset({b"l" * 32})


@pytest.mark.parametrize(
    ("mode", "minimum", "expected"),
    [
        ("", Level.SIMULATION, Level.SIMULATION),
        ("", Level.HARDWARE, Level.HARDWARE),
        ("security: {minimum_level: node}", Level.SIMULATION, Level.NODE),
        ("security: {minimum_level: simulation}", Level.NODE, Level.NODE),
        ("security: {attestation: {mode: hardware}}", Level.SIMULATION, Level.HARDWARE),
    ],
)
def test_the_stricter_level_holds(mode: str, minimum: Level, expected: Level) -> None:
    loaded = load_session(session(more=mode)).session
    found = requirements(loaded, loaded.services[0], minimum=minimum, launchers=None)
    assert found.minimum_level is expected
    assert found.launchers is None
