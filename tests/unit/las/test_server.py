from __future__ import annotations

import contextlib
import io
import os
import socket
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from crannog.errors import Error, Misconfigured, Refused, Unavailable
from crannog.evidence.claims import Trust
from crannog.evidence.verify import verify
from crannog.exchange.las import QuoteRequest, Status
from crannog.las.answers import Answers
from crannog.las.key import KEY_FILE, load_key
from crannog.las.server import LasServer
from crannog.las.settings import LasSettings
from crannog.levels import Level
from crannog.transport.address import Address
from crannog.transport.las_client import LasAddress, LasConnection, UnixAddress
from crannog.transport.log import server_log
from crannog.wire import frame

REQUEST = QuoteRequest(b"r" * 64, b"m" * 32, b"l" * 32, "s/a", "cas:18765")
NOW = datetime(2026, 11, 23, tzinfo=UTC)


class Las:
    """A running LAS and what it logged."""

    def __init__(self, directory: Path, **changes: object) -> None:
        settings = LasSettings(
            directory / "state", ("127.0.0.1", 0), directory / "run" / "las.sock"
        )
        self.file = io.StringIO()
        settings = replace(settings, **changes)  # type: ignore[arg-type]
        self.server = LasServer(settings, log=server_log(self.file))

    @property
    def tcp(self) -> Address:
        return Address(*self.server.address)

    @property
    def unix(self) -> UnixAddress:
        return UnixAddress(str(self.server.socket_path))

    def address(self, kind: str) -> LasAddress:
        return self.tcp if kind == "tcp" else self.unix


@pytest.fixture
def las(tmp_path: Path) -> Iterator[Las]:
    made = Las(tmp_path)
    with made.server:
        yield made


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_quote_is_of_level_simulation_and_names_its_method(las: Las, kind: str) -> None:
    with LasConnection(las.address(kind)) as connection:
        envelope = connection.quote(REQUEST)
    claims = verify(envelope, Trust(), NOW)
    assert claims.level is Level.SIMULATION
    assert claims.method == f"las/{kind}"
    assert claims.mrenclave == REQUEST.mrenclave
    assert claims.report_data == REQUEST.report_data
    assert claims.cas == REQUEST.cas


def test_an_enrolled_las_still_vouches_for_simulation_only(las: Las) -> None:
    trust = Trust(frozenset({bytes.fromhex(las.server.public_key)}))
    with LasConnection(las.unix) as connection:
        claims = verify(connection.quote(REQUEST), trust, NOW)
    assert claims.level is Level.SIMULATION
    assert "no launcher directory" in claims.reason


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_the_probe_says_level_and_why(las: Las, kind: str) -> None:
    with LasConnection(las.address(kind)) as connection:
        status = connection.probe()
    assert status.level is Level.SIMULATION
    assert status.public_key.hex() == las.server.public_key
    assert ("own word" if kind == "tcp" else "no launcher directory") in status.reason


def test_the_log_lines_are_the_reference_s(las: Las) -> None:
    lines = las.file.getvalue().splitlines()
    # docs of the reference: field 8 of the line that holds "public"
    (key,) = [line.split()[7] for line in lines if "public" in line]
    assert key == las.server.public_key
    assert len(key) == 64
    host, port = las.server.address
    assert any(f"LAS is listening on {host}:{port}" in line for line in lines)
    assert any("simulation only" in line for line in lines)


def test_the_key_survives_a_restart(tmp_path: Path) -> None:
    first = Las(tmp_path)
    with first.server:
        key = first.server.public_key
    with Las(tmp_path).server as second:
        assert second.public_key == key


