"""Who speaks to the plugin like no kubelet does: garbage, floods, half a call, and silence.

Root on the node alone can reach the sockets. The plugin has to stay up, bounded and quiet: no
traceback, and served as before once the other one is gone.
"""

from __future__ import annotations

import contextlib
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crannog.kubernetes import protobuf
from crannog.kubernetes.kubelet import KUBELET_SOCKET
from crannog.kubernetes.messages import PLUGIN_SERVICE, REGISTER, AllocateRequest
from crannog.testing.kubelet import FakeKubelet
from tests.unit.kubernetes.rig import NAMES, SGX, Rig, eventually

METHODS = ("GetDevicePluginOptions", "ListAndWatch", "Allocate")


@pytest.fixture
def served(rig: Rig, kubelet: FakeKubelet) -> Iterator[Path]:
    """The socket of one resource of a plugin that a kubelet listens to, as it still does after."""
    with rig.plugin() as plugin:
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        path = rig.plugins / kubelet.plugin(SGX).request.endpoint
        yield path
        assert len(kubelet.allocate(SGX, ("simulation-0",)).container_responses) == 1
        eventually(lambda: rig.get(plugin, "/ready")[0] == 200)
        assert kubelet.registrations == len(NAMES)
    assert "Traceback" not in rig.log.getvalue()


