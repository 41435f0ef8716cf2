"""Substitution: what is a reference, what becomes of it, and that a value is looked at once."""

from __future__ import annotations

import pytest

from crannog.errors import FormatError, TooLarge
from crannog.session.document import Language, Secret, SecretKind
from crannog.session.forms import Form, encode_binary, form_of, suffixes
from crannog.session.template import (
    SubstitutionFailed,
    references,
    substitute,
    substitute_argument,
    substitute_environment,
)

VALUES = {
    ("A", ""): b"alpha",
    ("B", ":hex"): b"00ff",
    ("B", ""): b"\x00\xff",
    ("N", ""): b"$$SCONE::A$$",
}


def lookup(name: str, suffix: str) -> bytes:
    return VALUES[name, suffix]


def test_references_are_replaced_in_every_place_of_a_text() -> None:
    assert substitute("$$SCONE::A$$-$$SCONE::B:hex$$$$SCONE::A$$", lookup) == b"alpha-00ffalpha"


def test_binary_values_are_put_in_as_they_are() -> None:
    assert substitute("é$$SCONE::B$$", lookup) == "é".encode() + b"\x00\xff"


def test_a_value_is_not_looked_at_again() -> None:
    """No nested expansion: who knows one secret cannot make it name another."""
    assert substitute("$$SCONE::N$$", lookup) == b"$$SCONE::A$$"


def test_a_reference_cannot_be_put_together_from_values() -> None:
    values = {"X": b"$$SCONE::", "Y": b"A$$"}
    assert substitute("$$SCONE::X$$$$SCONE::Y$$", lambda n, s: values[n]) == b"$$SCONE::A$$"


def test_the_escape_writes_a_literal_reference() -> None:
    assert substitute("$$SCONE::$$SCONE::A$$", lookup) == b"$$SCONE::A$$"
    assert references("$$SCONE::$$SCONE::A$$") == ()


def test_other_dollars_are_literal() -> None:
    for text in ("$", "$$", "$$$", "$HOME", "$$A$$", "$$scone", r"\$\$SCONE::A\$\$", "$$$$"):
        assert substitute(text, lookup) == text.encode()


def test_names_with_dots_and_tildes() -> None:
    (found,) = references("$$SCONE::a.b~c-d_e.key$$")
    assert (found.name, found.suffix) == ("a.b~c-d_e", ".key")


def test_a_text_that_ends_in_the_middle_of_a_reference_is_refused() -> None:
    with pytest.raises(FormatError, match="never closed") as caught:
        references("ab$$SCONE::A$")
    assert caught.value.offset == 2


@pytest.mark.parametrize("body", ["A", ":A:", ":A::B", ":a/b", ":A\n", ":Ä", ":" + "a" * 129])
def test_malformed_references_are_refused(body: str) -> None:
    with pytest.raises(FormatError):
        references(f"$$SCONE:{body}$$")


def test_the_result_is_bounded() -> None:
    with pytest.raises(TooLarge):
        substitute("$$SCONE::A$$" * 3, lookup, limit=14)


def test_malformed_utf8_in_the_environment_fails_with_the_references_text() -> None:
    with pytest.raises(SubstitutionFailed) as caught:
        substitute_environment("KEY", "$$SCONE::B$$", lambda n, s: b"\xff\xfe")
    assert caught.value.message == (
        "Environment variable 'KEY' contains malformed UTF-8 after SCONE value replacement"
    )
    assert ":hex" in caught.value.hint


def test_half_characters_do_not_add_up() -> None:
    """Bytes are joined first and decoded then; a value cut in two is still one character."""
    halves = {"X": "é".encode()[:1], "Y": "é".encode()[1:]}
    text = "$$SCONE::X$$$$SCONE::Y$$"
    assert substitute_argument(0, text, lambda n, s: halves[n]) == "é"


def test_nul_in_an_argument_fails() -> None:
    with pytest.raises(SubstitutionFailed, match="Command argument 2 contains a NUL byte"):
        substitute_argument(2, "$$SCONE::B$$", lambda n, s: b"a\0b")


def test_values_are_not_repeated_in_errors() -> None:
    with pytest.raises(SubstitutionFailed) as caught:
        substitute_environment("A", "$$SCONE::B$$", lambda n, s: b"hunter2\xff")
    assert "hunter2" not in str(caught.value) + repr(caught.value.__context__)


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (Form.RAW, b"\x00\xff\x10>?"),
        (Form.HEX, b"00ff103e3f"),
        (Form.BASE64, b"AP8QPj8="),
        (Form.BASE64URL, b"AP8QPj8="),
        (Form.BASE32, b"AD7RAPR7"),
        (Form.BASE32NOPAD, b"AD7RAPR7"),
    ],
)
def test_forms_of_binary_secrets(form: Form, expected: bytes) -> None:
    assert encode_binary(b"\x00\xff\x10>?", form) == expected


def test_base64url_and_padding_differ_where_they_should() -> None:
    assert encode_binary(b"\xfb\xff", Form.BASE64) == b"+/8="
    assert encode_binary(b"\xfb\xff", Form.BASE64URL) == b"-_8="
    assert encode_binary(b"a", Form.BASE32) == b"ME======"
    assert encode_binary(b"a", Form.BASE32NOPAD) == b"ME"


def test_forms_of_other_kinds_are_our_own_mistake() -> None:
    with pytest.raises(ValueError, match="not a form of binary"):
        encode_binary(b"", Form.CERTIFICATE_PEM)


def test_the_two_chains_are_different_forms() -> None:
    secret = Secret("C", SecretKind.X509, private_key="K")
    assert form_of(secret, ".chain", Language.V0_3) is Form.CHAIN_DOWNWARD
    assert form_of(secret, ":chain", Language.V0_3) is Form.CHAIN_UPWARD


def test_every_kind_offers_its_bare_value() -> None:
    assert all("" in suffixes(kind) for kind in SecretKind)
