from __future__ import annotations

import pytest

from crannog.errors import Misconfigured
from crannog.transport.address import Address, is_numeric, parse_address
from crannog.transport.las_client import UnixAddress, parse_las_address


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cas", Address("cas", 18765)),
        ("cas:1", Address("cas", 1)),
        ("cas:", Address("cas", 18765)),
        ("172.17.0.1", Address("172.17.0.1", 18765)),
        ("172.17.0.1:18766", Address("172.17.0.1", 18766)),
        ("::1", Address("::1", 18765)),
        ("[::1]:8", Address("::1", 8)),
        ("[::1]", Address("::1", 18765)),
        ("scone-cas.cf", Address("scone-cas.cf", 18765)),
    ],
)
def test_addresses_as_users_write_them(text: str, expected: Address) -> None:
    assert parse_address(text, 18765, "SCONE_CAS_ADDR") == expected


@pytest.mark.parametrize(
    "text",
    ["", ":1", "cas:x", "cas:65536", "cas:-1", "cas:²", "a b", "a\n", "[::1", "[::1]x", "1:2:3"],
)
def test_what_is_no_address_is_refused_by_its_variable(text: str) -> None:
    with pytest.raises(Misconfigured, match="SCONE_CAS_ADDR"):
        parse_address(text, 18765, "SCONE_CAS_ADDR")


def test_numbers_are_not_sent_as_server_names() -> None:
    assert is_numeric("127.0.0.1")
    assert is_numeric("::1")
    assert not is_numeric("cas")


@pytest.mark.parametrize("text", ["unix:/run/las.sock", "/run/las.sock"])
def test_a_path_is_a_unix_socket(text: str) -> None:
    assert parse_las_address(text, "SCONE_LAS_ADDR") == UnixAddress("/run/las.sock")


def test_a_las_s_default_port() -> None:
    assert parse_las_address("172.17.0.1", "SCONE_LAS_ADDR") == Address("172.17.0.1", 18766)


def test_a_socket_path_that_linux_cannot_take_is_refused() -> None:
    with pytest.raises(Misconfigured, match="107 bytes"):
        parse_las_address("/" + "a" * 107, "SCONE_LAS_ADDR")
