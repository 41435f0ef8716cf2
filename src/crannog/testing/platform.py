"""A development platform for tests and demonstrations: one `crannog up` in a process of its own.

Real sockets, real TLS, a real database in the directory given, and the level `simulation`, which
proves nothing to anybody.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from crannog.errors import Error, Unavailable
from crannog.wire import Fields, parse_object

STOP_SECONDS = 10.0
_LAS_KEY = re.compile(r"has public key ([0-9a-f]{64})")


class CommandFailed(Error):
    """A command of the command line did not end as it should have; the text has its stderr."""

    code = "command-failed"


class DevelopmentPlatform:
    """CAS and LAS with free ports and their state in `directory`; a context manager.

    `within` is a command that each of its commands is put after, such as one that enters a network.

    Attributes:
        cas_client: HOST:PORT of the CAS's client API.
        cas_enclave: HOST:PORT that programs attest to; the value for SCONE_CAS_ADDR.
        las: HOST:PORT of the LAS; the value for SCONE_LAS_ADDR.
        cas_key_hash: the hash of the CAS's key, for `crannog cas attest -c`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        listen: str = "127.0.0.1",
        free_ports: bool = True,
        within: Sequence[str] = (),
    ) -> None:
        self.directory = directory
        self._within = tuple(within)
        self._arguments = ["--state-directory", str(directory / "state"), "--listen", listen]
        if free_ports:
            for name in ("client", "enclave", "las"):
                self._arguments += [f"--{name}-port", "0"]
        self._process: subprocess.Popen[bytes] | None = None
        self.cas_client = self.cas_enclave = self.las = self.cas_key_hash = ""

    def __enter__(self) -> Self:
        with (self.directory / "up.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*self._within, *CRANNOG, "up", "--json", *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self.environment({}),
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            raise Unavailable(f"the platform did not start: {self.log()}")
        fields = Fields(parse_object(line, limit=65536, what="crannog up"), "crannog up")
        self.cas_client = fields.text("cas_client")
        self.cas_enclave = fields.text("cas_enclave")
        self.las = fields.text("las")
        self.cas_key_hash = fields.text("cas_key_hash")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """The process of CAS and LAS."""
        assert self._process is not None
        return self._process.pid

    def stop(self) -> int:
        """End it as a terminal would (SIGTERM), by force after a while; its exit status."""
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout=STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
        finally:
            if self._process.stdout is not None:
                self._process.stdout.close()

    def log(self) -> str:
        """What CAS and LAS logged so far."""
        return (self.directory / "up.log").read_text(errors="replace")

    def attest(self) -> None:
        """Make this the default CAS of the command line in `directory`."""
        self.run("cas", "attest", self.cas_client, "-c", self.cas_key_hash)

    def create_session(self, text: str) -> str:
        """Create a session by the command line; its hash."""
        path = self.directory / "session.yaml"
        path.write_text(text)
        return self.run("session", "create", str(path)).strip()

    @property
    def las_key(self) -> str:
        """The public key of the platform's LAS, 64 hex digits."""
        found = _LAS_KEY.search(self.log())
        if found is None:
            raise Unavailable("the platform's LAS has not said its key yet")
        return found[1]

    def enrol(self, key: str, *, note: str = "") -> str:
        """Let that LAS vouch for level node, from now on; the audit log's head."""
        return self.operate("las", "add", key, "--note", note)

    def remove_las(self, key: str) -> str:
        """Take that back; the audit log's head."""
        return self.operate("las", "remove", key)

    def accept_launcher(self, digest: str, *, note: str = "") -> str:
        """Accept this launcher, and none that is not listed; the audit log's head."""
        return self.operate("launcher", "add", digest, "--note", note)

    def operate(self, *arguments: str) -> str:
        """`crannog cas ARGUMENTS` on this platform's CAS, as its operator; its stdout."""
        state = str(self.directory / "state" / "cas")
        return self.run("cas", *arguments, "--state-directory", state).strip()

    def run(self, *arguments: str) -> str:
        """A command of the command line, with its state in `directory`; its stdout."""
        done = subprocess.run(
            [*self._within, *CRANNOG, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            env=self.environment({}),
            check=False,
        )
        if done.returncode != 0:
            raise CommandFailed(
                f"crannog {' '.join(arguments)} ended with status {done.returncode}: {done.stderr}"
            )
        return done.stdout

    def attested(self, config_id: str) -> dict[str, str]:
        """The variables that make `crannog run` attest here."""
        return {
            "SCONE_CAS_ADDR": self.cas_enclave,
            "SCONE_LAS_ADDR": self.las,
            "SCONE_CONFIG_ID": config_id,
        }

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """A small environment with HOME in `directory`, and `more`."""
        path = os.environ.get("PATH", "/usr/bin:/bin")
        return {"PATH": path, "HOME": str(self.directory), "LANG": "C.UTF-8", **more}


CRANNOG = (sys.executable, "-m", "crannog")
