"""Editing a session file: three values, and not a character besides."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import AlreadyExists, Error, Misconfigured, Unsupported
from crannog.image.session_file import FIELDS, MARK, Values, fill, find_target
from crannog.session.load import load_session
from crannog.session.tree import Mapping, Scalar, Sequence, parse

VALUES = Values("/fspf.pb", "0e" * 32, "1e" * 16)
TUTORIAL = """\
name: $NS~hello-k8s-scone-tls
version: "0.2"

services:
   - name: application
     image_name: application_image
     mrenclaves: [$MRENCLAVE]
     command: python3 /app/server-tls.py
     pwd: /
     environment:
        GREETING: hello from SCONE with encrypted source code and auto-generated certs!!!
     fspf_path: $SCONE_FSPF
     fspf_key: $SCONE_FSPF_KEY
     fspf_tag: $SCONE_FSPF_TAG

images:
   - name: application_image
     injection_files:
       - path:  /app/cert.pem
         content: $$SCONE::SERVER_CERT.crt$$
"""


def filled(text: str, service: str | None = None, *, replace: bool = False) -> str:
    result = fill(text.encode(), service, VALUES, replace=replace).decode()
    root = parse(result.encode())
    (services,) = [node for key, node in root.entries if key.text == "services"]
    assert isinstance(services, Sequence)
    found = [
        {key.text: node.text for key, node in entry.entries if isinstance(node, Scalar)}
        for entry in services.items
        if isinstance(entry, Mapping)
    ]
    assert any(tuple(entry.get(name) for name in FIELDS) == tuple(VALUES) for entry in found)
    return result


def test_the_tutorials_template_keeps_everything_else() -> None:
    result = filled(TUTORIAL)
    expected = TUTORIAL.replace("$SCONE_FSPF\n", "/fspf.pb\n")
    expected = expected.replace("$SCONE_FSPF_KEY\n", f'"{VALUES.key}" {MARK}\n')
    expected = expected.replace("$SCONE_FSPF_TAG\n", f'"{VALUES.tag}"\n')
    assert result == expected


def test_the_tutorials_template_with_empty_variables() -> None:
    # As the shell leaves it where the three variables are not set.
    text = TUTORIAL
    for name in ("$SCONE_FSPF_KEY", "$SCONE_FSPF_TAG", "$SCONE_FSPF"):
        text = text.replace(name, "")
    assert filled(text).count(VALUES.key) == 1


def test_the_result_is_a_session() -> None:
    text = TUTORIAL.replace("$NS~", "").replace("$MRENCLAVE", "ab" * 32)
    text = text.partition("images:")[0].replace("     image_name: application_image\n", "")
    found = load_session(filled(text).encode()).session.services[0].fspf
    assert found is not None
    assert (found.path, found.key, found.tag) == tuple(VALUES)


@pytest.mark.parametrize(
    "text",
    [
        "name: x\nservices:\n- name: a\n  command: b\n",
        "name: x\nservices:\n- command: b\n  name: a",
        "name: x\r\nservices:\r\n- name: a\r\n  command: b\r\n",
        "name: x\nservices: [{name: a, command: b}]\n",
        "services:\n  -  name: 'a'  # comment\n     command: |\n       b\nname: x\n",
        "\ufeffname: x\nservices:\n- name: a\n",
        'name: x\nservices:\n- {"name": "a"}\n',
        "name: x\nservices:\n  - fspf_tag:\n    name: a\n",
        "name: x\nservices:\n  - fspf_tag: ~  # none\n    name: ü\n    fspf_key: ''\n",
    ],
)
def test_other_ways_to_write_a_session(text: str) -> None:
    result = filled(text)
    lines = text.splitlines()
    assert [line for line in result.splitlines() if "fspf" not in line] == [
        line for line in lines if "fspf" not in line and "{" not in line
    ]


def test_line_ends_stay_as_they_are() -> None:
    result = filled("name: x\r\nservices:\r\n- name: a\r\n  command: b\r\n")
    assert result.count("\n") == result.count("\r\n") == 7


def test_one_of_several_services() -> None:
    text = "name: x\nservices:\n- name: a\n  command: b\n- name: c\n  command: d\n"
    with pytest.raises(Misconfigured, match="2 services"):
        filled(text)
    assert filled(text, "c").startswith("name: x\nservices:\n- name: a\n  command: b\n- name: c\n")


def test_values_of_another_are_kept() -> None:
    text = f"name: x\nservices:\n- name: a\n  fspf_path: /y\n  fspf_key: {'ab' * 32}\n"
    with pytest.raises(AlreadyExists):
        filled(text)
    assert "ab" * 32 not in filled(text, replace=True)


def test_what_cannot_be_edited_is_refused() -> None:
    text = "name: x\nservices:\n- name: >\n    a\n  command: b\n"
    with pytest.raises(Unsupported):
        filled(text)


def test_the_service_is_found_in_a_template() -> None:
    found = find_target(TUTORIAL.encode(), None)
    assert found[:3] == ("$NS~hello-k8s-scone-tls", "application", "python3 /app/server-tls.py")
    assert found.variables == ("MRENCLAVE", "NS")


def test_the_key_is_in_no_repr() -> None:
    assert VALUES.key not in repr(VALUES)


TEXTS = st.text(st.characters(codec="ascii"), max_size=12)


@given(
    st.lists(st.sampled_from(["name", "command", "pwd", "fspf_key", "fspf_tag", "x"]), unique=True),
    st.lists(st.sampled_from(["a", "'b'", '"c"', "$V", "", "~", "[d]", "|\n    e", "{f: g}"])),
    st.sampled_from(["", "  ", "    "]),
    st.sampled_from(["\n", "\r\n"]),
    TEXTS,
)
def test_any_session_is_edited_rightly_or_refused(
    keys: list[str], values: list[str], indent: str, newline: str, comment: str
) -> None:
    lines = ["name: x", "services:"]
    for number, key in enumerate(keys):
        value = values[number % len(values)] if values else "v"
        head = f"{indent}- " if number == 0 else f"{indent}  "
        lines.append(f"{head}{key}: {value.replace(chr(10), chr(10) + indent)} #{comment!r}")
    data = newline.join(lines).encode()
    try:
        result = fill(data, None, VALUES, replace=True)
    except Error:
        return
    found = find_target(result, None)
    assert found[:3] == find_target(data, None)[:3]
    assert result.decode().count(VALUES.key) == 1
