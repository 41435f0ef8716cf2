"""What strangers and slow peers get: an answer or a closed connection, never a traceback."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from OpenSSL import SSL

from crannog.errors import Error, Unavailable
from crannog.exchange.attestation import AttestationClient
from crannog.transport.address import Address
from crannog.transport.connect import connect
from crannog.transport.http_client import HttpClient
from crannog.transport.names import resolve
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import client_context, client_stream, fresh_identity
from tests.api.helpers import SESSION, Cas, running, together


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Cas]:
    """A CAS with short deadlines and little room."""
    with running(
        tmp_path / "state",
        handshake_seconds=0.3,
        request_seconds=0.5,
        idle_seconds=0.3,
        connections=4,
    ) as cas:
        cas.post(SESSION)
        yield cas


def _raw(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=20)


def _client_hello() -> bytes:
    connection = SSL.Connection(client_context(fresh_identity()), None)
    connection.set_connect_state()
    with contextlib.suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(65536)


def _tls(address: Address) -> tuple[TlsStream, Deadline]:
    deadline = Deadline.after(20)
    sock = connect(address, deadline, "CAS", resolve)
    stream = client_stream(client_context(fresh_identity()), sock, None)
    stream.handshake(deadline)
    return stream, deadline


def _ended(sock: socket.socket) -> bool:
    """Whether the server closes, within the socket's own timeout."""
    try:
        while sock.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def _well(cas: Cas) -> None:
    """The CAS still answers on both ports, and nothing of it crashed."""
    assert cas.call("GET", "/v1/health")[0] == 200
    assert cas.attest().argv[0] == "python3"
    assert "crashed" not in cas.logged.text
    assert "Traceback" not in cas.logged.text


GARBAGE = [
    b"",
    b"\0" * 100,
    os.urandom(4096),
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"\x16\x03\x01\xff\xff" + b"\0" * 70000,
    b"\x16\x03\x01\x00\x05hello",
    b"\x15\x03\x03\x00\x02\x02\x28",
    struct.pack(">I", 0xFFFFFFFF),
]


@pytest.mark.parametrize("port", ["api", "enclave"])
@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_instead_of_tls_ends_the_connection(shared: Cas, port: str, data: bytes) -> None:
    with _raw(getattr(shared, port)) as sock:
        with contextlib.suppress(OSError):  # it may be quicker
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
        assert _ended(sock)
    _well(shared)


@pytest.mark.parametrize("port", ["api", "enclave"])
def test_tls_that_is_cut_in_the_handshake_ends_the_connection(shared: Cas, port: str) -> None:
    address: Address = getattr(shared, port)
    for length in (1, 5, 50, 200):
        with _raw(address) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(_client_hello()[:length])
                sock.shutdown(socket.SHUT_WR)
            assert _ended(sock)
    _well(shared)


@pytest.mark.parametrize("port", ["api", "enclave"])
def test_tls_that_is_cut_without_its_end_is_noticed(shared: Cas, port: str) -> None:
    stream, deadline = _tls(getattr(shared, port))
    stream.send(b"POST /session HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nab", deadline)
    stream._socket.close()  # no close notification: a truncation
    _well(shared)


FRAMES = [
    b"\0\0\0\x02{}",
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\0\0\0\x05hello",
    b"\0\0\x10\0" + b"[" * 4096,
    b'\0\0\0\x10{"type":"hello"}',
    b"\0\0\0\x04\xff\xfe\xfd\xfc",
]


@pytest.mark.parametrize("data", FRAMES, ids=range(len(FRAMES)))
def test_garbage_in_frames_is_refused_by_name(shared: Cas, data: bytes) -> None:
    stream, deadline = _tls(shared.enclave)
    stream.send(data, deadline)
    answer = stream.receive(deadline)
    stream.close()
    assert b'"type":"refusal"' in answer
    assert b'"malformed"' in answer or b'"too-large"' in answer
    _well(shared)


@pytest.mark.parametrize(
    "request_",
    [
        b"\r\n" * 50,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /session HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /session HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST /session HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 40000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \0\r\n\r\n",
        b"\0" * 40000,
    ],
    ids=range(10),
)
def test_garbage_in_http_is_answered_with_4xx(shared: Cas, request_: bytes) -> None:
    stream, deadline = _tls(shared.api)
    stream.send(request_, deadline)
    stream.finish()
    answer = b""
    while data := stream.receive(deadline):
        answer += data
    stream.close()
    # Empty lines alone are no request, and need no answer.
    assert answer.startswith((b"HTTP/1.1 4", b"")) if request_.isspace() else True
    if not request_.isspace():
        assert answer.startswith(b"HTTP/1.1 4")
        assert b'"msg":' in answer
    _well(shared)


def test_ten_megabytes_are_413(shared: Cas) -> None:
    body = b"#" * (10 * 1024 * 1024)
    status, answer = shared.call("POST", "/session", body, shared.owner)
    assert (status, answer["code"]) == (413, "too-large")
    _well(shared)


def test_ten_megabytes_in_chunks_are_413(shared: Cas) -> None:
    stream, deadline = _tls(shared.api)
    head = b"POST /session HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    stream.send(head, deadline)
    chunk = b"10000\r\n" + b"#" * 65536 + b"\r\n"
    try:
        for _ in range(160):
            stream.send(chunk, deadline)
    except Unavailable:
        pass  # it has heard enough
    assert stream.receive(deadline).startswith(b"HTTP/1.1 413")
    stream.close()
    _well(shared)


def test_a_body_that_is_too_large_is_refused_before_it_is_sent(shared: Cas) -> None:
    stream, deadline = _tls(shared.api)
    stream.send(
        b"POST /session HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n"
        b"Expect: 100-continue\r\n\r\n",
        deadline,
    )
    assert stream.receive(deadline).startswith(b"HTTP/1.1 413")
    stream.close()