def test_the_key_file_is_its_owner_s_only(tmp_path: Path) -> None:
    load_key(tmp_path / "state")
    assert stat.S_IMODE((tmp_path / "state" / KEY_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o700


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_key(tmp_path)
    (tmp_path / KEY_FILE).chmod(0o644)
    with pytest.raises(Misconfigured, match="mode 0644"):
        load_key(tmp_path)


@pytest.mark.parametrize("text", ["", "zz" * 32, "00" * 31, "00" * 32 + "x"])
def test_a_damaged_key_file_is_refused_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / KEY_FILE
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(Misconfigured, match="damaged") as caught:
        load_key(tmp_path)
    assert path.read_text() == text
    assert not text or text not in str(caught.value)


def test_a_key_file_that_is_a_link_is_refused(tmp_path: Path) -> None:
    load_key(tmp_path / "other")
    (tmp_path / KEY_FILE).symlink_to(tmp_path / "other" / KEY_FILE)
    with pytest.raises(Error):
        load_key(tmp_path)


def test_two_that_start_at_once_have_one_key(tmp_path: Path) -> None:
    keys: list[bytes] = []
    threads = [
        threading.Thread(
            target=lambda: keys.append(load_key(tmp_path).public_key().public_bytes_raw())
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(keys)) == 1
    assert os.listdir(tmp_path) == [KEY_FILE]


def test_no_evidence_on_a_connection_after_the_configuration_was_acknowledged(las: Las) -> None:
    with LasConnection(las.tcp) as connection:
        connection.quote(REQUEST)
        connection.configured()
        with pytest.raises(Refused, match="configured already"):
            connection.quote(REQUEST)


def test_no_evidence_for_a_process_after_it_acknowledged_its_configuration(las: Las) -> None:
    with LasConnection(las.unix) as connection:
        connection.quote(REQUEST)
    with LasConnection(las.unix) as connection:
        connection.quote(REQUEST)  # it may ask again until then
        connection.configured()
    with LasConnection(las.unix) as connection:
        with pytest.raises(Refused, match="configured already"):
            connection.quote(REQUEST)
        assert connection.probe().level is Level.SIMULATION


def test_the_socket_is_for_everybody_and_its_directory_is_not(las: Las) -> None:
    path = las.server.socket_path
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o022 == 0


def test_a_directory_in_which_others_could_replace_the_socket_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    made = Las(tmp_path)
    with pytest.raises(Misconfigured, match="only its owner can write"):
        made.server.start()


def test_the_socket_is_gone_after_a_stop(tmp_path: Path) -> None:
    made = Las(tmp_path)
    with made.server as server:
        path = server.socket_path
        assert path is not None
        assert path.exists()
    assert not path.exists()


def test_a_las_that_ends_leaves_the_socket_of_the_one_that_comes_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Las(tmp_path, listen=None), Las(tmp_path, listen=None)
    asked, answered = threading.Event(), threading.Event()
    status = Answers.status

    def slow(self: Answers, method: str) -> Status:
        asked.set()
        answered.wait(20)
        return status(self, method)

    monkeypatch.setattr(Answers, "status", slow)
    first.server.start()

    def ask() -> None:
        with LasConnection(first.unix) as connection:
            connection.probe()

    # What it still answers keeps it for a while.
    client = threading.Thread(target=ask)
    client.start()
    assert asked.wait(20)
    ending = threading.Thread(target=first.server.stop)
    ending.start()
    try:
        _start_when_free(second)
        answered.set()
        ending.join()
        with LasConnection(second.unix) as connection:
            assert connection.probe().version
    finally:
        answered.set()
        ending.join()
        client.join()
        second.server.stop()


def _start_when_free(las: Las) -> None:
    """Start it as soon as nobody listens at its socket any more."""
    deadline = time.monotonic() + 20
    while True:
        try:
            las.server.start()
        except Misconfigured:
            if time.monotonic() > deadline:
                raise
        else:
            return
        time.sleep(0.01)


def test_a_port_that_is_taken_says_so(las: Las, tmp_path: Path) -> None:
    other = Las(tmp_path / "other", listen=las.server.address, socket=None)
    with pytest.raises(Misconfigured, match="address already in use"):
        other.server.start()


GARBAGE = [
    b"\xff\xff\xff\xff",
    b"\0\0\0\x00",
    frame(b"{}", limit=10),
    frame(b'{"type":"quote"}', limit=100),
    b"GET / HTTP/1.1\r\n\r\n",
    os.urandom(1024),
]


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_refused_and_the_las_goes_on(las: Las, kind: str, data: bytes) -> None:
    if kind == "tcp":
        sock = socket.create_connection(las.server.address, timeout=20)
    else:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(las.unix.path)
    with sock, contextlib.suppress(ConnectionError):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while more := sock.recv(65536):
            answer += more
        assert b'"refusal"' in answer or answer == b""
    with LasConnection(las.tcp) as connection:
        connection.probe()
    assert "crashed" not in las.file.getvalue()


def test_a_slow_peer_is_cut_off(tmp_path: Path) -> None:
    las = Las(tmp_path, request_seconds=0.2)
    with las.server, socket.create_connection(las.server.address, timeout=20) as sock:
        sock.sendall(b"\0\0")
        assert sock.recv(100) == b""


def test_who_asks_without_end_is_cut_off(las: Las) -> None:
    with LasConnection(las.tcp) as connection:
        for _ in range(16):
            connection.probe()
        with pytest.raises(Unavailable):
            connection.probe()


def test_peers_that_hold_connections_do_not_keep_others_out(tmp_path: Path) -> None:
    las = Las(tmp_path, connections=4)
    with las.server, contextlib.ExitStack() as held:
        for _ in range(8):
            held.enter_context(socket.create_connection(las.server.address, timeout=20))
        with LasConnection(las.tcp, seconds=20) as connection:
            assert connection.probe().level is Level.SIMULATION
