from __future__ import annotations

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import FormatError, TooLarge
from crannog.exchange.configuration import (
    MAX_STRING,
    Configuration,
    File,
    FspfReference,
    configuration_message,
    parse_configuration,
)
from crannog.levels import Level
from crannog.wire import Json, encode_json, parse_object
from tests.exchange.helpers import CONFIGURATION

_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_part = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="\0/"), min_size=1, max_size=8
).filter(lambda part: part not in (".", ".."))
_path = st.lists(_part, max_size=4).map(lambda parts: "/" + "/".join(parts))
_name = _text.map(lambda text: text.replace("=", "")).filter(bool)
_configurations = st.builds(
    Configuration,
    argv=st.lists(_text, min_size=1, max_size=4).map(tuple),
    environment=st.dictionaries(_name, _text, max_size=4).map(lambda d: tuple(d.items())),
    pwd=_path,
    files=st.dictionaries(
        _path, st.tuples(st.binary(max_size=40), st.integers(0, 0o777)), max_size=3
    ).map(lambda d: tuple(File(path, data, mode) for path, (data, mode) in d.items())),
    fspf=st.none()
    | st.builds(
        FspfReference,
        path=_path,
        key=st.binary(min_size=32, max_size=32),
        tag=st.binary(min_size=16, max_size=16),
    ),
    session_hash=st.binary(min_size=32, max_size=32).map(bytes.hex),
    level=st.sampled_from(Level),
    mrenclave=st.binary(min_size=32, max_size=32),
)


@given(_configurations)
def test_what_is_written_is_what_is_read(configuration: Configuration) -> None:
    data = encode_json(configuration_message(configuration))
    assert parse_configuration(parse_object(data, limit=2**20)) == configuration


def _refused(error: type[Exception], **changes: Json) -> str:
    message = {**configuration_message(CONFIGURATION), **changes}
    with pytest.raises(error) as caught:
        parse_configuration(message)
    return str(caught.value)


def test_an_empty_argv_is_refused() -> None:
    assert "argv is empty" in _refused(FormatError, argv=[])


def test_a_nul_in_an_argument_is_refused() -> None:
    assert "argv[1] holds a NUL" in _refused(FormatError, argv=["a", "b\0c"])


def test_an_argument_longer_than_linux_takes_is_refused() -> None:
    _refused(TooLarge, argv=["a" * (MAX_STRING + 1)])
    _refused(TooLarge, argv=["ä" * (MAX_STRING // 2 + 1)])


def test_a_variable_that_is_there_twice_is_refused() -> None:
    assert "repeats" in _refused(FormatError, environment=[["A", "1"], ["A", "2"]])


def test_a_variable_with_an_equals_sign_in_its_name_is_refused() -> None:
    _refused(FormatError, environment=[["A=B", "1"]])


def test_a_variable_without_a_name_is_refused() -> None:
    _refused(FormatError, environment=[["", "1"]])


def test_a_variable_that_is_no_pair_is_refused() -> None:
    _refused(FormatError, environment=[["A", "1", "2"]])
    _refused(FormatError, environment=[["A", 1]])


def test_a_relative_pwd_is_refused() -> None:
    _refused(FormatError, pwd="app")


@pytest.mark.parametrize("path", ["a", "", "/a/../b", "/a//b", "/a/.", "/a/", "//a"])
def test_a_file_path_that_is_not_absolute_and_normal_is_refused(path: str) -> None:
    _refused(FormatError, files=[{"path": path, "content": "", "mode": 0o600}])


def test_a_file_that_is_there_twice_is_refused() -> None:
    file: Json = {"path": "/a", "content": "", "mode": 0o600}
    assert "twice" in _refused(FormatError, files=[file, file])


def test_a_mode_with_set_user_id_is_refused() -> None:
    _refused(FormatError, files=[{"path": "/a", "content": "", "mode": 0o4755}])


def test_files_over_their_total_are_refused() -> None:
    content = "A" * (8 * 1024 * 1024)
    files: list[Json] = [
        {"path": f"/{number}", "content": content, "mode": 0o600} for number in range(2)
    ]
    assert "together" in _refused(TooLarge, files=files)


def test_a_missing_field_is_refused() -> None:
    for name in configuration_message(CONFIGURATION):
        message = configuration_message(CONFIGURATION)
        del message[name]
        with pytest.raises(FormatError):
            parse_configuration(message)


def test_an_unknown_field_is_refused() -> None:
    _refused(FormatError, shell=True)


def test_no_secret_stands_in_an_error() -> None:
    message = configuration_message(CONFIGURATION)
    fspf = cast("dict[str, Json]", message["fspf"])
    for value in ("hunter2" * 10, "hunter2"):
        with pytest.raises(FormatError) as caught:
            parse_configuration({**message, "fspf": {**fspf, "key": value}})
        assert "hunter2" not in str(caught.value)
