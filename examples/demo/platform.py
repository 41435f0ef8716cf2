"""The demo's machine: one `crannog up`, the programs started on it, and their end."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import IO

from crannog.testing.platform import CRANNOG, DevelopmentPlatform
from examples.demo.narrator import Narrator

START_SECONDS = 30.0
STOP_SECONDS = 10.0

# The interpreter that the programs run with: not a virtual environment's link to it.
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))


class Failed(Exception):
    """A step could not be made at all."""


class Program:
    """A program under the launcher, listening on a port of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self._log = log

    def log(self) -> str:
        """What it and its launcher wrote to stderr and stdout so far."""
        return self._log.read_text(errors="replace")

    def wait(self) -> int:
        """Its exit status, when it ends by itself."""
        return self.process.wait(timeout=START_SECONDS)

    def ask(self, *, tls: bool) -> str:
        """The reply to GET /, as `curl -k` would show it, asked for until it listens."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                return self._get(tls=tls)
            except (OSError, http.client.HTTPException):
                if self.process.poll() is not None:
                    raise Failed(
                        f"it ended with status {self.process.returncode}:\n{self.log()}"
                    ) from None
                if time.monotonic() > deadline:
                    raise
            # Nothing announces that a foreign program listens; asking again is what there is.
            time.sleep(0.02)

    def _get(self, *, tls: bool) -> str:
        connection: http.client.HTTPConnection
        if tls:
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE  # the tutorial's `curl -k`
            connection = http.client.HTTPSConnection(
                "127.0.0.1", self.port, timeout=5, context=context
            )
        else:
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        finally:
            connection.close()


class Platform:
    """CAS and LAS in a directory of their own; a context manager that leaves nothing running."""

    def __init__(self, directory: Path, narrator: Narrator) -> None:
        self.directory = directory
        self.narrator = narrator
        self.namespace = f"HelloWorld-{os.getpid()}-{time.time_ns() % 100_000}"
        self.mrenclave = ""
        self._processes: list[subprocess.Popen[bytes]] = []
        self._services = DevelopmentPlatform(directory)

    def __enter__(self) -> Platform:
        self.narrator.chapter("A development platform: CAS and LAS")
        self.narrator.command("crannog up")
        self._services.__enter__()
        self.narrator.output(
            f"CAS for clients   {self._services.cas_client}\n"
            f"CAS for programs  {self._services.cas_enclave}\n"
            f"LAS               {self._services.las}\n"
            f"key of the CAS    {self._services.cas_key_hash}"
        )
        self.narrator.output(
            self.crannog(
                "cas", "attest", self._services.cas_client, "-c", self._services.cas_key_hash
            )
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
                process.wait()
        status = self._services.stop()
        self.narrator.check("CAS and LAS stop when told to", status, lambda s: s == 0, "status 0")

    def left_running(self) -> list[int]:
        """Processes of this demo that are still there."""
        return [process.pid for process in self._processes if process.poll() is None]

    def crannog(self, *arguments: str) -> str:
        """Run a command of the command line to its end; its stdout."""
        self.narrator.command("crannog " + " ".join(self._shorten(word) for word in arguments))
        return self._services.run(*arguments)

    def measure(self) -> str:
        """The measurement of the interpreter, as the tutorial asks for it."""
        self.narrator.command("SCONE_HASH=1 crannog run -- python3")
        done = subprocess.run(
            [*CRANNOG, "run", "--", PYTHON],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            env=self._services.environment({"SCONE_HASH": "1"}),
            check=False,
        )
        if done.returncode != 0:
            raise Failed(done.stderr)
        self.narrator.output(done.stdout)
        return done.stdout.strip()

    def start(
        self, arguments: list[str], environment: dict[str, str], *, port: int, shown: str
    ) -> Program:
        """Start the interpreter under the launcher."""
        self.narrator.command(shown)
        log = self.directory / f"program-{len(self._processes)}.log"
        sink: IO[bytes]
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [*CRANNOG, "run", "--", PYTHON, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=self._services.environment(environment),
            )
        self._processes.append(process)
        return Program(process, port, log)

    def attested(self, session: str) -> dict[str, str]:
        """The three variables of the tutorial's attested manifests."""
        return self._services.attested(f"{session}/application")

    def stop(self, program: Program) -> None:
        """End a program as `docker stop` would, and check that it does."""
        program.process.send_signal(signal.SIGTERM)
        try:
            code = program.process.wait(timeout=STOP_SECONDS)
            # As a shell shows it: a program that was not attested took the launcher's place.
            status: int | str = code if code >= 0 else 128 - code
        except subprocess.TimeoutExpired:
            status = "still running"
        self.narrator.check("it ends on SIGTERM", status, lambda s: s == 143, "status 143")

    def _shorten(self, word: str) -> str:
        return word.replace(str(self.directory), "$PWD")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
