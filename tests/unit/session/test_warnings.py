"""What an author is told about a session that is accepted all the same."""

from __future__ import annotations

from crannog.session.canonical import render
from crannog.session.load import load_session
from tests.unit.session.documents import M, load, service, warned

SECRET = "secrets: [{name: A, kind: ascii}]\n"


def test_a_secret_in_the_command() -> None:
    head = f"name: a\ncommand: run --key=$$SCONE::A$$\nmrenclaves: [{M}]"
    (line,) = warned(service(head=head) + SECRET)
    assert line.startswith("line 5: services[0].command: a secret in the command is visible")


def test_a_secret_in_the_command_is_said_once_for_one_text() -> None:
    head = f"name: a\ncommand: run $$SCONE::A$$ $$SCONE::A$$\nmrenclaves: [{M}]"
    assert len(warned(service(head=head) + SECRET)) == 1


def test_an_interpreter_with_secrets_and_no_fspf() -> None:
    head = f"name: a\ncommand: /usr/bin/python3.11 a.py\nmrenclaves: [{M}]"
    (line,) = warned(service("environment: {A: $$SCONE::A$$}", head=head) + SECRET)
    assert '"/usr/bin/python3.11" is an interpreter' in line


def test_an_interpreter_whose_image_gets_secrets() -> None:
    head = f"name: a\ncommand: [node, a.js]\nimage_name: i\nmrenclaves: [{M}]"
    images = "images: [{name: i, injection_files: [{path: /a, content: $$SCONE::A$$}]}]\n"
    (line,) = warned(service(head=head) + images + SECRET)
    assert '"node" is an interpreter' in line


def test_an_interpreter_without_secrets_is_not_worth_a_word() -> None:
    head = f"name: a\ncommand: python3 a.py\nmrenclaves: [{M}]"
    assert warned(service("environment: {A: b}", head=head) + SECRET) == []


def test_an_interpreter_with_an_fspf_is_not_worth_a_word() -> None:
    head = f"name: a\ncommand: python3 a.py\nmrenclaves: [{M}]"
    fspf = f"fspf_path: /f\nfspf_key: {M}\nfspf_tag: {M[:32]}\nenvironment: {{A: $$SCONE::A$$}}"
    assert warned(service(fspf, head=head) + SECRET) == []


def test_another_services_secrets_do_not_count() -> None:
    text = f'name: s\nversion: "0.3"\n{SECRET}services:\n'
    text += f"  - {{name: a, command: python3, mrenclaves: [{M}]}}\n"
    text += f"  - {{name: b, command: x, mrenclaves: [{M}], environment: {{A: $$SCONE::A$$}}}}\n"
    assert warned(text) == []


def test_variables_of_the_launcher_are_passed_on_with_a_warning() -> None:
    text = service("environment: {SCONE_HEAP: 1G}")
    (line,) = warned(text)
    assert "environment.SCONE_HEAP" in line
    assert load(text).services[0].environment == (("SCONE_HEAP", "1G"),)


def test_dollars_that_a_shell_replaced() -> None:
    """An unquoted here-document makes the shell's process id of `$$`."""
    (line,) = warned(service("environment: {A: 4711SCONE::CERT.crt4711}"))
    assert "a shell has put its process id there" in line


def test_backslashes_that_a_quoted_here_document_kept() -> None:
    (line,) = warned(service(r"environment: {A: \$\$SCONE::CERT.crt\$\$}"))
    assert "with its backslashes" in line


def test_quotes_in_0_2() -> None:
    head = f"name: a\ncommand: sh -c 'a b'\nmrenclaves: [{M}]"
    text = service(version="0.2", head=head)
    assert load(text).services[0].command == ("sh", "-c", "'a", "b'")
    assert any("quotes are ordinary characters" in line for line in warned(text))


def test_update_by_anybody() -> None:
    text = 'name: s\nversion: "0.3"\naccess_policy: {update: [ANY]}\n'
    assert any("lets everybody" in line for line in warned(text))


def test_the_same_measurement_twice() -> None:
    head = f"name: a\ncommand: b\nmrenclaves: [{M}, {M}]"
    assert any("stands twice" in line for line in warned(service(head=head)))
    session = load(service(head=head))
    assert load_session(render(session).encode()).session == session


def test_an_image_that_no_service_names() -> None:
    text = service() + "images: [{name: i}]\n"
    assert any('no service names image "i"' in line for line in warned(text))


def test_a_null_in_the_environment_is_a_text() -> None:
    text = service("environment: {A: null}")
    assert load(text).services[0].environment == (("A", "null"),)
    assert any("the value is the text null" in line for line in warned(text))
