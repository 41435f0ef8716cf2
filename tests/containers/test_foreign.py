"""The launcher's directory in images that know nothing of it, with both engines.

Each runs attested against a real CAS, hardened and as an ordinary user, and shows a file of an
encrypted region, an injected file and a variable of its session.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from crannog.shield.model import Protection, Region
from crannog.testing.protection import protect
from tests.containers.foreign import PROGRAMS, Program, dynamic_c, needed, static_c
from tests.containers.platform import ReachablePlatform
from tests.containers.rig import Engine

ENTRY = "/run/crannog/launcher/run"
SECRET = b"from the encrypted region\n"
FILES = ("/app/secret.txt", "/nowhere/injected.txt")
SHOWN = "from the encrypted region\ninjected by the session\nhello from the session\n"
USER = "--user=65534:65534"


@dataclass(frozen=True, slots=True)
class Image:
    """An image with a program, and the keys to its encrypted region."""

    name: str
    program: Program
    key: str
    tag: str


class Foreign:
    """Makes an image of each program once for each engine, and runs it."""

    def __init__(
        self, artifacts: Path, platform: ReachablePlatform, prefix: str, directory: Path
    ) -> None:
        self._launcher = artifacts / "launcher"
        self._platform = platform
        self._prefix = prefix
        self._directory = directory
        self._programs: dict[str, Program] = {}
        self._images: dict[tuple[str, str], Image] = {}
        self._contexts: dict[str, tuple[Path, str, str]] = {}
        self._sessions = 0
        self.said = ""

    def image(self, engine: Engine, name: str, make: Callable[[Path], Program]) -> Image:
        """The image of a program: FROM scratch, its files, ciphertext and fspf; nothing else."""
        if (engine.name, name) not in self._images:
            context, key, tag = self._context(name, make)
            tagged = engine.build(context, f"{self._prefix}foreign-{name}:1")
            self._images[engine.name, name] = Image(tagged, self._programs[name], key, tag)
        return self._images[engine.name, name]

    def _context(self, name: str, make: Callable[[Path], Program]) -> tuple[Path, str, str]:
        if name not in self._contexts:
            work = self._directory / name
            (work / "made").mkdir(parents=True)
            program = self._programs[name] = make(work / "made")
            context = work / "context"
            program.put(context / "files")
            protected = protect(
                {b"/app/secret.txt": SECRET, **_contents(context / "files", program)},
                regions=(
                    Region(b"/", Protection.NOT_PROTECTED, b"/", 0),
                    Region(b"/app", Protection.ENCRYPTED, b"/app"),
                    *(
                        Region(path.encode(), Protection.AUTHENTICATED, path.encode())
                        for path in program.authenticated
                    ),
                ),
                modes=_modes(context / "files", program),
            )
            disk = {**protected.disk, b"/fspf.pb": protected.sealed}
            for path, content in disk.items():
                place = context / "files" / path.decode().lstrip("/")
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(content)
            assert SECRET not in disk[b"/app/secret.txt"]
            (context / "Dockerfile").write_text("FROM scratch\nCOPY files /\n")
            self._contexts[name] = (context, protected.key.hex(), protected.tag.hex())
        return self._contexts[name]

    def mounted(self) -> tuple[str, ...]:
        """The options that bring the node's launcher."""
        return (f"--volume={self._launcher}:/run/crannog/launcher:ro", f"--entrypoint={ENTRY}")

    def run(
        self,
        engine: Engine,
        image: Image,
        *options: str,
        command: tuple[str, ...] | None = None,
        start: tuple[str, ...] | None = None,
        shown: tuple[str, ...] = FILES,
    ) -> str:
        """Measure the program, create a session for it, run it attested; its standard output.

        Args:
            engine: which.
            image: with the program.
            options: of `run`, each time.
            command: instead of the program's.
            start: instead of the options that mount the launcher.
            shown: the files that it is told to show.
        """
        program = image.program
        command = command or program.command
        # An image that brings the launcher has the dashes in its entry point.
        arguments = ("--", command[0]) if start is None else (command[0],)
        start = self.mounted() if start is None else start
        dlopen = f"--env=SCONE_ALLOW_DLOPEN={program.dlopen}"
        hashed = engine.run(
            image.name,
            *arguments,
            options=(*start, *options, dlopen, "--env=SCONE_HASH=1", "--network=none"),
        )
        self._sessions += 1
        name = f"foreign-{engine.name}-{self._sessions}"
        self._platform.create_session(
            session(name, hashed.stdout.strip(), (*command, *shown), image)
        )
        attested = self._platform.options(engine, f"{name}/app")
        done = engine.run(
            image.name,
            *arguments,
            options=(*start, *options, dlopen, *attested),
            check=False,
        )
        self.said = hashed.stderr + done.stderr
        assert done.returncode == 0, f"{done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout


