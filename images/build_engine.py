"""Docker and Podman as the image builder uses them: ask, export, build, inspect.

Decides which of the two a program is (`docker` may be podman-docker) and turns what they say into
our errors. What goes into an image is `images.build`'s question.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO

from crannog.errors import Error, FormatError, NotFound, Unavailable

_LINES_OF_A_FAILURE = 25


class BuildFailed(Error):
    """The engine refused to build an image; the message holds the end of what it printed."""

    code = "build-failed"


@dataclass(frozen=True, slots=True)
class Image:
    """What the engine knows of an image; `size` is in bytes, as the engine counts it."""

    name: str
    image_id: str
    size: int
    layers: tuple[str, ...]
    labels: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Engine:
    """A container engine that answers.

    Attributes:
        program: what is called, `docker` or `podman`.
        is_podman: whether that program is Podman, whatever its name.
    """

    program: str
    is_podman: bool

    def call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """One command of the engine, its output captured; any exit status."""
        return subprocess.run(
            [self.program, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )

    def image(self, name: str) -> Image:
        """What `name` is now.

        Raises:
            NotFound: there is no such image here.
        """
        done = self.call("image", "inspect", name)
        if done.returncode != 0:
            raise NotFound(f"no image {name} here: {_last_line(done.stderr)}")
        try:
            (found,) = json.loads(done.stdout)
            return Image(
                name,
                "sha256:" + str(found["Id"]).removeprefix("sha256:"),
                int(found["Size"]),
                tuple(found["RootFS"]["Layers"] or ()),
                dict((found.get("Config") or {}).get("Labels") or {}),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(
                f"{self.program} image inspect {name}: not in the expected form"
            ) from error

    def base(self, name: str, say: Callable[[str], None]) -> Image:
        """The base image, pulled where it is not here.

        Raises:
            NotFound: it is neither here nor can it be pulled.
        """
        try:
            return self.image(name)
        except NotFound:
            say(f"pulling {name}")
        done = self.call("pull", "--quiet", name)
        if done.returncode != 0:
            raise NotFound(
                f"base image {name} is not here and cannot be pulled: {_last_line(done.stderr)}",
                hint="--base with the name of an image that this engine has or can pull",
            )
        return self.image(name)

    @contextmanager
    def exported(self, image: str) -> Iterator[IO[bytes]]:
        """A tar stream of the image's file system, of a container that is never started.

        Raises:
            BuildFailed: the engine cannot make the container, or its export ends with an error.
        """
        # The command is never run; an image without one could not be created otherwise.
        done = self.call("create", "--network", "none", image, "true")
        if done.returncode != 0:
            raise BuildFailed(
                f"no container can be created from {image}: {_last_line(done.stderr)}"
            )
        container = done.stdout.strip()
        try:
            with tempfile.TemporaryFile() as complaints:
                process = subprocess.Popen(
                    [self.program, "export", container],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                )
                assert process.stdout is not None
                try:
                    yield process.stdout
                    # What follows the archive's end: the engine must not see a closed pipe.
                    while process.stdout.read(1 << 20):
                        pass
                    status = process.wait()
                finally:
                    process.stdout.close()
                    process.kill()
                    process.wait()
                if status != 0:
                    raise BuildFailed(f"{image} cannot be exported: {_tail(complaints)}")
        finally:
            self.call("rm", "--force", container)

    def build(
        self,
        name: str,
        context: Callable[[IO[bytes]], None],
        *,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        epoch: int,
        fresh: bool = False,
    ) -> Image:
        """Build `name` from the tar stream that `context` writes; it holds a `Containerfile`.

        `fresh` takes no layer of an earlier build.

        Raises:
            BuildFailed: with the end of what the engine printed.
        """
        command = [self.program, "build", "--file", "Containerfile", "--tag", name]
        if fresh:
            command.append("--no-cache")
        if self.is_podman:
            command += ["--timestamp", str(epoch)]
        for key, value in sorted(arguments.items()):
            command += ["--build-arg", f"{key}={value}"]
        for key, value in sorted(labels.items()):
            command += ["--label", f"{key}={value}"]
        with tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                [*command, "-"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                env=os.environ | {"SOURCE_DATE_EPOCH": str(epoch)},  # BuildKit reads it
            )
            assert process.stdin is not None
            try:
                try:
                    context(process.stdin)
                    process.stdin.close()
                except BrokenPipeError:
                    pass  # it gave up; its own words follow
                status = process.wait()
            finally:
                process.kill()
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                process.wait()
            if status != 0:
                raise BuildFailed(f"{name} cannot be built: {_tail(output)}")
        return self.image(name)


def find_engine(program: str) -> Engine:
    """The engine `program`, once it has answered.

    Raises:
        Unavailable: it is not installed, or does not answer.
    """
    if shutil.which(program) is None:
        raise Unavailable(
            f"there is no program {program} in PATH",
            hint="install Docker or Podman, or choose the other one: --engine podman",
        )
    version = Engine(program, is_podman=False).call("--version")
    engine = Engine(program, is_podman="podman" in version.stdout.lower())
    answer = engine.call("info")
    if answer.returncode != 0:
        raise Unavailable(
            f"{program} does not answer: {_last_line(answer.stderr)}",
            hint="is its daemon running, and may this user talk to it?",
        )
    return engine


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else "it does not say why"


def _tail(output: IO[bytes]) -> str:
    output.seek(0)
    lines = output.read().decode("utf-8", "replace").splitlines()
    return "\n".join(["", *lines[-_LINES_OF_A_FAILURE:]])
