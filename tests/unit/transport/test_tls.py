from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from crannog.errors import Misconfigured, Unavailable
from crannog.transport.stream import Deadline, TlsStream
from crannog.transport.tls import (
    ClientCertificate,
    Identity,
    client_context,
    client_stream,
    fresh_identity,
    load_identity,
    parse_pin,
    server_context,
    server_stream,
)

SERVER = fresh_identity()


def _pem(identity: Identity) -> tuple[bytes, bytes]:
    return (
        identity.chain[0].public_bytes(Encoding.PEM),
        identity.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def _joined(
    client: Identity | None, clients: ClientCertificate, work: Callable[[TlsStream], object]
) -> object:
    """What `work` gives at the server for a client that connects."""
    ours, theirs = socket.socketpair()
    result: list[object] = []

    def serve() -> None:
        stream = server_stream(server_context(SERVER, clients), ours)
        try:
            stream.handshake(Deadline.after(10))
            result.append(work(stream))
        except Unavailable as error:
            result.append(error)
        stream.close()

    thread = threading.Thread(target=serve)
    thread.start()
    stream = client_stream(client_context(client), theirs, "cas")
    try:
        stream.handshake(Deadline.after(10))
        stream.receive(Deadline.after(10))
    except Unavailable:
        pass
    thread.join()
    stream.close()
    return result[0]


def test_both_ends_export_the_same_keying_material() -> None:
    ours, theirs = socket.socketpair()
    found: list[bytes] = []

    def serve() -> None:
        stream = server_stream(server_context(SERVER, ClientCertificate.OPTIONAL), ours)
        stream.handshake(Deadline.after(10))
        found.append(stream.exporter())
        stream.close()

    thread = threading.Thread(target=serve)
    thread.start()
    stream = client_stream(client_context(None), theirs, None)
    stream.handshake(Deadline.after(10))
    assert stream.peer_key() == SERVER.public_key()
    mine = stream.exporter()
    thread.join()
    stream.close()
    assert found == [mine]
    assert len(mine) == 32


def test_a_self_signed_client_certificate_identifies() -> None:
    client = fresh_identity()
    found = _joined(client, ClientCertificate.REQUIRED, TlsStream.peer_key)
    assert found == client.public_key()


def test_no_client_certificate_is_fine_where_it_is_optional() -> None:
    assert _joined(None, ClientCertificate.OPTIONAL, TlsStream.peer_certificate) is None


def test_no_client_certificate_is_refused_where_it_is_required() -> None:
    assert isinstance(_joined(None, ClientCertificate.REQUIRED, TlsStream.peer_key), Unavailable)


def test_an_identity_whose_key_is_another_s_is_refused() -> None:
    with pytest.raises(Misconfigured, match="does not belong"):
        load_identity(_pem(SERVER)[0], _pem(fresh_identity())[1], "--identity")


@pytest.mark.parametrize("data", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nxx\n"])
def test_an_identity_that_is_no_pem_is_refused(data: bytes) -> None:
    certificate, key = _pem(SERVER)
    with pytest.raises(Misconfigured):
        load_identity(data, key, "--identity")
    with pytest.raises(Misconfigured):
        load_identity(certificate, data, "--identity")


def test_a_pin_is_hex_or_pem() -> None:
    assert parse_pin("AB" * 32 + "\n", "pin").key_sha256 == b"\xab" * 32
    assert parse_pin(_pem(SERVER)[0].decode(), "pin").authority_pem is not None
    with pytest.raises(Misconfigured, match="pin is neither"):
        parse_pin("abc", "pin")


def test_a_client_has_no_page_that_is_writable_and_executable() -> None:
    # What the launcher does: connect, handshake, check the pin by hand.
    program = """
import socket, threading
from crannog.transport.stream import Deadline
from crannog.transport.tls import *
ours, theirs = socket.socketpair()
client = client_stream(client_context(fresh_identity()), theirs, "cas")
try:
    client.handshake(Deadline.after(0.01))
except Exception:
    pass
print(open("/proc/self/maps").read())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert re.search(r"r.xp", done.stdout)
    assert re.findall(r"^.* rwx. .*$", done.stdout, re.MULTILINE) == []