def _below(root: Path, program: Program) -> Iterator[Path]:
    for region in program.authenticated:
        yield from (path for path in (root / region[1:]).rglob("*") if path.is_file())


def _contents(root: Path, program: Program) -> dict[bytes, bytes]:
    """What is in its authenticated directories, links as the files that they lead to."""
    return {
        bytes(Path("/", path.relative_to(root))): path.read_bytes()
        for path in _below(root, program)
    }


def _modes(root: Path, program: Program) -> dict[bytes, int]:
    """The permission bits of the same."""
    return {
        bytes(Path("/", path.relative_to(root))): path.stat().st_mode & 0o777
        for path in _below(root, program)
    }


def session(name: str, mrenclave: str, command: tuple[str, ...], image: Image) -> str:
    """A session for one program."""
    line = " ".join(json.dumps(word) for word in command)
    return f"""\
name: {name}
version: "0.3"
services:
  - name: app
    image_name: files
    mrenclaves: [{mrenclave}]
    command: {json.dumps(line)}
    environment:
      GREETING: hello from the session
    pwd: /
    fspf_path: /fspf.pb
    fspf_key: {image.key}
    fspf_tag: {image.tag}
images:
  - name: files
    injection_files:
      - path: /nowhere/injected.txt
        content: "injected by the session\\n"
        permission: 0o444
"""


