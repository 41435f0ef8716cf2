"""What a document becomes, and how it is refused: all at once, with place and advice."""

from __future__ import annotations

import pytest

from crannog.errors import Unsupported, chain
from crannog.levels import Level
from crannog.session import tree
from crannog.session.canonical import render
from crannog.session.document import Keyword, Language, Migrate, SecretKind
from crannog.session.load import load_session, load_stored
from crannog.session.problems import MAX_PROBLEMS, SessionInvalid
from tests.unit.session.documents import M, load, refused, said, service


def test_all_problems_of_a_document_come_at_once_in_its_order() -> None:
    text = (
        "name: a b\n"
        'version: "0.3"\n'
        "services:\n"
        "  - name: app\n"
        "    comand: run\n"
        f"    mrenclaves: [{M}, short]\n"
        "    fspf_path: fspf.pb\n"
        "secret: []\n"
    )
    assert [(p.line, p.path) for p in refused(text)] == [
        (1, "name"),
        (4, "services[0]"),
        (5, "services[0]"),
        (6, "services[0].mrenclaves[1]"),
        (7, "services[0].fspf_path"),
        (7, "services[0].fspf_path"),
        (8, ""),
    ]


def test_a_problem_says_place_finding_expectation_and_suggestion() -> None:
    problem = refused(service("minimum_level: Hardware"))[0]
    assert (problem.path, problem.line, problem.column) == ("services[0].minimum_level", 7, 20)
    assert problem.found == '"Hardware"'
    assert problem.expected == "one of simulation, node, hardware"
    assert problem.suggestion == 'did you mean "hardware"?'
    assert str(problem) == (
        'line 7: services[0].minimum_level: found "Hardware", expected one of simulation, node, '
        'hardware; did you mean "hardware"?'
    )


def test_the_error_chain_for_a_client_has_a_line_for_each_problem() -> None:
    with pytest.raises(SessionInvalid) as caught:
        load_session(b'name: s\nversion: "0.2"\nsalt: x\nvolume: y\n')
    assert chain(caught.value) == (
        "session 's' is not valid: 2 problems",
        "line 3: salt: salt is not supported yet",
        'line 4: unknown key "volume" in a session',
    )


def test_a_hostile_document_gets_a_bounded_list() -> None:
    text = "name: s\n" + "".join(f"k{i}: v\n" for i in range(5000))
    assert len(refused(text)) == MAX_PROBLEMS


def test_control_characters_in_problems_are_escaped() -> None:
    line = said('name: "a\\e[31m\\n b"\n')
    assert line.isprintable()
    assert r"a\x1b[31m\n b" in line


@pytest.mark.parametrize("key", ["fspf_key", "fspf_tag", "mrenclaves"])
def test_a_key_in_the_wrong_place_is_counted_and_not_shown(key: str) -> None:
    key_text = "5ec7e7" * 9
    value = f"[{key_text}]" if key == "mrenclaves" else key_text
    head = f"name: app\ncommand: run\n{key}: {value}"
    assert all("5ec7e7" not in str(problem) for problem in refused(service(head=head)))


@pytest.mark.parametrize(
    "secret",
    [
        "kind: binary\n    value: hunter2",
        "kind: private-key\n    value: hunter2",
        "kind: x509\n    value: hunter2",
        "kind: ascii\n    value: hunter2\n    size: x",
        "kind: pgp-key\n    value: hunter2",
        "kind: ascii\n    value: {a: hunter2}",
        "kind: ascii\n    value: [hunter2]",
        'kind: ascii\n    value: "hunter2\\0"',
        "kind: ascii\n    value: hunter2$$SCONE::A$$",
    ],
)
def test_no_value_of_a_secret_is_repeated(secret: str) -> None:
    text = f'name: s\nversion: "0.3"\nsecrets:\n  - name: S\n    {secret}\n'
    assert all("hunter2" not in str(problem) + repr(problem) for problem in refused(text))


def test_no_token_is_repeated() -> None:
    token = "hunter2" * 200
    line = said(f'name: s\nversion: "0.3"\nsecurity: {{service_access_token: {token}}}\n')
    assert "hunter2" not in line
    assert "1400 characters" in line


def test_no_value_of_the_environment_or_a_file_is_repeated() -> None:
    problems = refused(
        service('environment: {A: "hunter2\\0", B: "hunter2 $$SCONE::hunter", C: [hunter2]}')
    )
    assert len(problems) == 3
    assert all("hunter2" not in str(problem) for problem in problems)


def test_reprs_show_no_secrets() -> None:
    text = service(
        f"environment: {{A: hunter2}}\nfspf_path: /f\nfspf_key: {'5e' * 32}\nfspf_tag: {M[:32]}"
    )
    text += "security: {service_access_token: hunter2}\n"
    text += "secrets: [{name: S, kind: ascii, value: hunter2}]\n"
    text += "images: [{name: i, injection_files: [{path: /a, content: hunter2}]}]\n"
    assert "hunter2" not in repr(load(text))
    assert "5e5e" not in repr(load(text))


