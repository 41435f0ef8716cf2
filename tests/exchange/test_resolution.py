"""What the two files of name resolution say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crannog.exchange.resolution import (
    MAX_SEARCH,
    MAX_SERVERS,
    Resolving,
    find_in_hosts,
    find_loopback,
    is_address,
    names_to_ask,
    parse_resolv_conf,
)

_KUBERNETES = b"""\
search ns.svc.cluster.local svc.cluster.local cluster.local
nameserver 10.96.0.10
options ndots:5
"""


def test_a_pods_file_is_read() -> None:
    assert parse_resolv_conf(_KUBERNETES) == Resolving(
        servers=("10.96.0.10",),
        search=("ns.svc.cluster.local", "svc.cluster.local", "cluster.local"),
        ndots=5,
    )


def test_a_pods_short_name_is_searched_first_and_a_long_one_last() -> None:
    resolving = parse_resolv_conf(_KUBERNETES)
    assert names_to_ask("cas.scone", resolving) == (
        "cas.scone.ns.svc.cluster.local.",
        "cas.scone.svc.cluster.local.",
        "cas.scone.cluster.local.",
        "cas.scone.",
    )
    assert names_to_ask("a.b.c.d.e.example", resolving)[0] == "a.b.c.d.e.example."


def test_a_name_that_ends_in_a_dot_is_not_searched() -> None:
    assert names_to_ask("cas.", parse_resolv_conf(_KUBERNETES)) == ("cas.",)


def test_nothing_said_means_the_local_server_and_no_search() -> None:
    assert parse_resolv_conf(b"") == Resolving(("127.0.0.1",))
    assert names_to_ask("cas", Resolving()) == ("cas.",)


def test_comments_and_what_is_not_understood_are_passed_over() -> None:
    data = (
        b"# nameserver 192.0.2.1\n; nameserver 192.0.2.2\nnameserver\nnameserver nonsense\n"
        b"nameserver 192.0.2.3 # kept\nsortlist 1\noptions nonsense ndots:x timeout: edns0\n"
        b"nameserver \xff\nnameserver fe80::1%eth0\n\0nameserver 192.0.2.4\n"
    )
    assert parse_resolv_conf(data) == Resolving(("192.0.2.3", "fe80::1%eth0"))


def test_the_last_of_domain_and_search_holds() -> None:
    assert parse_resolv_conf(b"search a b\ndomain c d\n").search == ("c",)
    assert parse_resolv_conf(b"domain c\nsearch a b\n").search == ("a", "b")


def test_options_stay_within_their_bounds() -> None:
    found = parse_resolv_conf(b"options ndots:99 timeout:99 attempts:99 use-vc\n")
    assert (found.ndots, found.timeout, found.attempts, found.tcp) == (15, 30, 5, True)
    found = parse_resolv_conf(b"options ndots:0 timeout:0 attempts:0\n")
    assert (found.ndots, found.timeout, found.attempts) == (0, 1, 1)


def test_no_more_servers_and_domains_than_bounds() -> None:
    data = b"nameserver 192.0.2.1\n" * 9 + b"search " + b"a.example " * 99
    found = parse_resolv_conf(data)
    assert (len(found.servers), len(found.search)) == (MAX_SERVERS, MAX_SEARCH)


def test_a_search_of_the_root_adds_nothing() -> None:
    assert names_to_ask("cas", parse_resolv_conf(b"search .\n")) == ("cas.",)


def test_hosts_gives_every_address_of_a_name_in_any_case() -> None:
    data = (
        b"127.0.0.1 localhost\n# 192.0.2.9 cas\n192.0.2.1\tother CAS # cas2\n\n"
        b"nonsense cas\n2001:db8::1 cas\n192.0.2.1 cas\ncas 192.0.2.5\n192.0.2.7 \xff cas\n"
    )
    assert find_in_hosts(data, "Cas.") == ("192.0.2.1", "2001:db8::1")
    assert find_in_hosts(data, "cas2") == ()


def test_hosts_of_a_thousand_addresses_gives_a_few() -> None:
    data = b"".join(b"10.0.%d.%d cas\n" % (n // 250, n % 250) for n in range(1000))
    assert len(find_in_hosts(data, "cas")) == 32


@pytest.mark.parametrize("name", ["localhost", "LOCALHOST.", "cas.localhost"])
def test_localhost_is_the_loopback_whatever_the_files_say(name: str) -> None:
    assert find_loopback(name) == ("127.0.0.1", "::1")


def test_other_names_are_not_the_loopback() -> None:
    assert find_loopback("localhost.example") == ()
    assert find_loopback("notlocalhost") == ()


@given(st.binary(max_size=400))
def test_any_bytes_are_read(data: bytes) -> None:
    for content in (data, b"nameserver " + data, b"options " + data, b"search " + data):
        found = parse_resolv_conf(content)
        assert found.servers
        assert all(is_address(server) for server in found.servers)
        assert names_to_ask("cas", found)[-1] == "cas." or found.ndots == 0
    for content in (data, b"192.0.2.1 " + data):
        assert all(is_address(each) for each in find_in_hosts(content, "cas"))
