"""The curated image: python3 is the launcher, and everything else is as in any Python image."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.containers.platform import ReachablePlatform
from tests.containers.rig import Engine

Derive = Callable[[str], str]
Attest = Callable[..., "subprocess.CompletedProcess[str]"]

_numbers = itertools.count()
SESSION = """\
name: {name}
version: "0.2"
services:
  - name: application
    mrenclaves: [{hash}]
    command: {command}
    pwd: /
    environment:
      GREETING: from the session
"""
# What a program sees of itself, and of the Pythons that it starts.
FACTS = r"""
import json, multiprocessing, os, subprocess, sys
def ask(what):
    code = "import sys; print(sys.executable, sys.prefix)"
    return subprocess.run([what, "-c", code], capture_output=True, text=True).stdout.split()
def spawned(_):
    return sys.executable, sys.prefix, os.environ.get("GREETING", "")
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        child = pool.map(spawned, [0])[0]
    print(json.dumps({
        "prefix": sys.prefix, "executable": sys.executable, "greeting": os.environ.get("GREETING"),
        "names": sorted(os.environ), "uid": os.getuid(), "pid": os.getpid(), "child": child,
        "own": ask(sys.executable), "python3": ask("python3"), "script": sys.argv[0],
    }))
"""


# Uses a package of the library, and looks for what an image may have added.
CHECK = """
import importlib.util, json, os
library = os.path.dirname(os.__file__)
print(json.loads("1"), os.path.exists(library + "/evil.py"), importlib.util.find_spec("evil"))
"""


@pytest.fixture
def facts(engine: Engine, curated_image: str, image_prefix: str, tmp_path: Path) -> str:
    """The curated image with the program that prints what it sees."""
    (tmp_path / "facts.py").write_text(FACTS)
    (tmp_path / "check.py").write_text(CHECK)
    (tmp_path / "Dockerfile").write_text(
        f'FROM {curated_image}\nCOPY facts.py check.py /app/\nCMD ["python3", "/app/facts.py"]\n'
    )
    return engine.build(tmp_path, f"{image_prefix}facts:1")


@pytest.fixture
def derived(engine: Engine, facts: str, image_prefix: str) -> Derive:
    """An image made from that by some lines of a Dockerfile."""

    def build(lines: str) -> str:
        name = f"{image_prefix}curated:{zlib.crc32(lines.encode())}"
        return engine.build_text(name, f"FROM {facts}\n{lines}\n")

    return build


@pytest.fixture
def attest(engine: Engine, platform: ReachablePlatform) -> Attest:
    """Measure an image's command, make a session for it, and run it attested."""

    def run(
        image: str,
        *command: str,
        session: str,
        measured: str = "",
        options: tuple[str, ...] = (),
        check: bool = True,
        **variables: str,
    ) -> subprocess.CompletedProcess[str]:
        config_id = register(
            engine, platform, measured or image, command, session, options, **variables
        )
        attested = platform.options(engine, config_id, **variables)
        return engine.run(image, *command, options=(*attested, *options), check=check)

    return run


def register(
    engine: Engine,
    platform: ReachablePlatform,
    image: str,
    command: tuple[str, ...],
    session: str,
    options: tuple[str, ...] = (),
    **variables: str,
) -> str:
    """A session that gives an image's command `session` as its own; the configuration id."""
    asked = [f"--env={name}={value}" for name, value in {"SCONE_HASH": "1", **variables}.items()]
    found = engine.run(image, *command, options=(*options, *asked)).stdout.strip()
    name = f"curated-{engine.name}-{next(_numbers)}"
    platform.create_session(SESSION.format(name=name, hash=found, command=json.dumps(session)))
    return f"{name}/application"


