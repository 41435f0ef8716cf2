from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.errors import Misconfigured
from crannog.runtime.log import LogLevel
from crannog.runtime.settings import Mode, Settings, parse_config_id, parse_size, read_settings


def test_nothing_set_is_the_default() -> None:
    assert read_settings({}) == Settings()
    assert read_settings({"GREETING": "x", "SCONE_QUEUES": "nonsense"}) == Settings()


def test_empty_is_not_set() -> None:
    names = ("MODE", "HASH", "HEAP", "CONFIG_ID", "CAS_ADDR", "LAS_ADDR", "FSPF", "LOG", "FORK")
    assert read_settings({f"SCONE_{name}": "" for name in names}) == Settings()


@pytest.mark.parametrize(
    ("text", "size"),
    [("1", 1), ("4096", 4096), ("64M", 64 << 20), ("1g", 1 << 30), ("80K", 80 << 10)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text, "SCONE_HEAP") == size


@pytest.mark.parametrize(
    "text",
    ["0", "0K", "-1", "1.5G", "64MB", "64 M", " 64", "M", "1T", "0x10", "9" * 15 + "G", "٣", "1_0"],
)
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="SCONE_HEAP"):
        read_settings({"SCONE_HEAP": text})


@pytest.mark.parametrize("text", ["hw", "HW", "Sim", "AUTO"])
def test_modes(text: str) -> None:
    assert read_settings({"SCONE_MODE": text}).mode is Mode(text.lower())


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("FATAL", LogLevel.FATAL),
        ("warning", LogLevel.WARN),
        ("WARN", LogLevel.WARN),
        ("0", LogLevel.FATAL),
        ("3", LogLevel.INFO),
        ("7", LogLevel.TRACE),
    ],
)
def test_log_levels(text: str, level: LogLevel) -> None:
    assert read_settings({"SCONE_LOG": text}).log is level


@pytest.mark.parametrize(
    ("text", "session", "service", "otp"),
    [
        ("s/a", "s", "a", None),
        ("ns-1~hello/application", "ns-1~hello", "application", None),
        ("a/b/c", "a/b", "c", None),
        ("a@b/c@123456", "a@b", "c", "123456"),
        ("a/b@1@2", "a", "b", "1@2"),
    ],
)
def test_configuration_id(text: str, session: str, service: str, otp: str | None) -> None:
    found = parse_config_id(text)
    assert (found.session, found.service, found.otp) == (session, service, otp)
    assert found.public == f"{session}/{service}"


@pytest.mark.parametrize(
    "text", ["", "a", "/a", "a/", "a/@1", "a/b@", "a/b c", "a/b\n", "a/\x1b", "x" * 1024 + "/a"]
)
def test_configuration_id_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured, match="SCONE_CONFIG_ID"):
        parse_config_id(text)


def test_fspf_needs_all_three() -> None:
    key, tag = "0a" * 32, "0B" * 16
    whole = {"SCONE_FSPF": "/x", "SCONE_FSPF_KEY": key, "SCONE_FSPF_TAG": tag}
    found = read_settings(whole).fspf
    assert found is not None
    assert (found.path, found.key.hex(), found.tag.hex()) == ("/x", key, tag.lower())
    for missing in whole:
        with pytest.raises(Misconfigured, match=missing):
            read_settings({name: value for name, value in whole.items() if name != missing})


SECRET = "f00dfacef00dface"


@pytest.mark.parametrize(
    "environment",
    [
        {"SCONE_FSPF": "/x", "SCONE_FSPF_KEY": SECRET, "SCONE_FSPF_TAG": "00" * 16},
        {"SCONE_FSPF": "/x", "SCONE_FSPF_KEY": SECRET},
        {"SCONE_SERVICE_ACCESS_TOKEN": SECRET + "\n"},
        {"SCONE_CONFIG_ID": f"a@{SECRET}"},
        {"SCONE_CONFIG_ID": f"/b@{SECRET}"},
        {"SCONE_CONFIG_ID": f"a/@{SECRET}"},
    ],
)
def test_no_secret_is_in_a_refusal(environment: dict[str, str]) -> None:
    with pytest.raises(Misconfigured) as caught:
        read_settings(environment)
    if environment != {"SCONE_CONFIG_ID": f"a@{SECRET}"}:  # no slash, so no password in it
        assert SECRET not in caught.value.message + caught.value.hint


def test_no_secret_is_in_a_repr() -> None:
    settings = read_settings(
        {
            "SCONE_CONFIG_ID": f"a/b@{SECRET}",
            "SCONE_SERVICE_ACCESS_TOKEN": SECRET,
            "SCONE_FSPF": "/x",
            "SCONE_FSPF_KEY": SECRET * 4,
            "SCONE_FSPF_TAG": "00" * 16,
        }
    )
    assert SECRET not in repr(settings) + repr(settings.fspf) + repr(settings.config_id)


NAMES = [
    *("MODE", "HASH", "VERSION", "LOG", "HEAP", "STACK", "ALLOW_DLOPEN", "FORK", "MPROTECT"),
    *("CONFIG_ID", "CAS_ADDR", "LAS_ADDR", "SERVICE_ACCESS_TOKEN", "FSPF", "FSPF_KEY", "FSPF_TAG"),
]


@given(
    st.dictionaries(
        st.sampled_from(
            [f"SCONE_{name}" for name in NAMES]
            + ["CRANNOG_CAS_KEY", "CRANNOG_SESSION_HASH", "CRANNOG_LAS_SOCKET"]
        ),
        st.text(max_size=40) | st.sampled_from(["0", "1", "2", "a/b", "64M"]),
    )
)
def test_only_our_errors_escape(environment: dict[str, str]) -> None:
    try:
        read_settings(environment)
    except Misconfigured:
        return
