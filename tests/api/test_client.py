"""The command line's client and the launcher's, against a real CAS and LAS."""

from __future__ import annotations

import socket
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from crannog.errors import Denied, Unavailable, chain, hints
from crannog.evidence.envelope import Envelope
from crannog.exchange.configuration import Configuration
from crannog.exchange.las import QuoteRequest
from crannog.las.server import LasServer
from crannog.las.settings import LasSettings
from crannog.transport.address import Address
from crannog.transport.client import Wanted, attest
from crannog.transport.http_client import HttpClient
from crannog.transport.las_client import LasAddress, LasConnection, UnixAddress
from crannog.transport.retry import Retry
from crannog.transport.tls import Pin, load_identity, parse_pin
from tests.api.helpers import (
    LAUNCHER,
    MRENCLAVE,
    SESSION,
    Cas,
    SharedLog,
    false_cas,
    running,
    statement,
)


def _closed_port() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return Address("127.0.0.1", server.getsockname()[1])


def test_a_pinned_server_is_asked(shared: Cas) -> None:
    pin = Pin(key_sha256=bytes.fromhex(shared.server.key_sha256))
    assert HttpClient(shared.api, pin=pin).request("GET", "/v1/version").status == 200


def test_a_clock_that_is_wrong_is_named_as_the_reason(
    shared: Cas, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = parse_pin(shared.server.service.authority.key_hash, "the pin")
    long_ago = datetime(1970, 1, 1, tzinfo=UTC)
    monkeypatch.setattr("crannog.transport.tls_client.now_utc", lambda: long_ago)
    with pytest.raises(Denied) as caught:
        HttpClient(shared.api, pin=pin).request("GET", "/v1/version")
    assert "is not valid before" in chain(caught.value)[1]
    assert "is this machine's clock right? It says 1970-01-01 00:00:00Z" in hints(caught.value)


def test_a_server_that_is_not_the_pinned_one_hears_nothing(shared: Cas) -> None:
    before = shared.server.service.counts()
    client = HttpClient(shared.api, identity=shared.owner, pin=Pin(key_sha256=b"x" * 32))
    with pytest.raises(Denied, match="not the pinned one"):
        client.request("POST", "/session", b"name: secret-plan")
    assert shared.server.service.counts() == before


def test_the_server_s_chain_ends_in_its_root(shared: Cas) -> None:
    shown = [x509.load_der_x509_certificate(der) for der in HttpClient(shared.api).server_chain()]
    names = [certificate.subject.rfc4514_string() for certificate in shown]
    assert names == ["CN=cas", "CN=cas-instance", "CN=cas"]
    assert shown[-1] == shared.server.service.authority.root.certificate


def test_an_unreachable_server_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot connect to CAS"):
        HttpClient(_closed_port()).request("GET", "/")


def test_a_server_without_tls_is_named(shared: Cas, tmp_path: Path) -> None:
    with LasServer(LasSettings(tmp_path, ("127.0.0.1", 0)), log=SharedLog().log) as las:
        address = Address(*las.address)
        with pytest.raises(Unavailable, match="failed to establish an encrypted channel"):
            HttpClient(address, seconds=5).request("GET", "/")
        with pytest.raises(Unavailable, match="failed to establish an encrypted channel"):
            attest(address, Wanted("a/b", LAUNCHER), lambda _: (), seconds=5)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_launcher_las_and_cas_together(shared: Cas, tmp_path: Path, kind: str) -> None:
    settings = LasSettings(tmp_path / "las", ("127.0.0.1", 0), tmp_path / "las.sock")
    with LasServer(settings, log=SharedLog().log) as las:
        address: LasAddress = Address(*las.address)
        if kind == "unix":
            address = UnixAddress(str(las.socket_path))
        with LasConnection(address) as connection:

            def make(bound: bytes) -> tuple[Envelope, ...]:
                request = QuoteRequest(
                    bound, MRENCLAVE, LAUNCHER, "tutorial/application", str(shared.enclave)
                )
                return (connection.quote(request),)

            assert shared.attest(make=make).argv == ("python3", "/app/server.py")
            connection.configured()
    assert f"method=las/{kind}" in shared.logged.text


def test_a_cas_that_starts_later_is_found(tmp_path: Path) -> None:
    address = _closed_port()
    found: list[Configuration] = []

    def launcher() -> None:
        found.append(
            attest(
                address,
                Wanted("tutorial/application", LAUNCHER),
                lambda bound: (statement(bound),),
                retry=Retry(seconds=20, first_pause=0.02, longest_pause=0.1),
            )
        )

    with running(tmp_path / "state") as first:
        first.post(SESSION)
    thread = threading.Thread(target=launcher)
    thread.start()
    with running(tmp_path / "state", enclave_listen=(address.host, address.port)):
        thread.join()
    assert found[0].argv == ("python3", "/app/server.py")


def test_who_is_asking_while_the_cas_stops_gets_all_or_a_clear_error(tmp_path: Path) -> None:
    results: list[object] = []
    begun = threading.Semaphore(0)

    def launcher(cas: Cas) -> None:
        while True:
            try:
                results.append(cas.attest())
            except Unavailable as error:
                results.append(error)
                return
            finally:
                begun.release()

    with running(tmp_path / "state") as cas:
        cas.post(SESSION)
        threads = [threading.Thread(target=launcher, args=(cas,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(16):
            begun.acquire()
    for thread in threads:
        thread.join()
    configured = [one for one in results if isinstance(one, Configuration)]
    assert configured
    assert all(one.argv == ("python3", "/app/server.py") for one in configured)
    assert "crashed" not in cas.logged.text


X509_SESSION = f"""\
name: everybody
version: "0.2"
services:
  - name: web
    image_name: image
    command: [web]
    mrenclaves: [{MRENCLAVE.hex()}]
images:
  - name: image
    injection_files:
      - path: /chain
        content: $$SCONE::tls.chain$$
      - path: /key
        content: $$SCONE::tls.key$$
secrets:
  - name: tls
    kind: x509
"""


@pytest.mark.parametrize("kind", ["key hash", "authorities"])
def test_a_program_s_certificate_of_the_same_cas_is_not_the_pinned_cas(
    tmp_path: Path, kind: str
) -> None:
    # Anybody may post a session, and its program gets a key and a chain up to the CAS's own root.
    with running(tmp_path) as cas:
        cas.post(X509_SESSION)
        files = {file.path: file.content for file in cas.attest("everybody/web").files}
        authority = cas.server.service.authority
    certificates = x509.load_pem_x509_certificates(files["/chain"])[::-1]
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in certificates)
    identity = load_identity(pem, files["/key"], "the program's")
    pin = Pin(authority_pem=authority.chain_pem.encode())
    if kind == "key hash":
        pin = parse_pin(authority.key_hash, "the pin")
    with false_cas(identity) as (address, heard):
        with pytest.raises(Denied, match="not the pinned one"):
            HttpClient(address, pin=pin).request("POST", "/session", b"plan")
        with pytest.raises(Denied, match="not the pinned one"):
            attest(address, Wanted("a/b", LAUNCHER), lambda _: (), pin=pin, seconds=5)
    assert b"".join(heard) == b""