def test_a_body_is_asked_for_with_100_continue(shared: Cas) -> None:
    stream, deadline = _tls(shared.api)
    stream.send(
        b"POST /session HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n",
        deadline,
    )
    assert stream.receive(deadline).startswith(b"HTTP/1.1 100 ")
    stream.send(b"{}", deadline)
    assert stream.receive(deadline).startswith(b"HTTP/1.1 422 ")
    stream.close()


def test_a_connection_is_kept_for_several_requests(shared: Cas) -> None:
    stream, deadline = _tls(shared.api)
    for _ in range(3):
        stream.send(b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n", deadline)
        assert stream.receive(deadline).startswith(b"HTTP/1.1 200 ")
    stream.close()


def test_requests_sent_together_are_answered_in_order(shared: Cas) -> None:
    stream, deadline = _tls(shared.api)
    one = b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n"
    two = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    stream.send(one + two, deadline)
    answer = b""
    while data := stream.receive(deadline):
        answer += data
    stream.close()
    assert answer.index(b"HTTP/1.1 200") < answer.index(b"HTTP/1.1 404")


# --- slow peers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["api", "enclave"])
def test_who_never_shakes_hands_is_cut_off(hasty: Cas, port: str) -> None:
    with _raw(getattr(hasty, port)) as sock:
        assert _ended(sock)
    _well(hasty)


def test_who_says_nothing_after_the_handshake_is_cut_off(hasty: Cas) -> None:
    for address in (hasty.api, hasty.enclave):
        stream, deadline = _tls(address)
        try:
            while stream.receive(deadline):
                pass
        except Unavailable:
            pass
        assert deadline.left() > 10
        stream.close()
    _well(hasty)


def test_a_request_that_trickles_is_cut_off_however_steadily(hasty: Cas) -> None:
    stream, deadline = _tls(hasty.api)
    request = b"GET /v1/version HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 10_000
    cut = threading.Event()

    def trickle() -> None:
        try:
            for byte in request:
                stream.send(bytes([byte]), deadline)
                if cut.wait(0.02):
                    return
        except Error:
            return

    thread = threading.Thread(target=trickle)
    thread.start()
    thread.join(10)
    cut.set()
    assert not thread.is_alive(), "still trickling"
    stream.close()
    _well(hasty)


def test_a_launcher_that_stops_after_the_challenge_is_cut_off(hasty: Cas) -> None:
    stream, deadline = _tls(hasty.enclave)
    stream.send(AttestationClient().hello("tutorial/application"), deadline)
    assert b"challenge" in stream.receive(deadline)
    with contextlib.suppress(Unavailable):
        assert stream.receive(deadline) == b""
    assert deadline.left() > 10
    stream.close()
    _well(hasty)


def test_idle_peers_do_not_keep_others_out(tmp_path: Path) -> None:
    with running(tmp_path / "state", connections=8) as cas, contextlib.ExitStack() as idle:
        cas.post(SESSION)
        for address in [cas.enclave, cas.api] * 10:
            idle.enter_context(_raw(address))
        results = together(16, lambda _: cas.attest())
        assert [one for one in results if isinstance(one, Exception)] == []
        assert cas.call("GET", "/v1/health")[0] == 200


def test_peers_that_do_not_read_their_answers_do_not_keep_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crannog.transport.listener.DELIVERY_SECONDS", 0.0)
    large = SESSION.replace("hunter2", "x" * 60_000)
    with running(tmp_path / "state", connections=4) as cas, contextlib.ExitStack() as slow:
        cas.post(large)
        requests = b"GET /v1/sessions/tutorial HTTP/1.1\r\nHost: cas\r\n\r\n" * 400
        for _ in range(4):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect((cas.api.host, cas.api.port))
            stream = client_stream(client_context(cas.owner), sock, None)
            slow.callback(stream.close)
            stream.handshake(Deadline.after(20))
            stream.send(requests, Deadline.after(20))
        assert cas.call("GET", "/v1/health")[0] == 200
        assert cas.server._api is not None
        assert cas.server._api.counts()["evicted"] >= 1


# --- at once, and stopping ------------------------------------------------------------------------


def test_sixty_four_clients_of_the_api_at_once_all_get_an_answer(shared: Cas) -> None:
    client = HttpClient(shared.api, identity=shared.owner)
    results = together(64, lambda _: client.request("GET", "/v1/sessions/tutorial").status)
    assert results == [200] * 64


def test_stopping_ends_idle_connections_and_finishes_open_requests(tmp_path: Path) -> None:
    with running(tmp_path / "state", drain_seconds=20.0) as cas:
        cas.post(SESSION)
        idle, deadline = _tls(cas.api)
        idle.send(b"GET /v1/version HTTP/1.1\r\nHost: x\r\n\r\n", deadline)
        assert idle.receive(deadline).startswith(b"HTTP/1.1 200")
        address = cas.api
    # Stopped well within the time for open requests, since none was open.
    assert deadline.left() > 5
    with contextlib.suppress(Unavailable):
        assert idle.receive(deadline) == b""
    idle.close()
    with pytest.raises(Unavailable, match="refused"):
        connect(address, Deadline.after(5), "CAS", resolve)


def test_a_session_whose_hash_was_returned_is_there_after_a_stop(tmp_path: Path) -> None:
    with running(tmp_path / "state") as cas:
        owner, text = cas.owner, 'name: storm-{}\nversion: "0.3"\n'
        done = together(16, lambda n: cas.post(text.format(n)))
    with running(tmp_path / "state") as again:
        for number, found in enumerate(done):
            _, body = again.call("GET", f"/v1/sessions/storm-{number}", who=owner)
            assert body["hash"] == found