@pytest.fixture(autouse=True)
def _quiet(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Nothing is printed beside the log, by gRPC or by Python."""
    yield
    printed = "".join(capfd.readouterr())
    assert "Traceback" not in printed, printed
    assert not [record for record in caplog.records if record.exc_info], caplog.text


def call(path: Path, method: str, request: bytes, seconds: float = 10.0) -> grpc.RpcError | bytes:
    """What a call gives: for a stream its first message."""
    with grpc.insecure_channel(f"unix:{path}") as channel:
        name = f"/{PLUGIN_SERVICE}/{method}"
        try:
            if method == "ListAndWatch":
                watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(name)
                return next(watch(request, timeout=seconds))
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(name)
            return ask(request, timeout=seconds)
        except grpc.RpcError as error:
            return error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("data", [b"\x0a\xff", b"\xff" * 40, b"GET / HTTP/1.1\r\n\r\n"])
def test_garbage_is_an_invalid_argument(served: Path, method: str, data: bytes) -> None:
    answer = call(served, method, data)
    assert isinstance(answer, grpc.RpcError)
    assert answer.code() is grpc.StatusCode.INVALID_ARGUMENT


@given(data=st.binary(max_size=60))
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_bytes_are_answered(served: Path, data: bytes) -> None:
    answer = call(served, "Allocate", data)
    if isinstance(answer, grpc.RpcError):
        assert answer.code() in {
            grpc.StatusCode.INVALID_ARGUMENT,
            grpc.StatusCode.NOT_FOUND,
            grpc.StatusCode.FAILED_PRECONDITION,
        }


def test_thousands_of_ids_are_refused_by_the_first_that_is_unknown(served: Path) -> None:
    ids = tuple(f"simulation-{number}" for number in range(20_000))
    answer = call(served, "Allocate", AllocateRequest((ids,)).encode())
    assert isinstance(answer, grpc.RpcError)
    assert answer.code() is grpc.StatusCode.NOT_FOUND
    assert "no device 'simulation-3' here" in (answer.details() or "")


def test_thousands_of_times_the_same_id_make_one_answer(served: Path) -> None:
    answer = call(served, "Allocate", AllocateRequest((("simulation-0",) * 20_000,)).encode())
    assert isinstance(answer, bytes)
    assert len(answer) < 1000


def test_thousands_of_containers_in_a_request_are_refused(served: Path) -> None:
    # Two bytes each, and some hundred in the answer.
    answer = call(served, "Allocate", protobuf.messages(1, [b""] * 100_000))
    assert isinstance(answer, grpc.RpcError)
    assert answer.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "100000 containers in one request" in (answer.details() or "")


def test_a_message_beyond_the_bound_is_refused(served: Path) -> None:
    answer = call(served, "Allocate", bytes(2 << 20))
    assert isinstance(answer, grpc.RpcError)
    assert answer.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("method", ["PreStartContainer", "GetPreferredAllocation", "Other"])
def test_a_call_that_was_not_offered(served: Path, method: str) -> None:
    answer = call(served, method, b"")
    assert isinstance(answer, grpc.RpcError)
    assert answer.code() is grpc.StatusCode.UNIMPLEMENTED


def test_streams_beyond_the_bound_are_refused_and_allocations_go_on(
    served: Path, kubelet: FakeKubelet
) -> None:
    with grpc.insecure_channel(f"unix:{served}") as channel:
        watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
            f"/{PLUGIN_SERVICE}/ListAndWatch"
        )
        streams = [watch(b"", timeout=30) for _ in range(12)]
        with ThreadPoolExecutor(len(streams)) as pool:
            codes = [code for code in pool.map(_first, streams) if code is not None]
        assert codes == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 5
        assert len(kubelet.allocate(SGX, ("simulation-1",)).container_responses) == 1
        for stream in streams:
            stream.cancel()
    eventually(lambda: isinstance(call(served, "ListAndWatch", b""), bytes))


def test_a_stream_of_somebody_else_does_not_pass_for_the_kubelet_s(
    rig: Rig, kubelet: FakeKubelet
) -> None:
    with rig.plugin():
        kubelet.wait(lambda it: it.listens_to(*NAMES))
        path = rig.plugins / kubelet.plugin(SGX).request.endpoint
        with grpc.insecure_channel(f"unix:{path}") as channel:
            watch: grpc.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(
                f"/{PLUGIN_SERVICE}/ListAndWatch"
            )
            stream = watch(b"", timeout=30)
            next(stream)
            kubelet.disconnect()
            kubelet.wait(lambda it: it.listens_to(*NAMES))
            stream.cancel()


def _first(stream: Iterator[bytes]) -> object:
    try:
        next(stream)
    except grpc.RpcError as error:
        return error.code()
    return None


def test_a_peer_that_disconnects_in_the_middle_of_its_stream(served: Path) -> None:
    for _ in range(30):
        assert isinstance(call(served, "ListAndWatch", b""), bytes)


def test_peers_that_say_nothing_or_something_else(served: Path, kubelet: FakeKubelet) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(40):
            peer = stack.enter_context(socket.socket(socket.AF_UNIX))
            peer.connect(str(served))
            if number % 2:
                peer.sendall(b"SSH-2.0-hello\r\n" * 10)
        assert len(kubelet.allocate(SGX, ("simulation-1",)).container_responses) == 1


def test_a_peer_that_begins_calls_and_never_sends_a_request(
    served: Path, kubelet: FakeKubelet
) -> None:
    release = threading.Event()

    def never() -> Iterator[bytes]:
        release.wait(30)
        yield from ()

    with grpc.insecure_channel(f"unix:{served}") as channel:
        begin: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(
            f"/{PLUGIN_SERVICE}/Allocate"
        )
        calls = [begin.future(never(), timeout=30) for _ in range(6)]
        assert len(kubelet.allocate(SGX, ("simulation-1",)).container_responses) == 1
        release.set()
        for each in calls:
            each.cancel()


def test_only_the_owner_may_connect(served: Path) -> None:
    assert stat.S_IMODE(served.stat().st_mode) & 0o022 == 0


def test_a_probe_is_answered_while_strangers_hold_connections(rig: Rig) -> None:
    with rig.plugin() as plugin, contextlib.ExitStack() as stack:
        for _ in range(150):
            stranger = stack.enter_context(socket.socket())
            stranger.connect(plugin.status_address)
            stranger.sendall(b"GET /met")
        begun = time.monotonic()
        assert rig.get(plugin, "/live")[0] == 200
        assert time.monotonic() - begun < 5  # as long as a kubelet waits


# What sits at the kubelet's socket.


@contextlib.contextmanager
def in_the_kubelet_s_place(
    directory: Path, answer: Callable[[bytes, grpc.ServicerContext], bytes]
) -> Iterator[None]:
    """A server for registrations that answers with bytes of its own."""
    server = grpc.server(ThreadPoolExecutor(4))
    service, _, method = REGISTER.strip("/").partition("/")
    handler = grpc.unary_unary_rpc_method_handler(answer, bytes, bytes)
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler(service, {method: handler}),)
    )
    server.add_insecure_port(f"unix:{directory / KUBELET_SOCKET}")
    server.start()
    try:
        yield
    finally:
        server.stop(None).wait()


def test_a_kubelet_that_answers_garbage(rig: Rig) -> None:
    with (
        in_the_kubelet_s_place(rig.plugins, lambda _request, _context: b"\x0a\xff"),
        rig.plugin() as plugin,
    ):
        eventually(lambda: "is no kubelet: Empty" in rig.get(plugin, "/ready")[1])


def test_a_kubelet_whose_reason_is_not_text(rig: Rig) -> None:
    def refuse(_request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort(grpc.StatusCode.UNKNOWN, "\x1b[31mno\nINFO forged" + "x" * 5000)

    with in_the_kubelet_s_place(rig.plugins, refuse), rig.plugin() as plugin:
        eventually(lambda: "refuses the registration" in rig.log.getvalue())
        eventually(lambda: "?[31mno?INFO forged" in rig.get(plugin, "/ready")[1])
    assert "\x1b" not in rig.log.getvalue()
    assert "\nINFO forged" not in rig.log.getvalue()
    assert max(map(len, rig.log.getvalue().splitlines())) < 1000


def test_something_else_that_listens_at_the_kubelet_s_socket(rig: Rig) -> None:
    rig.settings = replace(rig.settings, resources=(SGX,))
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(rig.plugins / KUBELET_SOCKET))
        other.listen()
        with rig.plugin() as plugin:
            connection, _ = other.accept()
            with connection:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            eventually(
                lambda: (
                    "kubelet" in rig.get(plugin, "/ready")[1]
                    and "starting" not in rig.get(plugin, "/ready")[1]
                ),
                seconds=30,
            )
            assert rig.get(plugin, "/live")[0] == 200
