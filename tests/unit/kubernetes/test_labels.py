"""The node's labels, through an API server that speaks TLS: what is sent, what is said of it."""

from __future__ import annotations

import io
import json
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from crannog.errors import Denied, Error, Misconfigured, NotFound, Refused, Unavailable
from crannog.kubernetes.api_server import ApiServer, find_api_server
from crannog.kubernetes.devices import Found, Node
from crannog.kubernetes.labels import CAPABLE, SIMULATION, Labeler
from crannog.kubernetes.resources import Mode, Offer
from crannog.kubernetes.status import Metrics
from crannog.transport.log import server_log

TOKEN = "secret-of-the-account"


class Cluster(ThreadingHTTPServer):
    """An API server that answers as it is told, and keeps what it was asked."""

    def __init__(self, directory: Path, certified: str = "127.0.0.1") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[tuple[str, str, dict[str, str], object]] = []
        self.answers: list[int] = []
        self.news = threading.Condition()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*_certificate(directory, certified))
        self.socket = context.wrap_socket(self.socket, server_side=True)

    def wait(self, count: int) -> None:
        """Return once so many requests came."""
        with self.news:
            assert self.news.wait_for(lambda: len(self.asked) >= count, 10)


class _Handler(BaseHTTPRequestHandler):
    server: Cluster

    def do_PATCH(self) -> None:  # the library's name
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.news:
            headers = {key.lower(): value for key, value in self.headers.items()}
            self.server.asked.append((self.command, self.path, headers, json.loads(body)))
            status = self.server.answers.pop(0) if self.server.answers else 200
            self.server.news.notify_all()
        answer = json.dumps({"kind": "Status", "message": f"said with {status}"}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_arguments: object) -> None:
        """Nothing."""


def _certificate(directory: Path, address: str) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address(address))]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    (directory / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (directory / "key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return directory / "ca.crt", directory / "key"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    (tmp_path / "token").write_text(TOKEN + "\n")
    with Cluster(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def api_server(cluster: Cluster, tmp_path: Path) -> ApiServer:
    return ApiServer("127.0.0.1", cluster.server_address[1], tmp_path)


def test_the_one_request(cluster: Cluster, api_server: ApiServer) -> None:
    api_server.patch_node("node1", {CAPABLE: "true", SIMULATION: None})
    ((method, path, headers, body),) = cluster.asked
    assert (method, path) == ("PATCH", "/api/v1/nodes/node1")
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["content-type"] == "application/merge-patch+json"
    assert body == {"metadata": {"labels": {CAPABLE: "true", SIMULATION: None}}}


def test_a_node_s_name_stays_one_part_of_the_path(cluster: Cluster, api_server: ApiServer) -> None:
    api_server.patch_node("../pods/x?y", {})
    assert cluster.asked[0][1] == "/api/v1/nodes/..%2Fpods%2Fx%3Fy"


def test_a_token_that_was_replaced_is_read_again(
    cluster: Cluster, api_server: ApiServer, tmp_path: Path
) -> None:
    api_server.patch_node("node1", {})
    (tmp_path / "token").write_text("another")
    api_server.patch_node("node1", {})
    assert cluster.asked[1][2]["authorization"] == "Bearer another"


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (401, Denied),
        (403, Denied),
        (404, NotFound),
        (409, Refused),
        (422, Refused),
        (429, Unavailable),
        (500, Unavailable),
        (503, Unavailable),
    ],
)
def test_what_it_answers(
    cluster: Cluster, api_server: ApiServer, status: int, error: type[Error]
) -> None:
    cluster.answers = [status]
    with pytest.raises(error, match="labels of node node1") as refused:
        api_server.patch_node("node1", {})
    assert TOKEN not in refused.value.message


def test_a_certificate_of_somebody_else(
    cluster: Cluster, api_server: ApiServer, tmp_path: Path
) -> None:
    _certificate(tmp_path, "127.0.0.1")
    with pytest.raises(Unavailable, match="its certificate is not valid"):
        api_server.patch_node("node1", {})
    assert cluster.asked == []


def test_a_certificate_for_another_address(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    with Cluster(tmp_path, "127.0.0.2") as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(Unavailable, match="its certificate is not valid"):
            ApiServer("127.0.0.1", server.server_address[1], tmp_path).patch_node("node1", {})
        assert server.asked == []
        server.shutdown()


def test_nobody_there(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    _certificate(tmp_path, "127.0.0.1")
    with pytest.raises(Unavailable, match=r"API server 127.0.0.1:1: connection refused"):
        ApiServer("127.0.0.1", 1, tmp_path).patch_node("node1", {})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("token", b"", "holds no token"),
        ("token", b"a\r\nX-Injected: b", "holds no token"),
        ("token", b"\xff", "holds no token"),
        ("token", None, "no such file or directory"),
        ("ca.crt", b"nothing", "holds no certificates"),
        ("ca.crt", None, "holds no certificates"),
    ],
)
def test_an_account_that_cannot_be_used(
    api_server: ApiServer, tmp_path: Path, name: str, content: bytes | None, said: str
) -> None:
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(Misconfigured, match=said):
        api_server.patch_node("node1", {})


def test_where_it_is_comes_from_the_pod_s_environment() -> None:
    found = find_api_server(
        {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    )
    assert (found.host, found.port) == ("fd00::1", 443)


@pytest.mark.parametrize("port", ["", "0", "65536", "https", "4４3"])
def test_outside_of_a_pod(port: str) -> None:
    with pytest.raises(Misconfigured, match="are not set as in a pod"):
        find_api_server({"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": port})


SIMULATED = Offer(Mode.SIMULATION, Found(), 1)
CAPABLE_NODE = Offer(Mode.HARDWARE, Found(ias=(Node("isgx", "isgx"),)), 1)


def test_labels_follow_the_offer_and_failures_are_repeated(
    cluster: Cluster, api_server: ApiServer
) -> None:
    log = io.StringIO()
    cluster.answers = [503]
    labeler = Labeler(api_server, "node1", log=server_log(log), metrics=Metrics())
    labeler.start()
    try:
        labeler.want(SIMULATED)
        cluster.wait(2)
        labeler.want(CAPABLE_NODE)
        cluster.wait(3)
    finally:
        labeler.stop()
    first, second, third = (body for *_, body in cluster.asked)
    assert first == second == {"metadata": {"labels": {CAPABLE: None, SIMULATION: "true"}}}
    assert third == {"metadata": {"labels": {CAPABLE: "true", SIMULATION: None}}}
    assert log.getvalue().count("the node cannot be labelled") == 1
    assert TOKEN not in log.getvalue()