@pytest.fixture(scope="module")
def foreign(
    artifacts: Path,
    platform: ReachablePlatform,
    image_prefix: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Foreign:
    return Foreign(artifacts, platform, image_prefix, tmp_path_factory.mktemp("foreign"))


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_foreign_program_runs_attested_hardened_and_unprivileged(
    foreign: Foreign, engine: Engine, name: str
) -> None:
    image = foreign.image(engine, name, PROGRAMS[name])
    assert foreign.run(engine, image, *engine.hardened, USER) == SHOWN


@pytest.mark.parametrize("name", ["static-go", "dynamic-c"])
def test_a_foreign_program_runs_attested_as_root_of_its_container(
    foreign: Foreign, engine: Engine, name: str
) -> None:
    image = foreign.image(engine, name, PROGRAMS[name])
    assert foreign.run(engine, image) == SHOWN


def test_an_image_brings_the_launcher_itself(
    foreign: Foreign, engine: Engine, launcher_image: str, image_prefix: str
) -> None:
    bare = foreign.image(engine, "static-c", static_c)
    name = engine.build_text(
        f"{image_prefix}foreign-with-launcher:1",
        f"FROM {launcher_image} AS launcher\nFROM {bare.name}\n"
        'COPY --from=launcher /crannog /crannog\nENTRYPOINT ["/crannog/run", "--"]\n',
    )
    image = Image(name, bare.program, bare.key, bare.tag)
    hashed = {
        engine.run(each.name, *arguments, options=(*start, "--env=SCONE_HASH=1")).stdout
        for each, arguments, start in (
            (image, ("/show",), ()),
            (bare, ("--", "/show"), foreign.mounted()),
        )
    }
    assert len(hashed) == 1  # the launcher is not part of it
    assert foreign.run(engine, image, *engine.hardened, USER, start=()) == SHOWN


@pytest.mark.parametrize("shared", [("--shm-size=4k",), ("--shm-size=64k",)])
def test_shared_memory_may_be_tiny(
    foreign: Foreign, engine: Engine, shared: tuple[str, ...]
) -> None:
    image = foreign.image(engine, "dynamic-c", dynamic_c)
    assert foreign.run(engine, image, *engine.hardened, USER, *shared) == SHOWN


def test_shared_memory_may_be_absent(foreign: Foreign, engine: Engine) -> None:
    image = foreign.image(engine, "dynamic-c", dynamic_c)
    assert foreign.run(engine, image, *engine.hardened, USER, "--ipc=none") == SHOWN


def test_the_image_has_nothing_but_the_program(foreign: Foreign, engine: Engine) -> None:
    foreign.image(engine, "static-c", static_c)
    context, _, _ = foreign._context("static-c", static_c)
    found = {str(path.relative_to(context / "files")) for path in (context / "files").rglob("*")}
    assert found == {"show", "app", "app/secret.txt", "fspf.pb"}


def test_a_wrong_measurement_is_refused_and_the_program_never_runs(
    foreign: Foreign, engine: Engine, platform: ReachablePlatform
) -> None:
    image = foreign.image(engine, "static-go", PROGRAMS["static-go"])
    name = f"foreign-wrong-{engine.name}"
    platform.create_session(session(name, "ab" * 32, ("/show", *FILES), image))
    done = engine.run(
        image.name,
        "--",
        "/show",
        options=(*foreign.mounted(), *platform.options(engine, f"{name}/app")),
        check=False,
    )
    assert (done.returncode, done.stdout) == (78, "")
    assert "mrenclave" in done.stderr


_EVIL = """\
#include <unistd.h>
__attribute__((constructor)) static void begin(void) { write(2, "EVIL\\n", 5); }
"""
_EVIL_VARIABLES = {
    "LD_PRELOAD": "/evil.so",
    "LD_AUDIT": "/evil.so",
    "LD_LIBRARY_PATH": "/evil",
    "PYTHONPATH": "/evil",
    "PYTHONHOME": "/evil",
    "OPENSSL_CONF": "/evil/openssl.cnf",
    "OPENSSL_MODULES": "/evil",
    "GCONV_PATH": "/evil",
    "LOCPATH": "/evil",
    "LC_ALL": "de_DE.UTF-8",
    "GLIBC_TUNABLES": "glibc.rtld.nns=99:glibc.malloc.check=3",
}


def test_nothing_of_a_hostile_image_is_executed_before_its_program(
    foreign: Foreign, engine: Engine, base_image: str, image_prefix: str, tmp_path: Path
) -> None:
    bare = foreign.image(engine, "static-c", static_c)
    (tmp_path / "evil.c").write_text(_EVIL)
    compile_it = [needed("gcc"), "-shared", "-fPIC", "-o", "evil.so", "evil.c"]
    subprocess.run(compile_it, cwd=tmp_path, check=True)
    (tmp_path / "evil.py").write_text("import os; os.write(2, b'EVIL\\n')\n")
    (tmp_path / "openssl.cnf").write_text(
        "openssl_conf = a\n[a]\nengines = b\nproviders = b\n[b]\nevil = c\n"
        "[c]\ndynamic_path = /evil.so\nmodule = /evil.so\nactivate = 1\ninit = 1\n"
    )
    (tmp_path / "gconv-modules").write_text("module UTF-8// INTERNAL /evil.so 1\n")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {bare.name} AS bare\nFROM {base_image}\nCOPY --from=bare / /\n"
        "COPY evil.so /evil.so\nCOPY evil.so /evil/libc.so.6\nCOPY evil.so /evil/libm.so.6\n"
        "COPY evil.so /lib/libnss_evil.so.2\n"
        "COPY openssl.cnf /evil/openssl.cnf\nCOPY openssl.cnf /etc/ssl/openssl.cnf\n"
        "COPY gconv-modules /evil/gconv-modules\n"
        "COPY evil.py /evil/sitecustomize.py\nCOPY evil.py /evil/encodings/__init__.py\n"
        "COPY evil.py /sitecustomize.py\nCOPY evil.py /run/crannog/sitecustomize.py\n"
        "RUN echo 'hosts: evil files dns' > /etc/nsswitch.conf"
        " && echo /evil.so > /etc/ld.so.preload\n"
    )
    name = engine.build(tmp_path, f"{image_prefix}foreign-hostile:1")
    hostile = Image(name, bare.program, bare.key, bare.tag)
    variables = tuple(f"--env={key}={value}" for key, value in _EVIL_VARIABLES.items())
    assert "EVIL" in engine.run(name, "/bin/true").stderr  # it would run
    assert foreign.run(engine, hostile, *variables, USER) == SHOWN
    assert "EVIL" not in foreign.said
