"""Docker, Podman and Buildah by their commands: what they have, save, load.

Nothing secret is among the arguments, the environment or what is written to them: an image holds
ciphertext and the sealed fspf. Names are checked before they become arguments.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, NamedTuple

from crannog.errors import FormatError, Misconfigured, NotFound, StorageFailed, Unavailable
from crannog.oci.streams import Sink

ENGINES = ("docker", "podman", "buildah")
_MAX_SAID = 1000
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]{0,250})(?::[0-9]{1,5})?/)?"
_NAME = re.compile(rf"({_HOST}{_PART}(?:/{_PART})*)(?::([A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}}))?\Z")
_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@+-]{0,1000}\Z")
_ABSENT = re.compile(
    r"no such image|no such object|image not known|not found|does not exist|locating item",
    re.IGNORECASE,
)


def check_tag(text: str) -> str:
    """A name for a new image, with `:latest` where it has no tag.

    Raises:
        FormatError: no engine would take it.
    """
    found = _NAME.match(text) if len(text) <= 400 else None
    if found is None:
        raise FormatError(
            f"--tag is {text[:200]!r}, expected a name such as registry.example:5000/team/app:1.0",
            hint="lower case letters, digits, and between them . _ - /; then a colon and a tag",
        )
    return text if found[2] else f"{text}:latest"


def check_source(text: str) -> str:
    """An image's name, id or digest, as an engine's argument.

    Raises:
        FormatError: none.
    """
    if not _SOURCE.match(text):
        raise FormatError(
            f"image name {text[:200]!r} is malformed",
            hint="give NAME:TAG, oci:DIRECTORY, oci-archive:FILE or docker-archive:FILE",
        )
    return text


class Engine(NamedTuple):
    """One engine.

    Attributes:
        name: its program.
        is_podman: whether the program is Podman, also where it is called docker.
    """

    name: str
    is_podman: bool = False

    def stored_name(self, tag: str) -> str:
        """`tag` as this engine keeps it: but for Docker's, each name says where it comes from."""
        host, slash, _ = tag.partition("/")
        docker = self.name == "docker" and not self.is_podman
        if docker or (slash and ("." in host or ":" in host or host == "localhost")):
            return tag
        return f"localhost/{tag}"

    def has(self, name: str) -> bool:
        """Whether there is an image of that name.

        Raises:
            Unavailable: the engine does not answer.
        """
        return self._ids(name) is not None

    def diff_ids(self, name: str) -> tuple[str, ...]:
        """The diff ids of an image.

        Raises:
            NotFound: there is none.
        """
        found = self._ids(name)
        if found is None:
            raise NotFound(
                f"{self.name} has no image {name}",
                hint=f"build it or get it first: {self.name} pull {name}",
            )
        return found

    def save(self, name: str, path: Path) -> None:
        """Write an image to the file `path`, in the form of `docker save`.

        Raises:
            StorageFailed: the engine could not.
        """
        output = ["--output", str(path)]
        if self.name == "buildah":
            command = ["buildah", "push", "--quiet", name, f"docker-archive:{path}"]
        elif self.is_podman:
            command = [self.name, "image", "save", "--quiet", "--format", "docker-archive"]
            command += [*output, name]
        else:
            command = [self.name, "image", "save", *output, name]
        done = self._run(command)
        if done.returncode:
            raise StorageFailed(f"{self.name} cannot save {name}: {_said(done.stderr)}")

    def load(self, write: Callable[[Sink], None], work: Path) -> None:
        """Have the engine take in the archive that `write` writes.

        The engine gives an image its name as the last step; an archive that ends early has none.

        Raises:
            StorageFailed: it could not; what `write` raises.
        """
        if self.name == "buildah":  # reads files only
            file = work / "archive"
            with file.open("xb") as sink:
                write(sink)
            done = self._run(["buildah", "pull", "--quiet", f"docker-archive:{file}"])
            if done.returncode:
                raise StorageFailed(f"buildah cannot load the image: {_said(done.stderr)}")
            return
        with tempfile.TemporaryFile(dir=work) as said:
            process = self._start([self.name, "image", "load", "--quiet"], said)
            try:
                assert process.stdin is not None
                write(process.stdin)
                process.stdin.close()
                status = process.wait()
            except BrokenPipeError:
                status = process.wait() or 1
            except StorageFailed as error:
                if not isinstance(error.__cause__, BrokenPipeError):
                    raise
                status = process.wait() or 1
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
                if process.stdin is not None and not process.stdin.closed:
                    _close(process.stdin)
            if status:
                said.seek(0)
                words = _said(said.read().decode(errors="replace"))
                raise StorageFailed(f"{self.name} cannot load the image: {words}")

    def remove(self, name: str) -> None:
        """Take a name away from an image, as well as that can be done."""
        self._run([self.name, *(["rmi"] if self.name == "buildah" else ["image", "rm"]), name])

    def _ids(self, name: str) -> tuple[str, ...] | None:
        if self.name == "buildah":
            command = ["buildah", "inspect", "--type", "image", name]
        else:
            command = [self.name, "image", "inspect", "--format", "{{json .RootFS.Layers}}", name]
        done = self._run(command)
        if done.returncode:
            if _ABSENT.search(done.stderr):
                return None
            raise Unavailable(
                f"{self.name} does not answer: {_said(done.stderr)}",
                hint="start it, or write to a file: --output FILE.tar",
            )
        try:
            found = json.loads(done.stdout)
            if self.name == "buildah":
                found = found["OCIv1"]["rootfs"]["diff_ids"]
        except (ValueError, KeyError, TypeError) as error:
            raise Unavailable(f"{self.name} does not say what {name} is") from error
        return tuple(str(item) for item in found) if isinstance(found, list) else ()

    def _run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
            )
        except OSError as error:
            raise _missing(self.name, error) from error

    def _start(self, command: list[str], said: IO[bytes]) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=said
            )
        except OSError as error:
            raise _missing(self.name, error) from error


def choose_engine(name: str | None) -> Engine:
    """The engine of that name, or the first that answers.

    Raises:
        Misconfigured: it is not known, not installed; or none is there.
    """
    if name is not None:
        if name not in ENGINES:
            raise Misconfigured(f"engine is {name[:80]!r}, expected one of {', '.join(ENGINES)}")
        if shutil.which(name) is None:
            raise Misconfigured(
                f"there is no program {name}",
                hint="install it, choose another --engine, or use oci:DIRECTORY and --output",
            )
        return _engine(name)
    for candidate in ENGINES:
        if shutil.which(candidate) is None:
            continue
        engine = _engine(candidate)
        probe = ["images", "--quiet"] if candidate == "buildah" else ["info"]
        if engine._run([candidate, *probe]).returncode == 0:
            return engine
    raise Misconfigured(
        "there is no docker, podman or buildah that answers",
        hint="start one; or give SOURCE as oci:DIRECTORY or docker-archive:FILE, and --output",
    )


def _engine(name: str) -> Engine:
    if name != "docker":
        return Engine(name, name == "podman")
    version = Engine(name)._run([name, "--version"])
    return Engine(name, "podman" in (version.stdout + version.stderr).lower())


def _said(text: str) -> str:
    """An engine's last words, on one line."""
    return " ".join(text.split())[-_MAX_SAID:] or "it says nothing"


def _close(stream: IO[bytes]) -> None:
    try:
        stream.close()
    except OSError:
        return


def _missing(name: str, error: OSError) -> Misconfigured:
    return Misconfigured(f"cannot run {name}: {error.strerror}")
