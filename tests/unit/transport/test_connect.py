from __future__ import annotations

import socket
from pathlib import Path

import pytest

from crannog.errors import Misconfigured, Unavailable
from crannog.transport.address import Address
from crannog.transport.connect import connect, connect_unix
from crannog.transport.listener import tcp_socket, unix_socket
from crannog.transport.names import Names, resolve
from crannog.transport.nameservers import Endpoint
from crannog.transport.stream import Deadline, SocketStream, TimedOut


def test_a_name_that_does_not_resolve_is_named(tmp_path: Path) -> None:
    nobody = Names(str(tmp_path), port=1).resolve
    with pytest.raises(Unavailable, match=r"resolution of CAS address cas\.invalid:18765 failed"):
        connect(Address("cas.invalid", 18765), Deadline.after(5), "CAS", nobody)


def test_a_refused_connection_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(Unavailable, match=f"cannot connect to LAS at 127.0.0.1:{port}: .*refused"):
        connect(Address("127.0.0.1", port), Deadline.after(5), "LAS", resolve)


def test_each_reason_is_named_where_a_name_has_several_addresses() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    endpoints = (
        Endpoint(socket.AF_INET, ("127.0.0.1", port)),
        Endpoint(socket.AF_INET, ("255.255.255.255", port)),
        Endpoint(socket.AF_INET, ("127.0.0.1", port)),
    )
    with pytest.raises(Unavailable, match=r"LAS at las:1: connection refused, \w.*$") as caught:
        connect(Address("las", 1), Deadline.after(5), "LAS", lambda *_: endpoints)
    assert caught.value.message.count("refused") == 1


def test_a_socket_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="no such file"):
        connect_unix(str(tmp_path / "las.sock"), Deadline.after(5), "LAS")


def test_a_silent_peer_times_out_at_the_deadline() -> None:
    one, other = socket.socketpair()
    stream = SocketStream(one)
    with pytest.raises(TimedOut, match="timed out while waiting"):
        stream.receive(Deadline.after(0.02))
    stream.close()
    other.close()


def test_a_peer_that_reads_nothing_times_out_at_the_deadline() -> None:
    one, other = socket.socketpair()
    stream = SocketStream(one)
    with pytest.raises(TimedOut, match="timed out while sending"):
        stream.send(b"x" * 10_000_000, Deadline.after(0.02))
    stream.close()
    other.close()


def test_a_port_that_is_taken_is_named_with_how_to_find_by_whom() -> None:
    with tcp_socket("127.0.0.1", 0, "LAS") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(Misconfigured, match=f"LAS cannot listen on 127.0.0.1:{port}") as caught:
            tcp_socket("127.0.0.1", port, "LAS")
    assert f":{port}" in caught.value.hint


def test_a_dead_socket_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "las.sock"
    unix_socket(path, "LAS").close()
    with (
        unix_socket(path, "LAS"),
        pytest.raises(Misconfigured, match="somebody listens there"),
    ):
        unix_socket(path, "LAS")


def test_a_file_that_is_no_socket_is_never_removed(tmp_path: Path) -> None:
    path = tmp_path / "las.sock"
    path.write_text("precious")
    with pytest.raises(Misconfigured, match="not a socket"):
        unix_socket(path, "LAS")
    assert path.read_text() == "precious"
