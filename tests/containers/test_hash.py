"""SCONE_HASH=1 on images: one line, no network, equal for equal programs and for no others."""

from __future__ import annotations

import re
import shutil
import subprocess
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from images.build import build_images

from crannog.errors import EXIT_REFUSED
from tests.containers.rig import Engine

Measure = Callable[..., str]
LAUNCHER = "/run/crannog/launcher"
# For RUN: the interpreter's prefix, its library, a site directory, the C library's directory.
WHERE = (
    "P=$(dirname $(dirname $(readlink -f $(command -v python3)))); L=$P/lib/python3.11; "
    "S=$(python3 -c 'import os, site;"
    " print(next(filter(os.path.isdir, site.getsitepackages())))'); "
    "C=$(dirname $(readlink -f /lib/*-linux-gnu/libc.so.6)); "
)


@pytest.fixture(scope="session")
def by_engine() -> dict[str, str]:
    """The curated image's measurement, by engine, as it becomes known."""
    return {}


@pytest.fixture
def measure(engine: Engine) -> Measure:
    """SCONE_HASH=1 on an image without a network: one line of 64 hex on stdout, nothing else."""

    def run(image: str, *command: str, options: tuple[str, ...] = (), **variables: str) -> str:
        settings = [f"--env={name}={value}" for name, value in variables.items()]
        done = engine.run(
            image,
            *command,
            options=("--network=none", "--env=SCONE_HASH=1", *settings, *options),
        )
        assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout), done
        return done.stdout.strip()

    return run


@pytest.fixture
def derived(engine: Engine, curated_image: str, image_prefix: str) -> Callable[[str], str]:
    """An image made from the curated one by some lines of a Dockerfile."""

    def build(lines: str) -> str:
        name = f"{image_prefix}derived:{zlib.crc32(lines.encode())}"
        return engine.build_text(name, f"FROM {curated_image}\n{lines}\n")

    return build


@pytest.fixture
def original(measure: Measure, curated_image: str) -> str:
    """The curated image's own."""
    return measure(curated_image)


def test_both_engines_give_one_measurement(
    engine: Engine, original: str, by_engine: dict[str, str]
) -> None:
    by_engine[engine.name] = original
    assert set(by_engine.values()) == {original}


@pytest.mark.parametrize(
    "command",
    [
        ("python",),
        ("python3",),
        ("python3.11",),
        ("/crannog/run", "--", "python3"),
        ("/crannog/run", "python3.11", "-c", "0"),
        ("sh", "-c", "exec $(command -v python3) -c 0"),
        ("sh", "-c", "exec python3 -c 0"),
        ("sh", "-c", "cd /tmp && python3"),
        ("/usr/bin/env", "python3"),
    ],
)
def test_every_way_to_start_it_is_one_measurement(
    measure: Measure, curated_image: str, original: str, command: tuple[str, ...]
) -> None:
    assert measure(curated_image, *command) == original


def test_nodes_launcher_gives_the_same(
    measure: Measure, curated_image: str, original: str, artifacts: Path
) -> None:
    mount = f"--volume={artifacts / 'launcher'}:{LAUNCHER}:ro"
    command = (f"{LAUNCHER}/run", "--", "python3")
    assert measure(curated_image, *command, options=(mount,)) == original


def test_unprivileged_container_gives_the_same(
    engine: Engine, measure: Measure, curated_image: str, original: str
) -> None:
    options = (*engine.hardened, "--user=1000:1000")
    assert measure(curated_image, options=options) == original


@pytest.mark.parametrize(
    "lines",
    [
        'EXPOSE 8080\nRUN mkdir /app && echo 0 > /app/server.py\nCMD ["python3", "/app/server.py"]',
        'EXPOSE 4443\nRUN mkdir /app && echo 1 > /app/server-tls.py\nCMD ["python3"]',
        "EXPOSE 4443\nRUN mkdir /app && touch /app/server-tls.py /fspf.pb",
        "ENV GREETING=x SCONE_MODE=sim\nUSER 1000\nWORKDIR /tmp\nLABEL a=b",
        "RUN python3 -c 'import http.server, ssl, asyncio'",
    ],
    ids=["tutorial-0.1", "tutorial-0.2", "tutorial-0.3", "settings", "python-ran-as-root"],
)
def test_image_with_the_same_interpreter_gives_the_same(
    measure: Measure, derived: Callable[[str], str], original: str, lines: str
) -> None:
    assert measure(derived(lines)) == original


@pytest.mark.parametrize(
    "variables",
    [{"SCONE_HEAP": "1G"}, {"SCONE_ALLOW_DLOPEN": "1"}, {"SCONE_ALLOW_DLOPEN": "2"}],
    ids=["heap", "dlopen-1", "dlopen-2"],
)
def test_another_setting_gives_another(
    measure: Measure, curated_image: str, original: str, variables: dict[str, str]
) -> None:
    assert measure(curated_image, **variables) != original


