"""Programs as they are, in a world of encrypted and injected files, as root and as nobody."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from crannog.shield.model import Protection
from tests.shield.harness import NOBODY, Shield, compile_program

PYTHON = "/usr/bin/python3"


def _open_way(path: Path) -> None:
    for place in (path, path.parent, path.parent.parent):
        place.chmod(0o755)


@pytest.fixture(params=["launcher", "nobody"])
def shield(request: pytest.FixtureRequest, tmp_path: Path) -> Shield:
    _open_way(tmp_path)
    made = Shield(tmp_path)
    if request.param == "nobody":
        if os.getuid() != 0:
            pytest.skip("changing the user needs root")
        made.user = NOBODY
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("built")
    _open_way(place)
    return place


def owner(shield: Shield) -> tuple[int, int]:
    return (shield.user, shield.user) if shield.user is not None else (os.getuid(), os.getgid())


@pytest.fixture
def python() -> str:
    if not Path(PYTHON).exists():
        pytest.skip("there is no system Python")
    return PYTHON


def _certificate() -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=36500))
        .sign(key, hashes.SHA256())
    )
    return (
        certificate.public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )


def test_a_tls_server_loads_injected_certificates(shield: Shield, python: str) -> None:
    certificate, key = _certificate()
    shield.inject(shield.base / "tls" / "cert.pem", certificate)
    shield.inject(shield.base / "tls" / "key.pem", key, 0o600)
    script = (
        "import ssl, os; c = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER);"
        f"c.load_cert_chain('{shield.base}/tls/cert.pem', '{shield.base}/tls/key.pem');"
        f"print(os.listdir('{shield.base}/tls'))"
    )
    result = shield.run([python, "-c", script])
    assert result.stdout == "['cert.pem', 'key.pem']\n", result.stderr
    assert not (shield.base / "tls").exists()


@pytest.mark.parametrize("protection", [Protection.ENCRYPTED, Protection.AUTHENTICATED])
def test_a_python_package_with_data_files(
    shield: Shield, python: str, protection: Protection
) -> None:
    shield.protect(
        {
            "main.py": b"import pack.deep.mod as m\nprint(m.answer(), m.__file__)\n",
            "pack/__init__.py": b"",
            "pack/deep/__init__.py": b"",
            "pack/deep/mod.py": (
                b"import importlib.resources, pathlib\n"
                b"def answer():\n"
                b"    data = importlib.resources.files('pack').joinpath('data.txt').read_text()\n"
                b"    names = sorted(p.name for p in pathlib.Path(__file__).parent.iterdir())\n"
                b"    return data, names\n"
            ),
            "pack/data.txt": b"forty-two",
        },
        protection=protection,
        owner=owner(shield),
    )
    result = shield.run([python, "main.py"], pwd=shield.app)
    assert result.stdout == (
        f"(('forty-two', ['__init__.py', 'mod.py']) {shield.app}/pack/deep/mod.py\n".replace(
            "((", "(", 1
        )
    ), result.stderr
    assert not list(shield.app.rglob("__pycache__"))


def test_node(shield: Shield) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not installed")
    shield.protect(
        {
            "main.js": b"const h = require('./lib/help'); console.log(h.text(), __filename);",
            "lib/help.js": (
                b"const fs = require('fs'), path = require('path');"
                b"exports.text = () => fs.readFileSync(path.join(__dirname, 'data.txt'), 'utf8')"
                b" + fs.readdirSync(__dirname).join();"
            ),
            "lib/data.txt": b"data ",
            "package.json": b"{}",
        },
        owner=owner(shield),
    )
    result = shield.run(["node", shield.app / "main.js"])
    assert result.stdout == f"data data.txt,help.js {shield.app}/main.js\n", result.stderr


def test_a_shell_pipeline(shield: Shield) -> None:
    content = bytes(range(256)) * 1000
    shield.protect(
        {"data": content, "deep/er/text": b"text\n", "deep/run": b"#!/bin/sh\necho ran\n"},
        links={"link": "deep/er/text"},
        modes={"deep/run": 0o755, "data": 0o640},
        owner=owner(shield),
    )
    out = shield.base / "out"
    out.mkdir(mode=0o777)
    out.chmod(0o777)
    script = f"""
        set -e
        cd {shield.app}
        cat data | sha256sum
        cp -a . {out}/copy
        tar cf {out}/all.tar .
        mkdir {out}/tar && tar xf {out}/all.tar -C {out}/tar
        find . -type f | sort
        find . -type l
        ls -l data | cut -d' ' -f1
        cat link
        (cd deep/er && /bin/pwd)
        ./deep/run
        grep -r text . | sort | head -1
        wc -c < data
        head -c 3 deep/er/text
    """
    result = shield.run(["/bin/sh", "-c", script])
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[1:4] == ["./data", "./deep/er/text", "./deep/run"]
    assert lines[4:] == [
        *("./link", "-rw-r-----", "text", f"{shield.app}/deep/er", "ran"),
        *("./deep/er/text:text", "256000", "tex"),
    ]
    for copy in (out / "copy", out / "tar"):
        assert (copy / "data").read_bytes() == content
        assert (copy / "data").stat().st_mode & 0o777 == 0o640
        assert os.readlink(copy / "link") == "deep/er/text"
        assert (copy / "deep" / "run").stat().st_mtime == 1_600_000_000
    assert "deep" in (out / "all.tar").read_bytes().decode("latin-1")


def test_a_forking_server(shield: Shield, built: Path) -> None:
    shield.protect({"data": b"a" * 300_000 + b"z"}, owner=owner(shield))
    program = compile_program("forking", built)
    result = shield.run([program, shield.app / "data", "40"])
    assert result.stdout == "40\n", result.stdout + result.stderr


def test_a_dynamic_program(shield: Shield, built: Path) -> None:
    shield.protect({"data": b"a" * 3000 + b"z"}, owner=owner(shield))
    program = compile_program("forking", built, static=False)
    result = shield.run([program, shield.app / "data", "4"])
    assert result.stdout == "4\n", result.stdout + result.stderr


def test_java(shield: Shield) -> None:
    if shutil.which("javac") is None:
        pytest.skip("javac is not installed")
    source = shield.base / "source"
    source.mkdir()
    (source / "Main.java").write_text(
        "import java.nio.file.*; public class Main { public static void main(String[] a) throws"
        " Exception { System.out.println(Files.readString(Path.of(a[0]))); } }"
    )
    subprocess.run(["javac", "Main.java"], cwd=source, check=True)
    shield.protect(
        {"Main.class": (source / "Main.class").read_bytes(), "data": b"from the region"},
        owner=owner(shield),
    )
    result = shield.run(["java", "-cp", shield.app, "Main", shield.app / "data"])
    assert result.stdout == "from the region\n", result.stderr


def test_what_a_program_writes_to_an_injected_file_is_seen_by_others_and_not_on_disk(
    shield: Shield,
) -> None:
    path = shield.base / "state" / "file"
    shield.inject(path, b"old\n", 0o600)
    script = f"cat {path}; echo new > {path}; cat {path}; echo more >> {path}; sh -c 'cat {path}'"
    result = shield.run(["/bin/sh", "-c", script])
    assert result.stdout == "old\nnew\nnew\nmore\n", result.stderr
    assert not path.parent.exists()


def test_an_injected_file_hides_the_one_on_disk(shield: Shield) -> None:
    path = shield.base / "config"
    path.write_text("from disk")
    shield.inject(path, b"from the session")
    result = shield.run(["/bin/sh", "-c", f"cat {path}; ls {shield.base} | grep -c config"])
    assert result.stdout == "from the session1\n", result.stderr
    assert path.read_text() == "from disk"


def test_a_region_is_shared_between_processes_and_decrypted_once(shield: Shield) -> None:
    shield.protect({"data": b"x" * 100_000}, owner=owner(shield))
    path = shield.app / "data"
    script = (
        f"stat -c %i {path}; sh -c 'stat -c %i {path}'; cat {path} >/dev/null; stat -c %i {path}"
    )
    result = shield.run(["/bin/sh", "-c", script])
    assert len(set(result.stdout.split())) == 1, result.stdout


def test_the_exit_status_is_the_programs(shield: Shield) -> None:
    shield.inject(shield.base / "key", b"key")
    assert shield.run(["/bin/sh", "-c", "exit 7"]).returncode == 7
    assert shield.run(["/bin/sh", "-c", "kill -TERM $$"]).returncode == 128 + 15


def test_what_cannot_be_executed_is_said(shield: Shield) -> None:
    shield.inject(shield.base / "key", b"key")
    result = shield.run([shield.base / "nothing"])
    assert result.returncode == 78
    assert f"cannot execute {shield.base}/nothing: no such file or directory" in result.stderr


def test_a_working_directory_that_is_not_there_is_said(shield: Shield) -> None:
    shield.inject(shield.base / "key", b"key")
    result = shield.run(["/bin/true"], pwd="/nothing")
    assert result.returncode == 78
    assert "working directory /nothing: no such file" in result.stderr


def test_a_working_directory_that_only_leads_to_an_injected_file(shield: Shield) -> None:
    shield.inject(shield.base / "only" / "virtual" / "file", b"x")
    result = shield.run(["/bin/sh", "-c", "pwd; ls; cat file"], pwd=shield.base / "only/virtual")
    assert result.stdout == f"{shield.base}/only/virtual\nfile\nx", result.stderr


def test_a_large_file_does_not_hold_up_others(shield: Shield, python: str) -> None:
    shield.protect({"large": bytes(256 << 20), "small": b"x"}, owner=owner(shield))
    script = f"""
import threading, time
done = threading.Event()
def large():
    open({str(shield.app / "large")!r}).close()
    done.set()
threading.Thread(target=large).start()
opened = 0
while not done.is_set():
    open({str(shield.app / "small")!r}).close()
    opened += 1
print(opened)
"""
    result = shield.run([python, "-c", script])
    assert int(result.stdout) > 20, result.stderr
