"""Docker and Podman as the container tests use them.

Everything a run of the tests makes carries the run's name, in a label or in the image's name, so
that it is found and removed at the end, and by a later run where the process was killed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

PROGRAMS = ("docker", "podman")
LABEL = "org.crannog.test"
SECONDS = 180.0


def _start_time(pid: int) -> str:
    """The start time of a process in clock ticks, "" where there is none of that number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]


RUN = f"crannog-test-{os.getpid()}-{_start_time(os.getpid())}"
_RUN = re.compile(r"crannog-test-(\d+)-(\d+)")


class EngineFailed(AssertionError):
    """A command of an engine ended with a status other than 0; the text has what it printed."""


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine that answers: `docker` or `podman`."""

    name: str
    hardened: tuple[str, ...] = (
        "--cap-drop=all",
        "--security-opt=no-new-privileges",
        "--read-only",
    )

    def call(
        self,
        *arguments: str,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        seconds: float = SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """One command of the engine, its output captured."""
        done = subprocess.run(
            [self.name, *arguments],
            stdin=subprocess.DEVNULL if input is None else None,
            input=input,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
        if check and done.returncode != 0:
            raise EngineFailed(
                f"{self.name} {' '.join(arguments)}: status {done.returncode}\n"
                f"{done.stdout}{done.stderr}"
            )
        return done

    def run(
        self,
        image: str,
        *command: str,
        options: Sequence[str] = (),
        detach: bool = False,
        input: str | None = None,  # noqa: A002
        check: bool = True,
        seconds: float = SECONDS,
    ) -> subprocess.CompletedProcess[str]:
        """`run` a container: to its end and removed, or detached (its id is stdout).

        A detached one lives until somebody removes it, at the latest the end of the session; most
        tests want `container` instead.
        """
        kind = ["--detach" if detach else "--rm"]
        if input is not None:
            kind.append("--interactive")
        return self.call(
            "run",
            *kind,
            f"--label={LABEL}={RUN}",
            *self.limits,
            *options,
            image,
            *command,
            input=input,
            check=check,
            seconds=seconds,
        )

    @contextmanager
    def container(
        self, image: str, *command: str, options: Sequence[str] = ()
    ) -> Iterator[Container]:
        """A detached container, removed at the end whatever happened."""
        done = self.run(image, *command, options=options, detach=True)
        container = Container(self, done.stdout.strip().splitlines()[-1])
        try:
            yield container
        finally:
            self.remove(container.id)

    def remove(self, *containers: str) -> None:
        """Remove containers at once, whether they run or not."""
        if not containers:
            return
        at_once = () if self.name == "docker" else ("--time=0",)
        self.call("rm", "--force", "--volumes", *at_once, *containers, check=False)

    def build(self, context: Path, tag: str, *arguments: str) -> str:
        """Build `context` as `tag` and label it; the tag."""
        self.call("build", "--tag", tag, f"--label={LABEL}={RUN}", *arguments, str(context))
        return tag

    def build_text(self, tag: str, text: str, *arguments: str) -> str:
        """Build a Dockerfile without a context as `tag` and label it; the tag."""
        self.call("build", "--tag", tag, f"--label={LABEL}={RUN}", *arguments, "-", input=text)
        return tag

    def listed(self, kind: str, *arguments: str) -> str:
        """`KIND ls`; tried again, since Podman fails when another process removes one meanwhile."""
        for _ in range(10):
            done = self.call(kind, "ls", *arguments, check=False)
            if done.returncode == 0:
                return done.stdout
        raise EngineFailed(f"{self.name} {kind} ls: {done.stderr}")

    def inspect(self, what: str) -> dict[str, Any]:
        """What the engine says about a container or an image."""
        found: list[dict[str, Any]] = json.loads(self.call("inspect", what).stdout)
        return found[0]

    @property
    def limits(self) -> tuple[str, ...]:
        """Podman asks for more than some machines allow unless it is told."""
        if self.name == "docker":
            return ()
        return ("--ulimit=nofile=1024:4096", "--ulimit=nproc=1024:2048")

    @property
    def gateway(self) -> str:
        """The host's address as containers on the engine's default network see it."""
        if self.name == "docker":
            network = json.loads(self.call("network", "inspect", "bridge").stdout)[0]
            return str(network["IPAM"]["Config"][0]["Gateway"])
        network = json.loads(self.call("network", "inspect", "podman").stdout)[0]
        return str(network["subnets"][0]["gateway"])


@dataclass(frozen=True, slots=True)
class Container:
    """A detached container of an engine."""

    engine: Engine
    id: str

    def logs(self) -> str:
        """What it wrote so far on stdout and stderr."""
        done = self.engine.call("logs", self.id)
        return done.stdout + done.stderr

    def state(self) -> dict[str, Any]:
        """The engine's record of how it is: Status, Running, Pid, ExitCode."""
        found: dict[str, Any] = self.engine.inspect(self.id)["State"]
        return found

    @property
    def pid(self) -> int:
        """Its init process as the host sees it."""
        return int(self.state()["Pid"])

    @property
    def address(self) -> str:
        """Its address on the engine's default network."""
        return str(self.engine.inspect(self.id)["NetworkSettings"]["IPAddress"])

    def wait(self, seconds: float = 60.0) -> int:
        """Its exit status, once it has ended by itself."""
        return int(self.engine.call("wait", self.id, seconds=seconds).stdout.strip())

    def exec(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command in it."""
        return self.engine.call("exec", self.id, *command, check=check)

    def stop(self) -> float:
        """`stop` it; how many seconds that took."""
        start = time.monotonic()
        self.engine.call("stop", self.id)
        return time.monotonic() - start


@cache
def why_not(program: str) -> str:
    """Why there is no engine `program` here; "" where it answers."""
    if shutil.which(program) is None:
        return f"no program {program}"
    version = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=30, check=False
    )
    if program == "docker" and "podman" in (version.stdout + version.stderr).lower():
        return "docker is Podman here, which is tested as podman"
    try:
        done = subprocess.run(
            [program, "info"], capture_output=True, text=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return f"{program} info does not answer"
    if done.returncode != 0:
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        return f"{program} info: {lines[-1] if lines else 'failed'}"
    return ""


def available_engines() -> tuple[Engine, ...]:
    """The engines that answer `info` on this machine."""
    return tuple(Engine(program) for program in PROGRAMS if not why_not(program))


def remove_everything(engine: Engine, belongs: Callable[[str], bool]) -> None:
    """Remove all containers, images, networks and volumes of the runs that `belongs` accepts."""
    engine.remove(*(which for which, run in _labelled(engine, "container") if belongs(run)))
    for kind, removal in (
        ("image", ("rmi", "--force")),
        ("network", ("network", "rm")),
        ("volume", ("volume", "rm", "--force")),
    ):
        found = [which for which, run in _labelled(engine, kind) if belongs(run)]
        if kind == "image":
            found = [which for which, run in _named(engine) if belongs(run)] + found
        if found:
            engine.call(*removal, *dict.fromkeys(found), check=False)


def is_dead(run: str) -> bool:
    """Whether the process of a run is there no more."""
    found = _RUN.fullmatch(run)
    return found is not None and _start_time(int(found[1])) != found[2]


def _labelled(engine: Engine, kind: str) -> Iterator[tuple[str, str]]:
    """What carries the label, and whose it is."""
    everything = ("--all",) if kind in ("container", "image") else ()
    which = {"volume": "{{.Name}}", "network": "{{.Name}}"}.get(kind, "{{.ID}}")
    listed = engine.listed(kind, *everything, "--filter", f"label={LABEL}", "--format", which)
    for name in dict.fromkeys(listed.split()):
        done = engine.call(kind, "inspect", name, check=False)
        found = _RUN.search(json.dumps(_labels(done.stdout)))
        if found:
            yield name, found[0]


def _labels(text: str) -> object:
    try:
        (found,) = json.loads(text)
    except ValueError:
        return None
    settings = found.get("Config") or found
    return settings.get("Labels") or settings.get("labels")


def _named(engine: Engine) -> Iterator[tuple[str, str]]:
    """Images whose name has a run's in it."""
    for name in engine.listed("image", "--format", "{{.Repository}}:{{.Tag}}").split():
        found = _RUN.search(name)
        if found:
            yield name, found[0]