CHANGES = {
    "interpreter": "printf x >> $P/libexec/crannog/python3.11",
    "needed-library": "printf x >> $(readlink -f $C/libz.so.1)",
    "loader-cache": "printf x >> /etc/ld.so.cache",
    "openssl-cnf": "printf '#x\\n' >> /etc/ssl/openssl.cnf",
    "nss-configuration": "printf 'hosts: files myhost\\n' > /etc/nsswitch.conf",
    "gconv-configuration": "mkdir -p $C/gconv/gconv-modules.d"
    " && printf '# x\\n' > $C/gconv/gconv-modules.d/extra.conf",
    "gconv-cache": "printf x >> $C/gconv/gconv-modules.cache",
    "locale-archive": "printf x >> /usr/lib/locale/locale-archive",
    "sitecustomize": "printf '#\\n' > $S/sitecustomize.py",
    "the-librarys-sitecustomize": "printf '#\\n' >> $L/sitecustomize.py",
    "usercustomize": "d=/.local/lib/python3.11/site-packages && mkdir -p $d"
    " && printf '#\\n' > $d/usercustomize.py",
    "pth": "printf 'import os\\n' > $S/x.pth",
    "preload": "printf /usr/lib/x.so > /etc/ld.so.preload",
    "extension-module": "f=$(ls $L/lib-dynload/_ssl*.so) && printf x >> $f",
    "added-extension-module": "cp $L/lib-dynload/_ssl*.so $L/lib-dynload/added.so",
    "zipped-library": "printf x > $P/lib/python311.zip",
    "virtual-environment": "printf 'home = /tmp\\n' > $P/pyvenv.cfg",
    "build-tree": "printf '../../tmp\\n' > $P/libexec/crannog/pybuilddir.txt",
    "library-in-a-zip-nearer-by": "mkdir $P/libexec/crannog/lib"
    " && printf x > $P/libexec/crannog/lib/python311.zip",
    "library-of-bytecode-nearer-by": "mkdir -p $P/libexec/lib/python3.11"
    " && printf x > $P/libexec/lib/python3.11/os.pyc",
    "library-of-a-build-tree": "mkdir $P/libexec/crannog/Modules"
    " && touch $P/libexec/crannog/Modules/Setup.local",
    "imported-by-a-start-file": "m=$(sed -n 's/ *import \\([a-z_]*\\)$/\\1/p'"
    " $L/sitecustomize.py | head -1) && printf '#\\n' > $S/${m:-_distutils_hack}.py",
    "asked-for-by-the-library": "mkdir -p $S/org/python && touch $S/org/python/core.py",
    "base-fspf": "printf x >> $P/libexec/crannog/base.fspf",
    "no-base-fspf": "rm $P/libexec/crannog/base.fspf",
}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_image_gives_another(
    measure: Measure, derived: Callable[[str], str], original: str, change: str
) -> None:
    assert measure(derived(f"USER 0\nRUN {WHERE}{CHANGES[change]}")) != original


LINKS = {
    "virtual-environment": "ln -s /proc/self/root/tmp/evil $P/libexec/crannog/pyvenv.cfg",
    "from-the-input": "ln -s /dev/stdin $P/libexec/pyvenv.cfg",
    "of-a-process-to-come": "ln -s /proc/7/root/etc/passwd $P/libexec/pyvenv.cfg",
    "site-directory": "mkdir -p /.local/lib/python3.11"
    " && ln -s /proc/self/root/evil /.local/lib/python3.11/site-packages",
    "openssl": "rm -f /etc/ssl/openssl.cnf && ln -s /proc/thread-self/cwd/x /etc/ssl/openssl.cnf",
    "fifo": "rm -f /etc/nsswitch.conf && mkfifo /etc/nsswitch.conf",
}


@pytest.mark.parametrize("change", LINKS)
def test_what_is_another_thing_for_the_program_is_refused(
    engine: Engine, derived: Callable[[str], str], change: str
) -> None:
    image = derived(f"USER 0\nRUN {WHERE}{LINKS[change]}")
    done = engine.run(image, options=("--env=SCONE_HASH=1",), check=False)
    assert (done.returncode, done.stdout) == (EXIT_REFUSED, "")
    assert "cannot be measured" in done.stderr


def test_virtual_environment_gives_another_and_its_own(
    measure: Measure, derived: Callable[[str], str], original: str
) -> None:
    made = derived("RUN python3 -m venv --without-pip /venv")
    found = measure(made, "/venv/bin/python3")
    assert found != original
    assert measure(made, "/venv/bin/python") != original
    assert measure(made, "/crannog/run", "--", "/venv/bin/python3") == found
    assert measure(made) == original
    other = derived("RUN python3 -m venv --without-pip --system-site-packages /venv")
    assert measure(other, "/venv/bin/python3") != found


def test_two_builds_give_one_measurement(
    engine: Engine,
    measure: Measure,
    original: str,
    base_image: str,
    artifacts: Path,
    image_prefix: str,
) -> None:
    other = engine.build_text(f"{image_prefix}base:again", f"FROM {base_image}\nLABEL again=1\n")
    again = build_images(
        engine.name,
        base=other,  # the same files and another image, so that no layer comes from a cache
        artifacts=artifacts,
        prefix=f"{image_prefix}again/",
        only=("python",),
    )
    assert measure(again[0].name) == original


def test_no_socket_is_made(artifacts: Path, tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("no strace")
    trace = tmp_path / "trace"
    done = subprocess.run(
        [
            *("strace", "-f", "-e", "trace=%network", "-o", trace),
            *(artifacts / "launcher" / "run", "--", "/usr/bin/python3"),
        ],
        env={"SCONE_HASH": "1", "SCONE_CONFIG_ID": "a/b", "SCONE_CAS_ADDR": "cas"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert re.fullmatch(r"[0-9a-f]{64}\n", done.stdout), done
    assert "socket(" not in trace.read_text()
