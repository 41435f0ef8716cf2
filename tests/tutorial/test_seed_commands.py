"""The tutorial's own `openssl`, `curl`, `scone fspf` and `awk` lines, run as they are written.

What containers would do is stood in for by a shell function: `docker run … $IMAGE` with
`SCONE_HASH=1` becomes the launcher, and the paths of the fspf block lie in a directory of the
test's instead of a container's `/tutorial` and `/`. Everything else is the text of the tutorial.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from crannog.testing.platform import DevelopmentPlatform
from tests.tutorial.seed import bash_blocks, block_with, seed_text

LISTEN = "127.118.80.1"  # an address of our own, so that the tutorial's fixed ports are free
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))

PLAIN_START = f"crannog run -- {PYTHON} app/server.py"

PRELUDE = f"""\
set -euo pipefail
docker() {{ # the tutorial's only use here: print the measurement of the image's program
    case "$*" in
        *SCONE_HASH=1*) SCONE_HASH=1 crannog run -- {PYTHON} 2>>docker.log ;;
        *) echo "unexpected: docker $*" >&2; return 1 ;;
    esac
}}
export IMAGE=unused
start() {{ # CONFIG_ID [ARGUMENT...]: the program of a manifest with its three variables
    id=$1; shift
    SCONE_CONFIG_ID=$id SCONE_LAS_ADDR={LISTEN} crannog run -- {PYTHON} "$@" >>program.log 2>&1 &
    program=$!
    trap 'kill $program 2>/dev/null || true' EXIT
}}
ask() {{ curl -s --retry 60 --retry-connrefused --retry-delay 1 "$@"; }}
stop() {{ kill $program; wait $program || test $? = 143; }}
"""


def _free(port: int) -> bool:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def _needs() -> None:
    for tool in ("bash", "openssl", "curl", "awk"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    for port in (8080, 4443):
        if not _free(port):
            pytest.skip(f"port {port}, which the tutorial's programs listen on, is taken")


def _run(script: str, platform: DevelopmentPlatform) -> str:
    bin_directory = Path(sys.executable).parent
    environment = platform.environment(
        {"SCONE_CAS_ADDR": LISTEN, "PATH": f"{bin_directory}:{os.environ['PATH']}"}
    )
    done = subprocess.run(
        ["bash", "-c", PRELUDE + script],
        cwd=platform.directory,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    logs = "".join(path.read_text(errors="replace") for path in platform.directory.glob("*.log"))
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{logs}"
    return done.stdout


def test_the_tutorials_lines_run_as_they_are_written(tmp_path: Path) -> None:
    _needs()
    blocks = bash_blocks(seed_text())
    fspf = block_with(blocks, "scone fspf create")
    for old, new in (
        ("/tutorial", str(tmp_path)),
        ("--kernel /app", f"--kernel {tmp_path}/app_image/app"),
    ):
        assert old in fspf
        fspf = fspf.replace(old, new)
    with DevelopmentPlatform(tmp_path, listen=LISTEN, free_ports=False) as platform:
        first = _run(
            "\n".join(
                [
                    block_with(blocks, "openssl req"),
                    block_with(blocks, "namespace.yaml", "curl"),
                    "declare -p NS > ns.sh",
                    block_with(blocks, "app/server.py << EOF"),
                    # SCONE_CAS_ADDR is the user's; a container of this step does not have it
                    "export GREETING='howdy!'",
                    f"env -u SCONE_CAS_ADDR {PLAIN_START} >>program.log 2>&1 &",
                    "program=$!",
                    "ask localhost:8080; stop",
                    block_with(blocks, "MRENCLAVE=`docker"),
                    "declare -p MRENCLAVE >> ns.sh",
                    # the pod's /app is this directory's
                    block_with(blocks, "session.yaml <<", "GREETING").replace(
                        "python3 /app/", f"python3 {tmp_path}/app/"
                    ),
                    block_with(blocks, "@session.yaml"),
                    "start $NS~hello-k8s-scone/application /app/server.py",
                    "ask localhost:8080; stop",
                ]
            ),
            platform,
        )
        assert "Hello World!\n$GREETING is: howdy!\n" in first
        assert first.endswith("Hello World!\n$GREETING is: hello from SCONE!!!\n")
        assert first.count('{"hash":"') == 2, first

        if sys.version_info >= (3, 12):
            pytest.skip("ssl.wrap_socket of the tutorial's TLS server is gone in Python 3.12")
        second = _run(
            "\n".join(
                [
                    ". ./ns.sh",
                    block_with(blocks, "app/server-tls.py << EOF"),
                    block_with(blocks, "session-tls-certs.yaml <<").replace(
                        "python3 /app/", f"python3 {tmp_path}/app/"
                    ),
                    block_with(blocks, "@session-tls-certs.yaml"),
                    "start $NS~hello-k8s-scone-tls-certs/application",
                    "ask -k https://localhost:4443; stop",
                    f"( {fspf} )",
                    block_with(blocks, "awk '{print $11}'"),
                    # the image's /fspf.pb is this directory's
                    f"export SCONE_FSPF={tmp_path}/app_image/fspf.pb",
                    block_with(blocks, "session-tls.yaml <<"),
                    block_with(blocks, "@session-tls.yaml"),
                    "unset SCONE_FSPF SCONE_FSPF_KEY SCONE_FSPF_TAG",
                    "start $NS~hello-k8s-scone-tls/application",
                    "ask -k https://localhost:4443; stop",
                ]
            ),
            platform,
        )
        assert (
            "Hello World!\n$GREETING is: hello from SCONE with TLS and auto-generated certs!!!\n"
            in second
        )
        assert second.endswith(
            "Hello World!\n$GREETING is: "
            "hello from SCONE with encrypted source code and auto-generated certs!!!\n"
        )
        encrypted = (tmp_path / "app_image" / "app" / "server-tls.py").read_bytes()
        assert b"HTTPServer" not in encrypted
