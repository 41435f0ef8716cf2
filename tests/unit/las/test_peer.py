"""Who asks on the socket: one process, held, and once a container has its configuration nobody."""

from __future__ import annotations

import array
import contextlib
import errno
import io
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from crannog.errors import Denied, Refused, Unavailable, chain
from crannog.evidence.statement import METHOD_LAS_UNIX
from crannog.exchange.las import LasClient, Quoted, QuoteRequest
from crannog.las.answers import EARLY, Answers, Asker, Vouching
from crannog.las.key import load_key
from crannog.las.peer import Acknowledged, Connected, CredentialStream, ask_for_senders
from crannog.las.process import Process
from crannog.las.vouching import Run, Verdict
from crannog.runtime.witness import stated
from crannog.transport.las_client import LasConnection
from crannog.transport.log import server_log
from crannog.transport.pace import Pace
from crannog.transport.stream import Deadline, TimedOut
from tests.unit.las.test_server import REQUEST, Las

SOON = 20.0


@pytest.fixture
def las(tmp_path: Path) -> Iterator[Las]:
    """A LAS with a socket."""
    made = Las(tmp_path)
    with made.server:
        yield made


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Our end, and the accepted one."""
    with (
        socket.socket(socket.AF_UNIX) as listening,
        socket.socket(socket.AF_UNIX) as client,
    ):
        listening.bind(str(tmp_path / "socket"))
        ask_for_senders(listening)
        listening.listen()
        client.connect(str(tmp_path / "socket"))
        # Before it is accepted: the sender is known all the same.
        client.sendall(b"early")
        accepted, _ = listening.accept()
        with accepted:
            yield client, accepted


def _in_child(work: object) -> int:
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            work()  # type: ignore[operator]
            status = 0
        os._exit(status)
    return os.waitpid(child, 0)[1]


def test_what_the_connecting_process_sends_is_received(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    stream = CredentialStream(pair[1], os.getpid())
    assert stream.receive(Deadline.after(SOON)) == b"early"
    pair[0].sendall(b"late")
    assert stream.receive(Deadline.after(SOON)) == b"late"
    pair[0].close()
    assert stream.receive(Deadline.after(SOON)) == b""


def test_what_a_forked_holder_sends_is_refused(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    assert _in_child(lambda: pair[0].sendall(b"child")) == 0
    stream = CredentialStream(pair[1], os.getpid())
    # The bytes of two senders are never joined.
    assert stream.receive(Deadline.after(SOON)) == b"early"
    with pytest.raises(Denied, match="one process connects and asks"):
        stream.receive(Deadline.after(SOON))


def test_a_socket_whose_senders_nobody_asked_for_is_refused() -> None:
    one, other = socket.socketpair()
    with one, other:
        one.sendall(b"x")
        with pytest.raises(Denied, match="does not say who sent"):
            CredentialStream(other, os.getpid()).receive(Deadline.after(SOON))


def test_a_slow_sender_times_out(pair: tuple[socket.socket, socket.socket]) -> None:
    stream = CredentialStream(pair[1], os.getpid())
    stream.receive(Deadline.after(SOON))
    with pytest.raises(TimedOut):
        stream.receive(Deadline.after(0.01))


def test_descriptors_that_somebody_sends_do_not_stay_open(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    stream = CredentialStream(pair[1], os.getpid())
    stream.receive(Deadline.after(SOON))
    before = set(os.listdir("/proc/self/fd"))
    descriptors = array.array("i", [pair[0].fileno()] * 16)
    pair[0].sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
    with contextlib.suppress(Denied):
        stream.receive(Deadline.after(SOON))
    assert set(os.listdir("/proc/self/fd")) == before


def test_the_connected_process_is_known(pair: tuple[socket.socket, socket.socket]) -> None:
    connected = Connected(pair[1])
    try:
        assert connected.peer is not None
        assert connected.peer.pid == os.getpid()
        assert connected.process is not None
        assert connected.process.alive()
        assert connected.process.facts().pid == os.getpid()
    finally:
        connected.close()
    assert connected.process is None


def test_a_process_that_has_ended_is_not_looked_at() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    process = Process(child.pid)
    with process:
        assert process.alive()
        child.communicate(b"\n")
        assert not process.alive()
        with pytest.raises(Denied, match="cannot be read"):
            process.facts()
    with pytest.raises(Denied, match="ended"):
        Process(child.pid)


def test_the_las_answers_a_forked_holder_with_a_refusal(las: Las) -> None:
    def ask() -> None:
        with pytest.raises(Refused, match="one process connects and asks"):
            connection.quote(REQUEST)

    with LasConnection(las.unix) as connection:
        connection.probe()
        assert _in_child(ask) == 0
    with LasConnection(las.unix) as connection:
        connection.quote(REQUEST)


def test_acknowledged_forgets_the_oldest_first() -> None:
    known = Acknowledged(limit=2)
    for number in range(3):
        known.add(Run("c", 1, number))
    assert not known.holds(Run("c", 1, 0))
    assert known.holds(Run("c", 1, 2))


class OneContainer:
    """A witness for whom every process is in one container."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.launchers = self

    def unready(self) -> str:
        """It can look."""
        return ""

    def digests(self) -> tuple[bytes, ...]:
        """It has no launcher."""
        return ()

    def records(self) -> tuple[str, ...]:
        """Nor records."""
        return ()

    def container(self, process: Process) -> Run:
        """The container."""
        del process
        return self.run