def told(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    """What the facts program printed."""
    found: dict[str, object] = json.loads(done.stdout)
    return found


# Unattested


def test_python_as_the_command_ends_at_once_and_says_why(
    engine: Engine, curated_image: str
) -> None:
    done = engine.run(curated_image)
    assert (done.returncode, done.stdout) == (0, "")
    assert "ends at once" in done.stderr


def test_python_reads_its_program_from_the_input(engine: Engine, curated_image: str) -> None:
    assert engine.run(curated_image, input="print(6 * 7)\n").stdout == "42\n"


def test_its_status_is_the_containers(engine: Engine, curated_image: str) -> None:
    done = engine.run(curated_image, "python3", "-c", "raise SystemExit(7)", check=False)
    assert done.returncode == 7


def test_sh_is_an_ordinary_root_shell(engine: Engine, curated_image: str) -> None:
    done = engine.run(curated_image, "sh", "-c", "id -u; cat /proc/1/comm; echo $SCONE_MODE")
    assert done.stdout.split() == ["0", "sh"]
    assert done.stderr == ""


@pytest.mark.parametrize("hardened", [False, True])
def test_unattested_program_and_its_children_are_ordinary(
    engine: Engine, facts: str, hardened: bool
) -> None:
    options = (*engine.hardened, "--user=1000:1000", "--tmpfs=/dev/shm2") if hardened else ()
    done = engine.run(facts, options=("--env=GREETING=host", *options))
    found = told(done)
    prefix = found["prefix"]
    assert found["executable"] == f"{prefix}/bin/python3.11"
    assert found["greeting"] == "host"
    assert found["own"] == [found["executable"], prefix]
    assert found["python3"] == [f"{prefix}/bin/python3", prefix]
    assert found["child"] == [found["executable"], prefix, "host"]
    assert done.stderr.count("SCONE_MODE") == 1  # once, by the launcher, and by no child


@pytest.mark.parametrize(
    "command",
    [
        ("python", "/app/facts.py"),
        ("python3.11", "/app/facts.py"),
        ("sh", "-c", "exec python3 /app/facts.py"),
        ("sh", "-c", "python3 /app/facts.py; true"),
        ("/crannog/run", "--", "python3", "/app/facts.py"),
        ("/usr/bin/env", "python3", "/app/facts.py"),
    ],
)
def test_every_way_to_start_it_runs_the_program(
    engine: Engine, facts: str, command: tuple[str, ...]
) -> None:
    found = told(engine.run(facts, *command))
    assert str(found["executable"]).startswith(f"{found['prefix']}/bin/python")


def test_program_of_a_shell_that_stays_is_the_interpreter_itself(
    engine: Engine, facts: str
) -> None:
    done = engine.run(facts, "sh", "-c", "python3 /app/facts.py; true")
    assert done.stderr == ""


@pytest.fixture
def init(engine: Engine, curated_image: str) -> str:
    """The option that makes the engine's own init PID 1."""
    done = engine.run(curated_image, "true", options=("--init",), check=False)
    if done.returncode == 125 and "init binary not found" in done.stderr:
        pytest.skip(f"{engine.name} has no init program here (Debian's catatonit)")
    return "--init"


def test_engines_init_is_pid_one(engine: Engine, facts: str, init: str) -> None:
    done = engine.run(facts, options=(init,))
    assert told(done)["pid"] != 1
    assert done.stderr == ""


def test_fspf_commands_of_the_tutorial(engine: Engine, curated_image: str, tmp_path: Path) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "server.py").write_text("print('plain')\n")
    script = """set -e
cd /tutorial
rm -rf app_image && mkdir -p app_image/app
cd app_image
scone fspf create fspf.pb
scone fspf addr fspf.pb / --not-protected --kernel /
scone fspf addr fspf.pb /app --encrypted --kernel /app
scone fspf addf fspf.pb /app /tutorial/app /tutorial/app_image/app
scone fspf encrypt fspf.pb > /tutorial/app/keytag
"""
    options = ("--env=SCONE_MODE=sim", f"--volume={tmp_path}:/tutorial", "--network=none")
    engine.run(curated_image, "sh", options=options, input=script, check=True)
    words = (tmp_path / "app" / "keytag").read_text().split()
    assert re.fullmatch("[0-9a-f]{32}", words[8])
    assert re.fullmatch("[0-9a-f]{64}", words[10])
    assert b"plain" not in (tmp_path / "app_image" / "app" / "server.py").read_bytes()


