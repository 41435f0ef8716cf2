"""The command line's templates: values only, and never more than the value they stand in."""

from __future__ import annotations

import pytest

from crannog.errors import TooLarge, chain
from crannog.session.problems import SessionInvalid
from crannog.session.tree import Mapping, Scalar, parse
from crannog.session.variables import TemplateInvalid, expand


def value(text: str, **given: str) -> str:
    """What key `k` holds in `text` once its variables are replaced."""
    root = parse(expand(text.encode(), given))
    found = next(node for key, node in root.entries if key.text == "k")
    assert isinstance(found, Scalar)
    return found.text


def test_a_variable_in_the_middle_of_a_value() -> None:
    """The tutorial's own names."""
    assert value("k: $NS~hello-k8s\n", NS="HelloWorld-1-2") == "HelloWorld-1-2~hello-k8s"


def test_given_values_win_over_the_environment() -> None:
    text = b"a: $A\nb: $B\n"
    assert expand(text, {"A": "1"}, {"A": "2", "B": "3"}) == b"a: 1\nb: 3\n"


def test_without_use_env_the_environment_is_not_looked_at() -> None:
    with pytest.raises(TemplateInvalid):
        expand(b"a: $HOME\n", {}, None)


def test_a_missing_variable_is_reported_as_the_reference_does() -> None:
    with pytest.raises(TemplateInvalid) as caught:
        expand(b'version: "0.3"\n\nname: $SESSION\nservices: [{pwd: /$DIR}]\n', {})
    assert caught.value.details == (
        "name: Value for variable $SESSION is missing at line 3 column 7",
        "services[0].pwd: Value for variable $DIR is missing at line 4 column 19",
    )
    assert chain(caught.value)[1] == caught.value.details[0]


def test_references_to_secrets_are_left_alone() -> None:
    text = b"k: $$SCONE::CERT.crt$$ $$SCONE::$$ $$\n"
    assert expand(text, {"SCONE": "x", "CERT": "y"}) == text


def test_braces_are_no_template() -> None:
    assert expand(b"k: ${HOME} $ $1 $-\n", {"HOME": "x"}) == b"k: ${HOME} $ $1 $-\n"


def test_a_dollar_can_be_written() -> None:
    assert value("k: pa\\$word $A\n", A="x") == "pa$word x"


def test_a_value_is_not_expanded_again() -> None:
    assert value("k: $A\n", A="$B") == "$B"


@pytest.mark.parametrize(
    "hostile",
    ["x\nread: [ANY]", "a: b", "[a]", "{a: b}", "# c", "&a b", "*a", "!t", '"', "'", "- a", "\x85"],
)
def test_a_value_cannot_add_anything_to_the_document(hostile: str) -> None:
    for text in ("k: $A\n", "k: '$A'\n", 'k: "$A"\n', "k: |-\n  $A\n", "k: >-\n  $A\n"):
        root = parse(expand(text.encode(), {"A": hostile}))
        assert len(root.entries) == 1
        assert value(text, A=hostile) == hostile


def test_a_value_cannot_end_its_list() -> None:
    root = parse(expand(b"k: [$A, b]\nl: {a: $A}\n", {"A": "x], c"}))
    items = root.entries[0][1]
    assert not isinstance(items, Scalar | Mapping)
    assert [item.text for item in items.items if isinstance(item, Scalar)] == ["x], c", "b"]


def test_a_value_that_is_a_tilde_is_null() -> None:
    """`predecessor: $PREDECESSOR` serves the first version and its updates."""
    root = parse(expand(b"predecessor: $P\n", {"P": "~"}))
    found = root.entries[0][1]
    assert isinstance(found, Scalar)
    assert found.is_null


def test_a_quoted_tilde_and_the_word_null_are_texts() -> None:
    for text, given in ((b"k: '$A'\n", "~"), (b"k: |-\n  $A\n", "~"), (b"k: $A\n", "null")):
        found = parse(expand(text, {"A": given})).entries[0][1]
        assert isinstance(found, Scalar)
        assert (found.text, found.is_null) == (given, False)


def test_what_follows_a_block_stays_where_it_was() -> None:
    text = b"a: |\n  one $A\n  two\n\nb: >\n  $A\nc: plain\n   $A\nd: end\n"
    root = parse(expand(text, {"A": "é\n1"}))
    texts = [node.text for _, node in root.entries if isinstance(node, Scalar)]
    assert texts == ["one é\n1\ntwo\n", "é\n1\n", "plain é\n1", "end"]


def test_keys_and_comments_are_left_alone() -> None:
    text = b"# $A\n$A: b # $A\n"
    assert expand(text, {"A": "x"}) == text


def test_places_are_right_behind_other_characters() -> None:
    assert value("é: 'ü\U0001f600'\nk: $A\n", A="x") == "x"


def test_a_value_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(TemplateInvalid) as caught:
        expand(b"k: $A\n", {}, {"A": "\udc80"})
    assert "not UTF-8" in caught.value.details[0]


def test_what_is_no_session_is_refused() -> None:
    with pytest.raises(SessionInvalid):
        expand(b"- $A\n", {"A": "x"})
    with pytest.raises(SessionInvalid):
        expand(b"k: \xff\n", {"A": "x"})


def test_the_result_is_bounded() -> None:
    with pytest.raises(TooLarge):
        expand(b"k: $A\n", {"A": "x" * 2000}, limit=1000)
