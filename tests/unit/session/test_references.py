"""The dry run: a session that is accepted has no reference that leads nowhere."""

from __future__ import annotations

import pytest

from tests.unit.session.documents import M, load, refused, said, service

SECRETS = (
    "secrets:\n  - {name: ASCII, kind: ascii}\n  - {name: BINARY, kind: binary}\n"
    "  - {name: KEY, kind: private-key}\n  - {name: CERT, kind: x509, private_key: KEY}\n"
)


@pytest.mark.parametrize(
    "reference",
    [
        "ASCII", "BINARY", "BINARY:bin", "BINARY:hex", "BINARY.hex", "BINARY:base64",
        "BINARY:base64url", "BINARY:base32", "BINARY:base32nopad", "KEY", "KEY:pem",
        "KEY:pkcs8:pem", "KEY:der", "KEY:pkcs8:der", "CERT", "CERT:crt", "CERT:crt:pem",
        "CERT:crt:der", "CERT:privatekey", "CERT:privatekey:pem", "CERT:privatekey:pkcs8:pem",
        "CERT:privatekey:der", "CERT:privatekey:pkcs8:der", "CERT:chain", "CERT.crt", "CERT.key",
        "CERT.chain",
    ],
)  # fmt: skip
def test_forms_that_kinds_offer(reference: str) -> None:
    load(service(f"environment: {{A: '$$SCONE::{reference}$$'}}") + SECRETS)


@pytest.mark.parametrize(
    "reference",
    [
        "ASCII:hex", "ASCII.crt", "BINARY.key", "BINARY:HEX", "KEY.key", "KEY:crt", "CERT:pem",
        "CERT:hex", "CERT.hex", "CERT:privatekey:pkcs1", "CERT:chain:pem",
    ],
)  # fmt: skip
def test_forms_that_kinds_do_not_offer(reference: str) -> None:
    line = said(service(f"environment: {{A: '$$SCONE::{reference}$$'}}") + SECRETS)
    assert f"$$SCONE::{reference}$$" in line
    assert "do not offer" in line


def test_a_mistyped_name_gets_a_suggestion() -> None:
    line = said(service("environment: {A: $$SCONE::BINARI:hex$$}") + SECRETS)
    assert line == (
        "line 7: services[0].environment.A: $$SCONE::BINARI:hex$$ names no secret of this session; "
        'did you mean "BINARY"?'
    )


def test_references_in_the_command_are_checked() -> None:
    head = f"name: a\ncommand: [run, $$SCONE::NOTHING$$]\nmrenclaves: [{M}]"
    assert "services[0].command[1]: $$SCONE::NOTHING$$ names no secret" in said(service(head=head))


def test_the_line_of_a_reference_in_a_block_is_its_own() -> None:
    text = 'name: s\nversion: "0.3"\nimages:\n  - name: i\n    injection_files:\n'
    text += "      - path: /a\n        content: |\n          one\n          $$SCONE::X$$\n"
    text += "          three\n          $$SCONE::Y\n"
    assert [p.line for p in refused(text)] == [11]
    assert [p.line for p in refused(text.replace("::Y", "::Y$$"))] == [9, 11]


def test_the_key_of_a_certificate_of_0_2_is_there() -> None:
    text = service("environment: {A: $$SCONE::C.key$$}", version="0.2")
    load(text + "secrets: [{name: C, kind: x509}]\n")


def test_a_reference_to_a_kind_that_is_refused_adds_no_second_problem() -> None:
    text = service("environment: {A: $$SCONE::C.crt$$}")
    assert len(refused(text + "secrets: [{name: C, kind: x509-ca}]\n")) == 1