def test_command_line_has_both_names(engine: Engine, curated_image: str) -> None:
    script = "crannog --version && scone --version"
    first, second = engine.run(curated_image, "sh", "-c", script).stdout.splitlines()
    assert first.split()[-1] == second.split()[-1]


# Attested


@pytest.mark.parametrize(
    "command",
    [(), ("python3",), ("python3.11", "-c", "raise SystemExit('the host says')")],
    ids=["cmd", "pod", "other-name"],
)
def test_attested_program_is_the_sessions_and_its_children_are_ordinary(
    engine: Engine, attest: Attest, facts: str, command: tuple[str, ...]
) -> None:
    done = attest(
        facts,
        *command,
        session="python3 /app/facts.py",
        options=(*engine.hardened, "--user=1000:1000", "--env=HOST=secret"),
    )
    found = told(done)
    prefix = found["prefix"]
    assert found["greeting"] == "from the session"
    assert found["names"] == ["GREETING", "HOME", "LC_CTYPE", "PATH"]
    assert found["uid"] == 1000
    assert found["executable"] == f"{prefix}/libexec/crannog/python3.11"
    assert found["own"] == [found["executable"], prefix]
    assert found["python3"] == [f"{prefix}/bin/python3", prefix]
    assert found["child"] == [found["executable"], prefix, "from the session"]


@pytest.mark.parametrize("level", ["0", "1", "2"])
def test_attested_program_at_each_dlopen_level(attest: Attest, facts: str, level: str) -> None:
    done = attest(facts, session="python3 /app/facts.py", SCONE_ALLOW_DLOPEN=level)
    found = told(done)
    assert found["python3"] == [f"{found['prefix']}/bin/python3", found["prefix"]]


@pytest.mark.parametrize(
    "command",
    [
        ("sh", "-c", "exec python3"),
        ("sh", "-c", "python3; exit $?"),
        ("/crannog/run", "--", "python3"),
    ],
)
def test_attested_through_a_shell_or_the_launcher(
    attest: Attest, facts: str, command: tuple[str, ...]
) -> None:
    found = told(attest(facts, *command, session="python3 /app/facts.py"))
    assert found["greeting"] == "from the session"


def test_attested_below_the_engines_init(attest: Attest, facts: str, init: str) -> None:
    done = attest(facts, session="python3 /app/facts.py", options=(init,))
    assert told(done)["greeting"] == "from the session"


def test_same_measurement_attests_under_the_nodes_launcher(
    attest: Attest, facts: str, artifacts: Path
) -> None:
    mount = f"--volume={artifacts / 'launcher'}:/run/crannog/launcher:ro"
    command = ("/run/crannog/launcher/run", "--", "python3")
    done = attest(facts, *command, session="python3 /app/facts.py", options=(mount,))
    assert told(done)["greeting"] == "from the session"


@pytest.mark.parametrize("before", [False, True], ids=["made-in-the-image", "made-before"])
def test_attested_in_a_virtual_environment(
    engine: Engine,
    attest: Attest,
    facts: str,
    base_image: str,
    image_prefix: str,
    before: bool,
) -> None:
    make = "RUN python3 -m venv --without-pip /venv"
    if before:
        text = f"FROM {base_image} AS made\n{make}\nFROM {facts}\nCOPY --from=made /venv /venv\n"
    else:
        text = f"FROM {facts}\n{make}\n"
    image = engine.build_text(f"{image_prefix}venv:{before}", text)
    for session in ("/venv/bin/python3 /app/facts.py", "python3 /app/facts.py"):
        found = told(attest(image, "/venv/bin/python3", session=session))
        assert (found["prefix"], found["executable"]) == ("/venv", "/venv/bin/python3")
        assert found["own"] == ["/venv/bin/python3", "/venv"]