# --- versions -------------------------------------------------------------------------------------


def test_a_document_without_a_version_is_0_1() -> None:
    session = load("name: s\naccess_policy:\n  read:\n   - CREATOR\n")
    assert session.version == "0.1"
    assert session.language is Language.V0_1
    assert session.services == ()


@pytest.mark.parametrize("text", ["0.2", "0.3", '"0.3"', "'0.3.10'", "0.3.0", "0.3.12"])
def test_versions_that_exist(text: str) -> None:
    assert load(f"name: s\nversion: {text}\n").version == text.strip("\"'")


@pytest.mark.parametrize("text", ["0.30", "0.3.", "0.3.01", "0.3.99", "1", "v0.3", '" 0.3"', "[]"])
def test_versions_that_do_not_exist(text: str) -> None:
    assert any(problem.path == "version" for problem in refused(f"name: s\nversion: {text}\n"))


def test_a_float_is_the_text_it_was() -> None:
    """0.3.1 and 0.3.10 are different versions; as numbers 0.10 and 0.1 would not be."""
    assert load("name: s\nversion: 0.3.10\n").version == "0.3.10"


def test_services_without_a_version_say_what_to_write() -> None:
    line = said(f"name: s\nservices: [{{name: a, command: b, mrenclaves: [{M}]}}]\n")
    assert 'write version: "0.2"' in line


# --- values ---------------------------------------------------------------------------------------


def test_scalars_stay_the_text_they_were() -> None:
    values = ["3.10", "no", "12:30:00", "0o400", "1_000", "2001-01-01", "0x1F", "1e3", ".5", "y"]
    lines = "\n".join(f"  V{i}: {value}" for i, value in enumerate(values))
    session = load(service(f"environment:\n{lines}"))
    assert [value for _, value in session.services[0].environment] == values


def test_defaults_of_a_service() -> None:
    app = load(service()).services[0]
    assert app.pwd == "/"
    assert app.environment == ()
    assert app.image_name is None
    assert app.fspf is None
    assert app.minimum_level is None
    assert app.mrenclaves == (M,)


def test_variants_of_attestation_are_kept_apart_and_listed_together() -> None:
    head = "name: a\ncommand: b\nattestation:\n"
    head += f"  - mrenclave: {M}\n  - mrenclave: [{'cd' * 32}, {M.upper()}]"
    app = load(service(head=head)).services[0]
    assert len(app.attestation) == 2
    assert app.mrenclaves == (M, "cd" * 32)


def test_hex_is_normalised_to_lower_case() -> None:
    fspf = f"fspf_path: /f\nfspf_key: {'AB' * 32}\nfspf_tag: {'CD' * 16}"
    found = load(service(fspf)).services[0].fspf
    assert found is not None
    assert (found.key, found.tag) == ("ab" * 32, "cd" * 16)


def test_injected_files() -> None:
    text = 'name: s\nversion: "0.3"\nimages:\n  - name: docker.io/a/b:1@x\n    injection_files:\n'
    text += '      - {path: /a, content: x}\n      - {path: /b, content: "", permission: 0o440}\n'
    text += '      - path: /c\n        content: "a\\0b"\n'
    files = load(text).images[0].injection_files
    assert [(f.path, f.content, f.mode) for f in files] == [
        ("/a", "x", 0o700),
        ("/b", "", 0o440),
        ("/c", "a\0b", 0o700),
    ]


def test_a_literal_block_keeps_its_last_newline_and_a_plain_scalar_has_none() -> None:
    text = 'name: s\nversion: "0.3"\nimages:\n  - name: i\n    injection_files:\n'
    text += "      - path: /a\n        content: |\n          x\n"
    text += "      - path: /b\n        content: x\n"
    assert [f.content for f in load(text).images[0].injection_files] == ["x\n", "x"]


def test_secrets_and_their_defaults() -> None:
    text = 'name: s\nversion: "0.3"\nsecrets:\n'
    text += "  - {name: A, kind: ascii}\n  - {name: B, kind: binary, size: 32, migrate: never}\n"
    text += "  - {name: K, kind: private-key, migrate: true}\n"
    text += "  - {name: C, kind: x509, private_key: K, dns: a.example, valid_for: 2w}\n"
    a, b, k, c = load(text).secrets
    assert (a.kind, a.size, a.value, a.migrate) == (SecretKind.ASCII, 20, None, Migrate.DEFAULT)
    assert (b.size, b.migrate) == (32, Migrate.NEVER)
    assert k.key_type is not None
    assert k.key_type.value == "P-256"
    assert k.migrate is Migrate.ALWAYS
    assert (c.private_key, c.dns, c.valid_for) == ("K", ("a.example",), 14 * 86400)


