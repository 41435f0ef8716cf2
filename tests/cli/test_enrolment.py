"""`crannog cas serve` and `crannog las serve` with the options for enrolment by token."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from crannog.testing.issuer import ISSUER, Issuer, Pod
from crannog.testing.issuer_server import IssuerServer
from crannog.testing.platform import CRANNOG

POD = Pod()
_SECONDS = 30.0
_LISTEN = ("--client-listen", "127.0.0.1:0", "--enclave-listen", "127.0.0.1:0")


class Service:
    """A command that serves, and what it logs."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self._log = log

    @property
    def text(self) -> str:
        return self._log.read_text()

    def says(self, pattern: str) -> str:
        """The first group of that pattern, once it is logged."""
        found: list[str] = []

        def said() -> bool:
            match = re.search(pattern, self.text)
            found.extend([match[1]] if match else [])
            return match is not None or self.process.poll() is not None

        wait(said, lambda: f"{pattern} in {self.text}")
        assert found, self.text
        return found[0]


def wait(condition: Callable[[], bool], what: Callable[[], str]) -> None:
    deadline = time.monotonic() + _SECONDS
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)


@contextmanager
def serving(directory: Path, *arguments: str) -> Iterator[Service]:
    log = directory / f"{arguments[0]}.log"
    with log.open("ab") as file:
        process = subprocess.Popen(
            [*CRANNOG, *arguments], stdin=subprocess.DEVNULL, stdout=file, stderr=file
        )
    try:
        yield Service(process, log)
    finally:
        process.terminate()
        assert process.wait(_SECONDS) == 0


def failing(*arguments: str) -> str:
    """What a command says that has to end with the status of a misconfiguration."""
    done = subprocess.run(
        [*CRANNOG, *arguments], capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    assert done.returncode == 78, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def listed(state: Path, *options: str) -> list[dict[str, object]]:
    """What `crannog cas las list` says."""
    done = subprocess.run(
        [*CRANNOG, "cas", "las", "list", "--json", *options, "--state-directory", str(state)],
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=True,
    )
    found: list[dict[str, object]] = json.loads(done.stdout)
    return found


def test_a_las_enrols_itself_at_a_cas_that_fetches_its_cluster_s_keys(tmp_path: Path) -> None:
    issuer = Issuer()
    token = tmp_path / "token"
    token.write_text(issuer.token(POD, issued=int(time.time())))
    cas_state = tmp_path / "cas"
    with IssuerServer(issuer, bearer="open-sesame") as server:
        (tmp_path / "ca.crt").write_bytes(server.authority.pem)
        (tmp_path / "bearer").write_text("open-sesame\n")
        cas_options = (
            *("--las-issuer", ISSUER, "--las-issuer-keys", server.url),
            *("--las-issuer-ca", str(tmp_path / "ca.crt")),
            *("--las-issuer-token", str(tmp_path / "bearer")),
            *("--las-subject", "system:serviceaccount:other:las", "--las-subject", POD.subject),
        )
        with serving(
            tmp_path,
            *("cas", "serve", "--state-directory", str(cas_state), "--minimum-level", "node"),
            *_LISTEN,
            *cas_options,
        ) as cas:
            address = cas.says(r"enclave API is listening on (\S+)")
            key_hash = cas.says(r"CAS key hash is (\S+)")
            assert f"CAS enrols LASes by tokens issuer={ISSUER} audience=crannog-cas" in cas.text
            with serving(
                tmp_path,
                *("las", "serve", "--state-directory", str(tmp_path / "las")),
                *("--listen", "127.0.0.1:0", "--socket", str(tmp_path / "las" / "socket")),
                *("--enrol-at", address, "--enrol-token", str(token), "--cas-key", key_hash),
            ) as las:
                key = las.says(r"has public key ([0-9a-f]{64})")
                las.says(rf"INFO (LAS is enrolled at CAS {address} as node node1 until )")
                assert "enrols at whatever CAS" not in las.text
            (entry,) = listed(cas_state)
            assert (entry["key"], entry["source"]) == (key, "token")
            assert (entry["node"], entry["pod"]) == ("node1", POD.name)
            assert entry["expired"] is False
            subprocess.run(
                [*CRANNOG, "cas", "las", "remove", key, "--state-directory", str(cas_state)],
                check=True,
                capture_output=True,
            )
            assert listed(cas_state) == []
            (removed,) = listed(cas_state, "--removed")
            assert (removed["source"], removed["node"]) == ("removed", "node1")
            assert removed["expires"] is None
        assert "open-sesame" not in cas.text
        assert token.read_text() not in cas.text


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--las-issuer", ISSUER), "without --las-issuer-keys"),
        (("--las-subject", POD.subject), "without --las-issuer"),
        (("--las-issuer", ISSUER, "--las-issuer-keys", "nothing"), "without --las-subject"),
        (
            ("--las-issuer", ISSUER, "--las-issuer-keys", "nothing", "--las-subject", POD.subject),
            "nothing cannot be read",
        ),
        (
            ("--las-issuer", ISSUER, "--las-issuer-keys", "https://a/", "--las-subject", "las"),
            "--las-subject names no service account",
        ),
        (
            (
                *("--las-issuer", ISSUER, "--las-subject", POD.subject),
                *("--las-issuer-keys", "https://a/"),
            ),
            "no --las-issuer-ca",
        ),
    ],
    ids=range(6),
)
def test_a_cas_s_options_that_do_not_fit_together_are_refused(
    tmp_path: Path, options: tuple[str, ...], match: str
) -> None:
    state = ("--state-directory", str(tmp_path / "cas"), "--minimum-level", "node")
    assert match in failing("cas", "serve", *state, *_LISTEN, *options)
    assert not (tmp_path / "cas").exists()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--enrol-at", "cas"), "are given together"),
        (("--enrol-token", "token"), "are given together"),
        (("--cas-key", "ab" * 32), "are given together"),
        (("--enrol-at", "cas:x", "--enrol-token", "token"), "--enrol-at: port is"),
        (
            ("--enrol-at", "cas", "--enrol-token", "token", "--cas-key", "nonsense"),
            "--cas-key is neither",
        ),
    ],
    ids=range(5),
)
def test_a_las_s_options_that_do_not_fit_together_are_refused(
    tmp_path: Path, options: tuple[str, ...], match: str
) -> None:
    state = ("--state-directory", str(tmp_path / "las"), "--listen", "127.0.0.1:0")
    assert match in failing("las", "serve", *state, *options)