def test_environment_that_was_not_measured_is_not_entered(
    engine: Engine, attest: Attest, facts: str, image_prefix: str
) -> None:
    text = f"FROM {facts}\nRUN python3 -m venv --without-pip /venv\n"
    image = engine.build_text(f"{image_prefix}venv:other", text)
    done = attest(image, "python3", session="/venv/bin/python3 /app/facts.py")
    assert told(done)["prefix"] != "/venv"
    assert "/venv/bin/python3" in done.stderr


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """pip and gunicorn as pip itself gets them."""
    into = tmp_path_factory.mktemp("wheels")
    done = subprocess.run(
        [
            *("/usr/bin/python3", "-m", "pip", "download", "--quiet", "--dest", into),
            *("--only-binary=:all:", "pip", "gunicorn"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"no wheels of pip and gunicorn: {done.stderr.strip()[-200:]}")
    return into


@pytest.fixture
def gunicorn(
    engine: Engine, curated_image: str, image_prefix: str, wheels: Path, tmp_path: Path
) -> str:
    """An image with gunicorn, installed by pip once for all and once in a virtual environment."""
    (tmp_path / "wheels").mkdir()
    for wheel in wheels.iterdir():
        (tmp_path / "wheels" / wheel.name).write_bytes(wheel.read_bytes())
    (tmp_path / "app.py").write_text(
        "import os, sys\n"
        "def app(environ, start):\n"
        "    start('200 OK', [])\n"
        "    return [f\"{os.environ['GREETING']} {sys.prefix}\".encode()]\n"
    )
    (tmp_path / "Dockerfile").write_text(
        f"FROM {curated_image}\n"
        "COPY wheels /wheels\n"
        "RUN set -e; p=$(echo /wheels/pip-*.whl)/pip; o='--no-index --find-links /wheels';"
        " python3 $p install $o --break-system-packages gunicorn;"
        " python3 -m venv --without-pip /venv; /venv/bin/python3 $p install $o gunicorn;"
        " rm -r /wheels\n"
        "COPY app.py /app/app.py\n"
        "WORKDIR /app\n"
        "EXPOSE 8000\n"
    )
    return engine.build(tmp_path, f"{image_prefix}gunicorn:1")


@pytest.mark.parametrize(
    ("command", "session", "prefix"),
    [
        (("gunicorn",), "/usr/local/bin/gunicorn", ""),
        (("gunicorn",), "python3 -m gunicorn", ""),
        (("/venv/bin/gunicorn",), "/venv/bin/gunicorn", "/venv"),
        (("/crannog/run", "--", "gunicorn"), "gunicorn", ""),
    ],
)
def test_attested_gunicorn_serves(
    engine: Engine,
    platform: ReachablePlatform,
    gunicorn: str,
    command: tuple[str, ...],
    session: str,
    prefix: str,
) -> None:
    arguments = " --chdir /app --bind 0.0.0.0:8000 --worker-tmp-dir /dev/shm app:app"
    config_id = register(engine, platform, gunicorn, command, session + arguments)
    options = (*platform.options(engine, config_id), *engine.hardened, "--user=1000:1000")
    with engine.container(gunicorn, *command, options=options) as container:
        found = answer(f"http://{container.address}:8000/", container.logs)
        assert found.startswith("from the session")
        assert found.endswith(prefix)
        assert container.stop() < 5


def test_unattested_gunicorn_serves(engine: Engine, gunicorn: str) -> None:
    command = ("gunicorn", "--bind", "0.0.0.0:8000", "app:app")
    with engine.container(gunicorn, *command, options=("--env=GREETING=host",)) as container:
        assert answer(f"http://{container.address}:8000/", container.logs).startswith("host /usr")


def answer(url: str, logs: Callable[[], str]) -> str:
    """What a server that is starting says, once it does."""
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5) as reply:
                return str(reply.read().decode())
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            assert time.monotonic() < deadline, logs()
            time.sleep(0.1)  # asked again: nobody says that it listens


# What an image may do to the library


LIBRARY = "L=$(python3 -c 'import os; print(os.path.dirname(os.__file__))'); "
STOPPED = {
    "extended": "f=$(ls $L/json/__pycache__/decoder.*); printf x >> $f",
    "changed-in-place": "f=$(ls $L/json/__pycache__/decoder.*); sed -i s/JSON/JASN/ $f",
    "deleted": "rm $L/json/__pycache__/decoder.*",
    "removed-with-its-directory": "rm -r $L/json",
    "directory-turned-into-a-link": "cp -r $L/json /evil; f=$(ls /evil/__pycache__/decoder.*);"
    " printf x >> $f; rm -r $L/json; ln -s /evil $L/json",
}
HARMLESS = {
    "added-module": "echo 'raise SystemExit(\"evil\")' > $L/evil.py",
    "added-before-a-module": "mkdir $L/decoder; echo 'raise SystemExit(\"evil\")' > $L/json.py",
    "added-bytecode": "cp $L/__pycache__/this.cpython-311.pyc $L/json.pyc",
    "source-with-bytecode": "echo 'raise SystemExit(\"evil\")' > $L/json/decoder.py",
}


@pytest.mark.parametrize(
    ("attack", "level"), [*((attack, "0") for attack in STOPPED), ("extended", "2")]
)
def test_changed_library_stops_the_attested_program(
    derived: Derive, attest: Attest, curated_image: str, attack: str, level: str
) -> None:
    image = derived(f"USER 0\nRUN {LIBRARY}{STOPPED[attack]}")
    done = attest(
        image,
        session="python3 /app/check.py",
        measured=curated_image,  # the change is not in the measurement
        check=False,
        SCONE_ALLOW_DLOPEN=level,
    )
    assert done.returncode not in (0, 1)
    assert done.stdout == ""
    assert "json" in done.stderr


@pytest.mark.parametrize("attack", HARMLESS)
def test_what_is_added_to_the_library_is_never_seen(
    derived: Derive, attest: Attest, curated_image: str, attack: str
) -> None:
    image = derived(f"USER 0\nRUN {LIBRARY}{HARMLESS[attack]}")
    done = attest(image, session="python3 /app/check.py", measured=curated_image)
    assert done.stdout == "1 False None\n"


def test_copy_of_the_front_says_what_to_do(engine: Engine, derived: Derive) -> None:
    image = derived("RUN cp -L $(command -v python3) /tmp/python3")
    done = engine.run(image, "sh", "-c", "/tmp/python3 -c 0; echo $?", check=False)
    assert done.stdout.strip() != "0"
    assert "libexec/crannog" in done.stderr


# The installer's refusals


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ("RUN rm -f $(readlink -f $(command -v python3))", "no Python"),
        ("RUN rm -r $(python3 -c 'import os; print(os.path.dirname(os.__file__))')", "cannot be"),
        ("RUN printf '#!/bin/sh\\n' > $(readlink -f $(command -v python3))", "not an ELF program"),
    ],
    ids=["none", "no-library", "script"],
)
def test_base_image_without_a_usable_python_is_refused(
    engine: Engine, base_image: str, artifacts: Path, image_prefix: str, lines: str, said: str
) -> None:
    broken = engine.build_text(
        f"{image_prefix}broken:{said[:2]}".lower(), f"FROM {base_image}\n{lines}\n"
    )
    done = build(engine, broken, f"{image_prefix}never/", artifacts)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr


def test_curated_image_is_refused_as_a_base(
    engine: Engine, curated_image: str, artifacts: Path, image_prefix: str
) -> None:
    done = build(engine, curated_image, f"{image_prefix}never/", artifacts)
    assert done.returncode != 0
    assert "is a curated image" in done.stdout + done.stderr


def build(
    engine: Engine, base: str, prefix: str, artifacts: Path
) -> subprocess.CompletedProcess[str]:
    command = ["--engine", engine.name, "--base", base, "--prefix", prefix]
    return subprocess.run(
        [
            *(sys.executable, "-m", "images.build", *command),
            *("--artifacts", str(artifacts), "--only", "python"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
