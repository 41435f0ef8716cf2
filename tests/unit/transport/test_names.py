"""Names to addresses: real files, a fake DNS server over real sockets."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crannog.errors import Misconfigured
from crannog.testing.dns import FakeDns, Query
from crannog.transport.address import Address
from crannog.transport.connect import connect
from crannog.transport.names import HOSTS_LIMIT, Names
from crannog.transport.nameservers import Endpoint, NotResolved, parse_literal
from crannog.transport.stream import Deadline
from crannog.transport.system_names import resolve_by_system

RECORDS: dict[str, tuple[str, ...] | str] = {
    "cas.example": ("192.0.2.1", "2001:db8::1"),
    "alias.example": "cas.example",
    "four.example": ("192.0.2.4",),
    "six.example": ("2001:db8::6",),
    "nothing.example": (),
    "cas.ns.svc.cluster.local": ("10.96.0.1",),
}
KUBERNETES = "search ns.svc.cluster.local svc.cluster.local\noptions ndots:5 timeout:5\n"

Make = Callable[..., Names]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(dns: FakeDns | None, resolv_conf: str = "", hosts: str = "") -> Names:
        (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n" + resolv_conf)
        (tmp_path / "hosts").write_text(hosts)
        return Names(str(tmp_path), port=dns.port if dns else 1)

    return make


def addresses(names: Names, host: str, seconds: float = 20) -> list[str]:
    found = names.resolve(Address(host, 5), Deadline.after(seconds))
    assert all(each.target[1] == 5 for each in found)
    return [each.target[0] for each in found]


def test_a_name_has_both_kinds_of_addresses_ipv4_first(make: Make) -> None:
    with FakeDns(RECORDS) as dns:
        assert addresses(make(dns), "CAS.example") == ["192.0.2.1", "2001:db8::1"]
        assert addresses(make(dns), "alias.example") == ["192.0.2.1", "2001:db8::1"]
        assert addresses(make(dns), "six.example") == ["2001:db8::6"]


def test_a_pods_short_name_is_found_by_its_search_list(make: Make) -> None:
    with FakeDns(RECORDS) as dns:
        assert addresses(make(dns, KUBERNETES), "cas") == ["10.96.0.1"]
        assert {query.name.lower() for query in dns.queries} == {"cas.ns.svc.cluster.local"}


def test_a_full_name_is_found_in_a_pod_after_its_search_list(make: Make) -> None:
    with FakeDns(RECORDS) as dns:
        assert addresses(make(dns, KUBERNETES), "four.example") == ["192.0.2.4"]
        assert dns.queries[0].name.lower() == "four.example.ns.svc.cluster.local"


def test_hosts_comes_before_any_server(make: Make) -> None:
    with FakeDns(RECORDS) as dns:
        assert addresses(make(dns, hosts="192.0.2.77 cas.example\n"), "cas.example") == [
            "192.0.2.77"
        ]
        assert dns.queries == []


def test_localhost_and_numbers_need_no_file() -> None:
    names = Names("/nowhere/at/all")
    assert addresses(names, "localhost") == ["127.0.0.1", "::1"]
    assert addresses(names, "192.0.2.1") == ["192.0.2.1"]
    assert addresses(names, "::1") == ["::1"]


def test_a_scope_is_a_number_or_an_interface() -> None:
    assert parse_literal("fe80::1%7", 5) == Endpoint(socket.AF_INET6, ("fe80::1", 5, 0, 7))
    number, name = socket.if_nameindex()[0]
    assert parse_literal(f"fe80::1%{name}", 5) == Endpoint(
        socket.AF_INET6, ("fe80::1", 5, 0, number)
    )
    with pytest.raises(NotResolved, match="no such network interface"):
        parse_literal("fe80::1%nowhere", 5)


def test_a_name_that_is_not_known_is_named_with_who_was_asked(make: Make) -> None:
    with (
        FakeDns(RECORDS) as dns,
        pytest.raises(NotResolved, match=r"'cas' is not known \(asked 127\.0\.0\.1\)"),
    ):
        make(dns).resolve(Address("cas", 5), Deadline.after(20))


def test_a_name_without_addresses_is_not_known(make: Make) -> None:
    with FakeDns(RECORDS) as dns, pytest.raises(NotResolved, match="not known"):
        make(dns).resolve(Address("nothing.example", 5), Deadline.after(20))


def test_what_cannot_be_a_name_is_refused_before_anybody_is_asked(make: Make) -> None:
    with FakeDns(RECORDS) as dns:
        with pytest.raises(Misconfigured, match="other characters"):
            make(dns).resolve(Address("cas/example", 5), Deadline.after(20))
        assert dns.queries == []


def test_an_answer_that_is_cut_off_is_asked_for_over_a_stream(make: Make) -> None:
    def cut(query: Query, answer: bytes) -> bytes:
        if query.stream:
            return answer
        return answer[:2] + bytes((answer[2] | 2,)) + answer[3:6] + bytes(6) + answer[12:30]

    with FakeDns({"many.example": tuple(f"192.0.2.{n}" for n in range(30))}, change=cut) as dns:
        assert len(addresses(make(dns), "many.example")) == 30
        assert any(query.stream for query in dns.queries)


def test_a_server_that_does_not_keep_the_names_case_is_asked_over_a_stream(make: Make) -> None:
    def lower(query: Query, answer: bytes) -> bytes:
        return answer[:12] + answer[12:].lower() if not query.stream else answer

    with FakeDns({"four.example": ("192.0.2.4",)}, change=lower) as dns:
        assert addresses(make(dns), "four.example") == ["192.0.2.4"]


@given(st.binary(max_size=80), st.integers(0, 60))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_bytes_of_a_server_give_an_address_or_our_error(data: bytes, at: int) -> None:
    def garble(_query: Query, answer: bytes) -> bytes:
        return answer[:at] + data + answer[at + len(data) :]

    with tempfile.TemporaryDirectory() as directory, FakeDns(RECORDS, change=garble) as dns:
        Path(directory, "resolv.conf").write_text("nameserver 127.0.0.1\noptions use-vc\n")
        names = Names(directory, port=dns.port)
        with contextlib.suppress(NotResolved):
            assert addresses(names, "cas.example")


def test_use_vc_sends_no_datagram(make: Make) -> None:
    with FakeDns(RECORDS) as dns:
        assert addresses(make(dns, "options use-vc\n"), "four.example") == ["192.0.2.4"]
        assert all(query.stream for query in dns.queries)


@pytest.mark.parametrize(
    "forge",
    [
        lambda answer: bytes((answer[0] ^ 1,)) + answer[1:],
        lambda answer: b"",
        lambda answer: b"\xff" * 40,
        lambda answer: answer[:12],
    ],
)
def test_a_wrong_datagram_is_not_the_answer_and_ends_nothing(
    make: Make, forge: Callable[[bytes], bytes]
) -> None:
    sent: set[bytes] = set()

    def first_wrong(query: Query, answer: bytes) -> bytes:
        if query.message in sent:
            return answer
        sent.add(query.message)
        return forge(answer)

    with FakeDns(RECORDS, change=first_wrong) as dns, pytest.raises(NotResolved, match="no answer"):
        make(dns, "options timeout:1 attempts:1\n").resolve(
            Address("four.example", 5), Deadline.after(20)
        )
    assert sent


def test_a_lost_datagram_is_sent_again(make: Make) -> None:
    lost: list[Query] = []

    def lose(query: Query, answer: bytes) -> bytes | None:
        if len(lost) < 2:
            lost.append(query)
            return None
        return answer

    with FakeDns(RECORDS, change=lose) as dns:
        assert addresses(make(dns, "options timeout:1\n"), "four.example") == ["192.0.2.4"]


def test_a_family_that_is_never_answered_does_not_hold_up_the_other(make: Make) -> None:
    def only_four(query: Query, answer: bytes) -> bytes | None:
        return answer if query.kind == 1 else None

    with FakeDns(RECORDS, change=only_four) as dns:
        # Less than the 30 seconds of one round.
        assert addresses(make(dns, "options timeout:30\n"), "cas.example", 15) == ["192.0.2.1"]


def test_a_name_that_does_not_exist_is_so_for_both_families(make: Make) -> None:
    def only_four(query: Query, answer: bytes) -> bytes | None:
        return answer if query.kind == 1 else None

    with FakeDns(RECORDS, change=only_four) as dns, pytest.raises(NotResolved, match="not known"):
        make(dns, "options timeout:30\n").resolve(Address("cas", 5), Deadline.after(10))


def test_a_server_that_fails_is_passed_over_for_the_next(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\nnameserver 127.0.0.2\n")

    def fail(_query: Query, answer: bytes) -> bytes:
        return answer[:3] + b"\x82" + answer[4:6] + bytes(6) + answer[12:]

    with FakeDns(RECORDS, change=fail) as failing:
        with FakeDns(RECORDS, address="127.0.0.2", port=failing.port):
            names = Names(str(tmp_path), port=failing.port)
            assert addresses(names, "four.example") == ["192.0.2.4"]
        assert failing.queries


def test_where_nobody_listens_it_fails_at_once_and_says_so(make: Make) -> None:
    with pytest.raises(NotResolved, match=r"no DNS server answers: 127\.0\.0\.1: conn.* refused"):
        make(None, "options timeout:30\n").resolve(Address("cas", 5), Deadline.after(20))


def test_the_deadline_ends_any_waiting(make: Make) -> None:
    with FakeDns(RECORDS, change=lambda _query, _answer: None) as dns, pytest.raises(NotResolved):
        make(dns, "options timeout:30\n").resolve(Address("cas", 5), Deadline.after(0.05))


def test_every_question_has_another_identity_case_and_port(make: Make) -> None:
    with FakeDns(RECORDS) as dns:
        for _ in range(8):
            addresses(make(dns), "four.example")
        assert len({query.message[:2] for query in dns.queries}) > 8
        assert len({query.name for query in dns.queries}) > 4


def test_random_bytes_are_the_callers(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    with FakeDns(RECORDS) as dns:
        names = Names(str(tmp_path), random=lambda size: b"\xff" * size, port=dns.port)
        addresses(names, "four.example")
        assert {query.message[:2] for query in dns.queries} == {b"\xff\xff"}
        assert {query.name for query in dns.queries} == {"FOUR.EXAMPLE"}


@pytest.mark.parametrize("name", ["hosts", "resolv.conf"])
def test_a_link_is_not_followed(tmp_path: Path, name: str) -> None:
    target = tmp_path / "target"
    target.write_text("nameserver 127.0.0.1\n")
    (tmp_path / name).symlink_to(target)
    with pytest.raises(
        NotResolved, match=r"is a link to .*target', which is not followed"
    ) as caught:
        Names(str(tmp_path), port=1).resolve(Address("cas", 5), Deadline.after(20))
    assert "regular file" in caught.value.hint


def test_a_link_of_the_directory_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "etc").symlink_to("real")
    with pytest.raises(NotResolved, match="etc/hosts: not a directory"):
        Names(str(tmp_path / "etc"), port=1).resolve(Address("cas", 5), Deadline.after(20))


def test_a_link_to_systemd_resolveds_file_is_its_server_and_is_not_followed(
    tmp_path: Path,
) -> None:
    (tmp_path / "resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    with FakeDns(RECORDS, address="127.0.0.53") as dns:
        names = Names(str(tmp_path), port=dns.port)
        assert addresses(names, "four.example") == ["192.0.2.4"]


@pytest.mark.parametrize("name", ["hosts", "resolv.conf"])
def test_a_fifo_is_refused_and_does_not_block(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(NotResolved, match="not a regular file"):
        Names(str(tmp_path), port=1).resolve(Address("cas", 5), Deadline.after(20))


def test_a_file_that_is_too_large_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "hosts").open("wb") as file:
        file.truncate(HOSTS_LIMIT + 1)
    with pytest.raises(NotResolved, match="hosts: larger than 1048576 bytes"):
        Names(str(tmp_path), port=1).resolve(Address("cas", 5), Deadline.after(20))


def test_every_address_of_a_name_is_tried(make: Make) -> None:
    with (
        FakeDns({"two.example": ("127.0.0.3", "127.0.0.1")}) as dns,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        port = server.getsockname()[1]
        address = Address("two.example", port)
        with connect(address, Deadline.after(20), "CAS", make(dns).resolve) as sock:
            assert sock.getpeername() == ("127.0.0.1", port)


def test_the_systems_resolver_gives_the_same_for_numbers() -> None:
    for host in ("127.0.0.1", "::1"):
        ours = Names("/nowhere").resolve(Address(host, 5), Deadline.after(5))
        assert resolve_by_system(Address(host, 5), Deadline.after(5)) == ours


def test_the_systems_resolver_says_what_it_does_not_know() -> None:
    with pytest.raises(NotResolved, match="name 'a b'"):
        resolve_by_system(Address("a b", 5), Deadline.after(5))
