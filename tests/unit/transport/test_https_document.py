"""A document by HTTPS: whom it is taken from, and what servers may do wrong."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from crannog.errors import Denied, Error, FormatError, Misconfigured, TooLarge, Unavailable
from crannog.testing.issuer import Issuer
from crannog.testing.issuer_server import IssuerServer, ServerAuthority, response
from crannog.transport.address import Address
from crannog.transport.https_document import Location, fetch, parse_location
from crannog.transport.nameservers import Endpoint
from crannog.transport.stream import Deadline, TimedOut, TlsStream
from crannog.transport.tls import Identity

ISSUER = Issuer()
LIMIT = 10_000


@pytest.fixture(scope="module")
def authority() -> ServerAuthority:
    return ServerAuthority()


@pytest.fixture
def server(authority: ServerAuthority) -> Iterator[IssuerServer]:
    with IssuerServer(ISSUER, authority=authority, bearer="open-sesame") as running:
        yield running


def asked(
    server: IssuerServer,
    *,
    host: str = "127.0.0.1",
    authorities: bytes | None = None,
    bearer: str | None = "open-sesame",
    seconds: float = 20,
) -> bytes:
    where = parse_location(server.url, "url")
    port = where.address.port
    return fetch(
        where._replace(address=Address(host, port)),
        accept="application/jwk-set+json",
        authorities=server.authority.pem if authorities is None else authorities,
        bearer=bearer,
        limit=LIMIT,
        deadline=Deadline.after(seconds),
        resolving=lambda *_: (Endpoint(socket.AF_INET, ("127.0.0.1", port)),),
    )


def test_the_document_comes_from_the_named_server(server: IssuerServer) -> None:
    assert asked(server) == ISSUER.key_set()
    (request,) = server.requests
    assert request.target == "/openid/v1/jwks"
    assert request.headers["authorization"] == "Bearer open-sesame"
    assert request.headers["host"] == server.url.split("/")[2]


def test_a_server_is_known_by_its_name(authority: ServerAuthority) -> None:
    identity = authority.identity("kubernetes.default.svc", "api.example")
    with IssuerServer(ISSUER, authority=authority, identity=identity) as server:
        assert asked(server, host="kubernetes.default.svc")
        assert asked(server, host="API.Example.")


# --- who is not the server ------------------------------------------------------------------------


def not_told(server: IssuerServer, match: str, **how: str) -> None:
    with pytest.raises(Denied, match=match) as caught:
        asked(server, **how)  # type: ignore[arg-type]
    assert "open-sesame" not in f"{caught.value.message}{caught.value.hint}{caught.value.internal}"
    # It got nothing but a handshake.
    assert server.requests == []


def test_a_server_of_another_authority_gets_no_token(server: IssuerServer) -> None:
    other = ServerAuthority().pem
    with pytest.raises(Denied, match="does not chain to the given authorities"):
        asked(server, authorities=other)
    assert server.requests == []


def test_a_server_of_another_authority_of_the_same_name_gets_no_token() -> None:
    authority = ServerAuthority(identified=False)
    with IssuerServer(ISSUER, authority=authority) as server:
        with pytest.raises(Denied, match="does not chain to the given authorities"):
            asked(server, authorities=ServerAuthority().pem)
        assert server.requests == []


def test_the_system_s_authorities_do_not_count(
    server: IssuerServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "system.pem"
    store.write_bytes(server.authority.pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(store))
    with pytest.raises(Denied, match="does not chain"):
        asked(server, authorities=ServerAuthority().pem)


def test_one_of_several_authorities_is_enough(server: IssuerServer) -> None:
    several = ServerAuthority().pem + server.authority.pem + server.authority.pem
    assert asked(server, authorities=several)


@pytest.mark.parametrize("pem", [b"", b"nonsense", b"-----BEGIN CERTIFICATE-----\nAA\n"])
def test_authorities_that_are_none_are_named(server: IssuerServer, pem: bytes) -> None:
    with pytest.raises(Misconfigured, match="no certificate in PEM"):
        asked(server, authorities=pem)


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (("127.0.0.2",), "127.0.0.1"),
        (("localhost",), "127.0.0.1"),
        (("127.0.0.1",), "localhost"),
        (("api.example",), "api.example.attacker.example"),
        (("api.example",), "other.example"),
        (("*.example",), "a.b.example"),
        (("*.api.example",), "api.example"),
        (("*.svc",), "kubernetes.svc"),
        (("*",), "example"),
        (("a*.api.example",), "ab.api.example"),
        (("a.*.example",), "a.b.example"),
    ],
)
def test_a_certificate_for_other_hosts_is_refused(
    authority: ServerAuthority, names: tuple[str, ...], host: str
) -> None:
    with IssuerServer(ISSUER, authority=authority, identity=authority.identity(*names)) as server:
        not_told(server, "is for other hosts", host=host)


def test_a_star_stands_for_one_whole_label(authority: ServerAuthority) -> None:
    identity = authority.identity("*.api.example")
    with IssuerServer(ISSUER, authority=authority, identity=identity) as server:
        assert asked(server, host="one.api.example")


def test_a_common_name_alone_names_nobody(authority: ServerAuthority) -> None:
    with IssuerServer(ISSUER, authority=authority, identity=authority.identity()) as server:
        not_told(server, "names no host", host="localhost")


def test_an_expired_certificate_is_refused(authority: ServerAuthority) -> None:
    identity = authority.identity("127.0.0.1", until=datetime.now(UTC) - timedelta(hours=1))
    with IssuerServer(ISSUER, authority=authority, identity=identity) as server:
        not_told(server, "does not chain")


def test_a_client_s_certificate_is_no_server_s(authority: ServerAuthority) -> None:
    # Anybody with an account in the cluster may have one of the same authority.
    identity = authority.identity("127.0.0.1", purpose=ExtendedKeyUsageOID.CLIENT_AUTH)
    with IssuerServer(ISSUER, authority=authority, identity=identity) as server:
        not_told(server, "does not chain")


def test_a_server_s_certificate_signs_no_other(authority: ServerAuthority) -> None:
    false = ServerAuthority()
    mine = authority.identity("127.0.0.1")
    false._key, false._name = mine.key, mine.chain[0].subject  # type: ignore[assignment]
    made = false.identity("127.0.0.1")
    chain = Identity(made.key, (*made.chain, *mine.chain))
    with IssuerServer(ISSUER, authority=authority, identity=chain) as server:
        not_told(server, "does not chain")


def test_a_name_of_a_kind_that_is_not_known_is_refused(authority: ServerAuthority) -> None:
    # An ediPartyName, which the library does not parse.
    made = authority.identity("127.0.0.1")
    strange = x509.UnrecognizedExtension(
        x509.ObjectIdentifier("2.5.29.17"), bytes.fromhex("3006a504a10213 00".replace(" ", ""))
    )
    certificate = (
        x509.CertificateBuilder()
        .subject_name(made.chain[0].subject)
        .issuer_name(made.chain[0].issuer)
        .public_key(made.chain[0].public_key())
        .serial_number(7)
        .not_valid_before(made.chain[0].not_valid_before_utc)
        .not_valid_after(made.chain[0].not_valid_after_utc)
        .add_extension(strange, critical=False)
        .sign(authority._key, made.chain[0].signature_hash_algorithm)  # type: ignore[arg-type]
    )
    identity = Identity(made.key, (certificate,))
    with IssuerServer(ISSUER, authority=authority, identity=identity) as server:
        with pytest.raises(Error):
            asked(server)
        assert server.requests == []


def test_tls_1_2_is_refused(authority: ServerAuthority, tmp_path: Path) -> None:
    identity = authority.identity("127.0.0.1")
    pem = tmp_path / "server.pem"
    pem.write_bytes(
        identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        + identity.chain[0].public_bytes(Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pem)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            sock, _ = listener.accept()
            with sock:
                try:
                    context.wrap_socket(sock, server_side=True).close()
                except OSError:
                    return

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(Unavailable, match="TLS handshake failed"):
            fetch(
                Location(Address("127.0.0.1", listener.getsockname()[1]), "/"),
                accept="*/*",
                authorities=authority.pem,
                bearer="open-sesame",
                limit=LIMIT,
                deadline=Deadline.after(20),
            )
        thread.join()


# --- what servers answer --------------------------------------------------------------------------


def test_a_server_that_wants_another_token_is_named(server: IssuerServer) -> None:
    with pytest.raises(Unavailable, match="status 401, expected 200") as caught:
        asked(server, bearer="a-wrong-guess")
    assert "wants a token" in caught.value.hint
    assert "guess" not in f"{caught.value.message}{caught.value.hint}"


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary", "308 Permanent"])
def test_a_redirect_is_not_followed(server: IssuerServer, status: str) -> None:
    with IssuerServer(ISSUER, authority=server.authority) as elsewhere:
        answer = response(ISSUER.key_set(), status=status, more=f"Location: {elsewhere.url}\r\n")
        server.answer = lambda stream, deadline: stream.send(answer, deadline)
        with pytest.raises(Unavailable, match=f"status {status[:3]}"):
            asked(server)
        assert elsewhere.requests == []


@pytest.mark.parametrize("status", ["201 Created", "204 No Content", "206 Part", "404 X", "500 X"])
def test_another_status_is_refused(server: IssuerServer, status: str) -> None:
    body = b"" if status.startswith("204") else ISSUER.key_set()
    server.answer = lambda stream, deadline: stream.send(response(body, status=status), deadline)
    with pytest.raises(Unavailable, match=f"status {status[:3]}, expected 200"):
        asked(server)


def test_a_body_over_the_limit_is_refused_while_it_comes(server: IssuerServer) -> None:
    sent = []

    def endless(stream: TlsStream, deadline: Deadline) -> None:
        stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n", deadline)
        while not server.ended.is_set():
            stream.send(b" " * 65536, deadline)
            sent.append(65536)

    server.answer = endless
    with pytest.raises(TooLarge, match=f"more than {LIMIT} bytes"):
        asked(server)


def test_a_body_in_endless_chunks_is_refused(server: IssuerServer) -> None:
    def endless(stream: TlsStream, deadline: Deadline) -> None:
        stream.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", deadline)
        while not server.ended.is_set():
            stream.send(b"400\r\n" + b" " * 1024 + b"\r\n", deadline)

    server.answer = endless
    with pytest.raises(TooLarge):
        asked(server)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal",
    ],
    ids=["nothing", "head", "body", "chunk"],
)
def test_a_document_that_is_cut_off_is_refused(server: IssuerServer, answer: bytes) -> None:
    server.answer = lambda stream, deadline: stream.send(answer, deadline)
    with pytest.raises((FormatError, Unavailable)):
        asked(server)


def test_a_document_whose_end_is_the_connection_s_has_to_end_properly(server: IssuerServer) -> None:
    # Whoever is on the way can cut a connection, and cannot end it: without a length that is all.
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    server.answer = lambda stream, deadline: stream.send(head + b"whole", deadline)
    assert asked(server) == b"whole"

    def cut(stream: TlsStream, deadline: Deadline) -> None:
        stream.send(head + b"half", deadline)
        stream._socket.close()

    server.answer = cut
    with pytest.raises(Unavailable, match="cut off"):
        asked(server)


@pytest.mark.parametrize(
    "answer",
    [
        b"\0" * 100,
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nA: \0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"a" * 200_000,
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    ],
    ids=range(9),
)
def test_what_is_no_http_is_refused(server: IssuerServer, answer: bytes) -> None:
    server.answer = lambda stream, deadline: stream.send(answer, deadline)
    with pytest.raises((FormatError, Unavailable)):
        asked(server)


def test_a_server_that_does_not_answer_is_left_in_time(server: IssuerServer) -> None:
    def silent(_stream: TlsStream, _deadline: Deadline) -> None:
        server.ended.wait()

    server.answer = silent
    with pytest.raises(TimedOut):
        asked(server, seconds=0.5)


def test_a_server_that_trickles_is_left_in_time(server: IssuerServer) -> None:
    def trickle(stream: TlsStream, deadline: Deadline) -> None:
        stream.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", deadline)
        while not server.ended.wait(0.02):
            stream.send(b" ", deadline)

    server.answer = trickle
    with pytest.raises(TimedOut):
        asked(server, seconds=1)


def test_endless_preliminary_answers_are_left_in_time(server: IssuerServer) -> None:
    def preliminary(stream: TlsStream, deadline: Deadline) -> None:
        while not server.ended.wait(0.02):
            stream.send(b"HTTP/1.1 103 Early Hints\r\n\r\n", deadline)

    server.answer = preliminary
    with pytest.raises(TimedOut):
        asked(server, seconds=1)


def test_a_server_that_is_not_there_is_named() -> None:
    server = IssuerServer(ISSUER)
    url = server.url
    with server:
        pass
    with pytest.raises(Unavailable, match="cannot connect to issuer"):
        fetch(
            parse_location(url, "url"),
            accept="*/*",
            authorities=server.authority.pem,
            bearer=None,
            limit=LIMIT,
            deadline=Deadline.after(10),
        )


# --- the URL --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "host", "port", "target"),
    [
        ("https://a/b", "a", 443, "/b"),
        ("https://a", "a", 443, "/"),
        ("https://a:6443/openid/v1/jwks?x=1", "a", 6443, "/openid/v1/jwks?x=1"),
        ("https://[::1]:6443/", "::1", 6443, "/"),
    ],
)
def test_an_https_url_names_a_document(text: str, host: str, port: int, target: str) -> None:
    assert parse_location(text, "url") == Location(Address(host, port), target)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "http://a/b",
        "file:///etc/passwd",
        "ftp://a/",
        "https://",
        "https:///b",
        "https:a",
        "https://user@a/b",
        "https://user:secret@a/b",
        "https://a/b#c",
        "https://a b/",
        "https://a/b c",
        "https://a/\r\nX: y",
        "https://ä/",
        "https://a:0x1/",
        "https://a:99999/",
        "https://[a/",
        "https://a:b:c/",
        "https://a/" + "b" * 2048,
    ],
)
def test_what_is_no_https_url_is_refused(text: str) -> None:
    with pytest.raises(Misconfigured) as caught:
        parse_location(text, "--las-issuer-keys")
    assert "--las-issuer-keys" in caught.value.message
    if "@" in text:
        assert "secret" not in caught.value.message
