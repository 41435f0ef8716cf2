"""The clients that users have: curl and openssl, with the certificates that they make."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.api.helpers import SESSION, Cas

pytestmark = pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("openssl") is None, reason="no curl or no openssl"
)


def _run(*command: str | Path, text: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command],
        input=text,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _certificate(directory: Path, *options: str) -> list[str | Path]:
    """curl's options for a self-signed certificate that `openssl req` makes."""
    crt, key = directory / "client.crt", directory / "client-key.key"
    done = _run(
        "openssl", "req", "-x509", "-out", crt, "-keyout", key, "-nodes", "-sha256",
        "-subj", "/C=US/ST=Dresden/L=Saxony/O=Scontain/OU=Org/CN=www.scontain.com", *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return ["--cert", crt, "--key", key]


def _curl(cas: Cas, target: str, *options: str | Path) -> tuple[int, str]:
    done = _run("curl", "-k", "-s", "-w", "\n%{http_code}", *options, f"https://{cas.api}{target}")
    assert done.returncode == 0, done.stderr
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


@pytest.mark.parametrize(
    "options",
    [
        ("-newkey", "rsa:4096", "-days", "31"),
        ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-384", "-days", "31"),
        ("-newkey", "ed25519", "-days", "31"),
    ],
    ids=["rsa-4096", "p-384", "ed25519"],
)
def test_curl_posts_and_reads_with_any_certificate(
    shared: Cas, tmp_path: Path, options: tuple[str, ...], request: pytest.FixtureRequest
) -> None:
    _posts_and_reads(
        shared, _certificate(tmp_path, *options), f"by-{request.node.callspec.id}", tmp_path
    )


def test_curl_posts_and_reads_with_an_expired_certificate(shared: Cas, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "expired")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2019, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2020, 1, 1, tzinfo=UTC))
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path / "expired.pem"
    pem.write_bytes(
        certificate.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    _posts_and_reads(shared, ["--cert", pem], "by-expired", tmp_path)


def _posts_and_reads(shared: Cas, who: list[str | Path], name: str, tmp_path: Path) -> None:
    file = tmp_path / "session.yaml"
    file.write_text(SESSION.replace("tutorial", name))
    status, body = _curl(shared, "/session", *who, "--data-binary", f"@{file}", "-X", "POST")
    assert status == 201, body
    status, read = _curl(shared, f"/v1/sessions/{name}", *who)
    assert status == 200
    assert json.loads(read)["hash"] == json.loads(body)["hash"]


def test_a_certificate_with_a_key_of_an_unknown_kind_is_told_so(
    shared: Cas, tmp_path: Path
) -> None:
    who = _certificate(tmp_path, "-newkey", "rsa-pss", "-pkeyopt", "rsa_keygen_bits:2048")
    status, body = _curl(shared, "/session", *who, "--data-binary", "x")
    assert 400 <= status < 500
    assert json.loads(body)["msg"]
    assert "crashed" not in shared.logged.text


def test_curl_verifies_the_server_as_the_host_cas(shared: Cas, tmp_path: Path) -> None:
    pem = tmp_path / "cas.pem"
    pem.write_text(shared.server.service.authority.chain_pem)
    to = f"cas:8081:{shared.api}"
    url = "https://cas:8081/v1/version"
    done = _run("curl", "-s", "--cacert", pem, "--connect-to", to, url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["version"]


def test_curl_without_dash_k_does_not_trust_a_cas(shared: Cas) -> None:
    assert _run("curl", "-s", f"https://{shared.api}/v1/version").returncode == 60


def test_curl_s_head_request_on_values_is_405(shared: Cas) -> None:
    done = _run(
        "curl", "-k", "-s", "-I", f"https://{shared.api}/v1/values/session=tutorial,secret=hidden"
    )
    assert done.stdout.startswith("HTTP/1.1 405 ")


def test_curl_gets_413_for_ten_megabytes(shared: Cas, tmp_path: Path) -> None:
    file = tmp_path / "large"
    file.write_bytes(b"#" * (10 * 1024 * 1024))
    who = _certificate(tmp_path, "-newkey", "rsa:2048")
    for more in ((), ("-H", "Expect:")):
        status, _ = _curl(shared, "/session", *who, *more, "--data-binary", f"@{file}")
        assert status == 413


@pytest.mark.parametrize("port", ["api", "enclave"])
def test_nothing_below_tls_1_3_is_spoken(shared: Cas, port: str) -> None:
    done = _run("openssl", "s_client", "-connect", str(getattr(shared, port)), "-tls1_2")
    assert done.returncode != 0


def test_no_connection_is_resumed(shared: Cas, tmp_path: Path) -> None:
    kept = tmp_path / "session.pem"
    head = "GET /v1/version HTTP/1.1\nHost: cas\nConnection: close\n\n"
    base: list[str | Path] = ["openssl", "s_client", "-connect", str(shared.api), "-crlf"]
    first = _run(*base, "-ign_eof", "-sess_out", kept, text=head)
    assert "200 OK" in first.stdout
    if not kept.exists():
        return  # the server gave nothing that could be resumed
    again = _run(*base, "-ign_eof", "-sess_in", kept, text=head)
    assert "200 OK" in again.stdout
    assert "Reused" not in again.stdout
