"""From hostile requests the REST API answers with 4xx, and nothing else comes out of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crannog.cas.api.problems import status_of
from crannog.cas.api.routes import route
from crannog.errors import Error, Unavailable
from crannog.transport.connect import connect
from crannog.transport.http_client import HttpClient
from crannog.transport.names import resolve
from crannog.transport.stream import Deadline
from crannog.transport.tls import client_context, client_stream
from tests.api.helpers import SESSION, Cas, running

_WORDS = (
    "GET", "POST", "HEAD", "PUT", " ", "/", "/v1/sessions/", "/session", "/v1/values/", "tutorial",
    "session=", ",secret=", "?hash=", "%7E", "%00", "%ff", "%", "..", "\r\n", "\n", "HTTP/1.1",
    "Host: x", "Content-Length: ", "5", "-1", "99999999999", "Transfer-Encoding: chunked",
    "Expect: 100-continue", "Connection: keep-alive", ":", "\0", "a" * 300, "\r\n\r\n",
    "0\r\n\r\n", "é",
)  # fmt: skip
_targets = st.lists(st.sampled_from(_WORDS), max_size=8).map("".join) | st.text(max_size=40)
_requests = st.lists(st.sampled_from(_WORDS), max_size=25).map(
    lambda words: "".join(words).encode()
) | st.binary(max_size=200)


@settings(max_examples=500)
@given(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "X", ""]), _targets)
def test_any_target_is_routed_or_refused_with_4xx(method: str, target: str) -> None:
    status = 200
    try:
        route(method, target)
    except Error as error:
        status = status_of(error).value
    assert status == 200 or 400 <= status < 500


@pytest.fixture(scope="module")
def cas(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cas]:
    with running(tmp_path_factory.mktemp("cas") / "state", request_seconds=0.5) as made:
        made.post(SESSION)
        yield made


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=_requests)
def test_any_bytes_on_8081_are_answered_or_closed(cas: Cas, data: bytes) -> None:
    deadline = Deadline.after(20)
    stream = client_stream(client_context(None), connect(cas.api, deadline, "CAS", resolve), None)
    answer = b""
    try:
        stream.handshake(deadline)
        stream.send(data, deadline)
        stream.finish()
        while more := stream.receive(deadline):
            answer += more
    except Unavailable:
        pass
    stream.close()
    assert answer == b"" or answer.startswith((b"HTTP/1.1 4", b"HTTP/1.1 100", b"HTTP/1.1 200"))
    assert "crashed" not in cas.logged.text


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(body=st.binary(max_size=400) | st.text(max_size=200).map(str.encode))
def test_any_body_is_a_session_or_4xx(cas: Cas, body: bytes) -> None:
    answer = HttpClient(cas.api, identity=cas.owner, seconds=20).request("POST", "/session", body)
    assert answer.status == 201 or 400 <= answer.status < 500
    assert "hash" in json.loads(answer.body) or json.loads(answer.body)["msg"]
    assert "crashed" not in cas.logged.text