def test_an_x509_secret_of_0_2_needs_nothing_else() -> None:
    (secret,) = load('name: s\nversion: "0.2"\nsecrets: [{name: C, kind: x509}]\n').secrets
    assert secret.private_key is None


def test_a_secret_value_may_be_a_number_and_stays_a_text() -> None:
    text = 'name: s\nversion: "0.2"\nsecrets: [{name: A, kind: ascii, value: 007}]\n'
    assert load(text).secrets[0].value == "007"


def test_missing_access_lists_are_the_creator() -> None:
    policy = load('name: s\nversion: "0.3"\naccess_policy: {update: NONE}\n').access_policy
    assert policy.read == (Keyword.CREATOR,)
    assert policy.update == (Keyword.NONE,)
    assert policy.create_sessions == (Keyword.NONE,)


def test_the_strictest_level_holds() -> None:
    text = service("minimum_level: node") + "security: {minimum_level: simulation}\n"
    session = load(text)
    app = session.services[0]
    assert session.required_level(app, Level.SIMULATION) is Level.NODE
    assert session.required_level(app, Level.HARDWARE) is Level.HARDWARE


def test_mode_hardware_asks_for_hardware_whatever_else_is_said() -> None:
    text = service("minimum_level: simulation")
    session = load(text + "security: {attestation: {mode: hardware}}\n")
    assert session.required_level(session.services[0], Level.SIMULATION) is Level.HARDWARE


def test_a_session_that_names_no_level_takes_the_minimum() -> None:
    session = load(service())
    assert session.required_level(session.services[0], Level.NODE) is Level.NODE


def test_lookups_by_name() -> None:
    text = service("image_name: i") + "images: [{name: i}]\nsecrets: [{name: A, kind: ascii}]\n"
    session = load(text)
    app = session.service("app")
    assert app is not None
    assert session.service("APP") is None
    assert session.image_of(app) is session.images[0]
    assert session.secret("A") is session.secrets[0]
    assert session.secret("B") is None


def test_a_command_of_one_text_cannot_hold_more_arguments_than_a_list() -> None:
    """Read back it is a list, and that has to be a document that can be loaded again."""
    head = f"name: a\ncommand: {'a ' * 20_001}\nmrenclaves: [{M}]"
    assert "too many arguments" in said(service(head=head))


def test_the_longest_command_can_be_read_back() -> None:
    session = load(service(head=f"name: a\ncommand: {'a ' * 20_000}\nmrenclaves: [{M}]"))
    text = render(session).encode()
    assert load_stored(text).session == session


def test_the_most_services_can_be_read_back() -> None:
    one = "{name: a%d, command: b, mrenclaves: [" + M + "]}"
    services = ",".join(one % index for index in range(2400))
    session = load(f'name: s\nversion: "0.3"\nservices: [{services}]\n')
    assert load_stored(render(session).encode()).session == session


# --- YAML -----------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_taken() -> None:
    assert load_session(b"\xef\xbb\xbfname: s\n").session.name == "s"


def test_line_ends_of_other_systems_are_taken() -> None:
    assert load('name: s\r\nversion: "0.2"\r\n').version == "0.2"


def test_without_libyaml_no_session_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pure scanner reads some texts differently, so hashes would differ by machine."""
    monkeypatch.setattr(tree, "_Loader", None)
    with pytest.raises(Unsupported, match="libyaml"):
        load_session(b"name: s\n")


def test_utf_16_is_refused() -> None:
    with pytest.raises(SessionInvalid) as caught:
        load_session("name: s".encode("utf-16"))
    assert caught.value.details == ("line 1: the document is not UTF-8",)


def test_a_broken_byte_is_refused_with_its_line() -> None:
    with pytest.raises(SessionInvalid) as caught:
        load_session(b"name: s\n# \xff\n")
    assert caught.value.details == ("line 2: the document is not UTF-8",)


def test_a_duplicate_key_is_refused_with_both_lines() -> None:
    line = said(service("environment:\n  A: 1\n  B: 2\n  A: 3"))
    assert line == 'line 10: key "A" stands twice, first in line 8'


def test_a_quoted_null_is_a_text() -> None:
    line = said('name: s\nversion: "0.2"\npredecessor: "~"\n')
    assert line == 'line 3: predecessor: found "~", expected 64 hex digits'


@pytest.mark.parametrize("null", ["~", "null", "NULL", ""])
def test_predecessor_may_be_null(null: str) -> None:
    assert load(f"name: s\npredecessor: {null}\n").predecessor is None


@pytest.mark.parametrize(
    "value", ["!hunter2", "!!hunter2 x", "!<hunter2> x", "*hunter2", "&hunter2 x"]
)
def test_a_password_that_yaml_takes_for_something_else_is_refused_and_not_repeated(
    value: str,
) -> None:
    line = said(f"name: s\nsecrets:\n  - name: a\n    kind: ascii\n    value: {value}\n")
    assert "hunter2" not in line
    assert line.startswith("line 5: ")