def _answers(tmp_path: Path, run: Run) -> Answers:
    witness = OneContainer(run)
    log = server_log(io.StringIO())
    return Answers(load_key(tmp_path), Vouching(witness, "a reason"), log)  # type: ignore[arg-type]


def _asker(sock: socket.socket) -> Asker:
    return Asker(METHOD_LAS_UNIX, Connected(sock))


def _let_go(asker: Asker) -> None:
    assert asker.connected is not None
    asker.connected.close()


def test_once_the_init_is_configured_no_process_of_the_container_gets_evidence(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    run = Run("c" * 64, os.getpid(), 1)
    answers = _answers(tmp_path / "state", run)
    first, other = _asker(pair[1]), _asker(pair[1])
    answers.quote(REQUEST, first)
    answers.configured(first)
    assert other.connected is not None
    assert other.connected.peer is not None
    # Another process of the same container, on another connection.
    other.connected.peer = other.connected.peer._replace(started=0)
    with pytest.raises(Denied, match="this container was configured already"):
        answers.quote(REQUEST, other)
    for asker in (first, other):
        _let_go(asker)


def test_another_process_s_acknowledgement_does_not_stop_the_init(
    tmp_path: Path, pair: tuple[socket.socket, socket.socket]
) -> None:
    run = Run("c" * 64, os.getpid() + 1, 1)
    answers = _answers(tmp_path / "state", run)
    intruder, init = _asker(pair[1]), _asker(pair[1])
    answers.configured(intruder)
    assert init.connected is not None
    assert init.connected.peer is not None
    init.connected.peer = init.connected.peer._replace(started=0)
    answers.quote(REQUEST, init)
    for asker in (intruder, init):
        _let_go(asker)


class Looking(OneContainer):
    """A witness that tells when it has looked at a process."""

    def judge(self, process: Process, request: QuoteRequest) -> Verdict:
        """A verdict with a reason of its own."""
        del process, request
        return Verdict(("it was looked at",))


@pytest.fixture
def old_kernel(las: Las, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Las:
    """A LAS that could vouch, on a kernel that gives the id of who connected and no pidfd."""
    monkeypatch.setattr("crannog.las.peer._peer_pidfd", lambda sock: None)
    witness = Looking(Run("c" * 64, os.getpid(), 1))
    vouching = Vouching(witness, "")  # type: ignore[arg-type]
    answers = Answers(load_key(tmp_path / "other"), vouching, server_log(io.StringIO()))
    monkeypatch.setattr(las.server, "_answers", answers)
    return las


def test_what_a_process_sent_before_it_was_looked_at_is_not_taken_for_its_successor_s(
    old_kernel: Las,
) -> None:
    # It may have ended since, and a container's init have its id.
    client = LasClient()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOON)
        sock.connect(old_kernel.unix.path)
        sock.sendall(LasClient().probe() + client.quote(REQUEST))
        received = b""
        while received.count(b'"type":') < 2:
            received += sock.recv(65536)
    client.receive(received[4 + int.from_bytes(received[:4], "big") :])
    event = client.next_event()
    assert isinstance(event, Quoted)
    assert stated(event.envelope) == ("simulation", EARLY)


def test_on_an_old_kernel_a_first_question_is_not_looked_at(old_kernel: Las) -> None:
    with LasConnection(old_kernel.unix) as connection:
        assert stated(connection.quote(REQUEST)) == ("simulation", EARLY)


def test_on_an_old_kernel_a_question_after_a_probe_s_answer_is_looked_at(old_kernel: Las) -> None:
    with LasConnection(old_kernel.unix) as connection:
        connection.probe()
        assert stated(connection.quote(REQUEST)) == ("simulation", "it was looked at")


class Ended:
    """A connection whose peer has ended, on a kernel that would have given a pidfd."""

    def getsockopt(self, level: int, option: int, size: int = 0) -> bytes:
        """Our own id for the peer's, which is somebody's who lives."""
        del level
        if option == socket.SO_PEERCRED:
            return struct.pack("3i", os.getpid(), 0, 0)[:size]
        raise OSError(errno.EINVAL, "invalid argument")


def test_a_peer_that_has_ended_is_not_looked_for_by_its_number() -> None:
    connected = Connected(cast("socket.socket", Ended()))
    assert connected.process is None
    assert connected.peer is None


def test_a_new_connection_of_a_container_ends_the_one_before_it(
    las: Las, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crannog.las.server.whose_connection", lambda process: ("c", True))
    with LasConnection(las.unix) as first:
        first.probe()
        with LasConnection(las.unix) as second:
            second.probe()
            with pytest.raises(Unavailable):
                first.probe()
            second.probe()


def test_connections_outside_of_containers_do_not_end_one_another(las: Las) -> None:
    with LasConnection(las.unix) as first, LasConnection(las.unix) as second:
        first.probe()
        second.probe()
        first.probe()


def test_processes_outside_of_containers_do_not_keep_a_container_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Las(tmp_path, connections=8)
    with made.server, contextlib.ExitStack() as held:
        busy = [held.enter_context(LasConnection(made.unix)) for _ in range(8)]
        for connection in busy:
            # Whoever was ended has made room; none of them has kept the LAS waiting for long.
            with contextlib.suppress(Unavailable):
                connection.probe()
        assert sum(_answers_still(connection) for connection in busy) <= 2
        monkeypatch.setattr("crannog.las.server.whose_connection", lambda process: ("c", True))
        with LasConnection(made.unix) as container:
            container.probe()


def _answers_still(connection: LasConnection) -> bool:
    try:
        connection.probe()
    except (Unavailable, RuntimeError):
        return False
    return True


def test_many_at_once_are_answered(las: Las) -> None:
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            with LasConnection(las.unix) as connection:
                connection.quote(REQUEST)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []


def test_a_message_in_pieces_from_two_processes_is_refused(las: Las) -> None:
    data = LasClient().probe()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(SOON)
        sock.connect(las.unix.path)
        sock.sendall(data[:7])
        assert _in_child(lambda: sock.sendall(data[7:])) == 0
        answer = sock.recv(65536)
    assert b'"refusal"' in answer
    assert b"status" not in answer


def test_a_container_that_asks_too_often_is_told_to_wait_and_others_are_not() -> None:
    pace = Pace(at_once=3, per_second=0.5)
    assert [pace.take("one", 10.0) for _ in range(4)] == [True, True, True, False]
    assert pace.take("other", 10.0)
    assert not pace.take("one", 11.0)
    assert pace.take("one", 12.0)
    assert not pace.take("one", 12.0)


@pytest.mark.parametrize("what", ["a statement", "an acknowledgement"])
def test_the_las_tells_a_container_that_asks_too_often_to_try_again(
    las: Las, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    monkeypatch.setattr("crannog.las.server.whose_connection", lambda process: ("c", True))

    def ask() -> None:
        for _ in range(5):
            with LasConnection(las.unix) as connection:
                for _ in range(16):
                    if what == "a statement":
                        connection.quote(REQUEST)
                    else:
                        connection.configured()

    with pytest.raises(Unavailable, match="LAS refused") as caught:
        ask()
    assert "too often" in ": ".join(chain(caught.value))


def test_who_was_given_a_statement_may_acknowledge_however_many_ask(
    las: Las, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crannog.las.server.whose_connection", lambda process: ("c", False))

    def ask() -> None:
        while True:
            with LasConnection(las.unix) as connection:
                for _ in range(16):
                    connection.quote(REQUEST)

    with pytest.raises(Unavailable, match="LAS refused"):
        ask()
    for _ in range(20):
        with LasConnection(las.unix) as connection:
            connection.configured()
