"""The images of the CAS and of the LAS do what docs/containers.md says, with every engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from images.build import build_images

from crannog import __version__
from tests.containers.platform import ReachablePlatform
from tests.containers.rig import LABEL, RUN, Container, Engine

CRANNOG = (sys.executable, "-m", "crannog")
USER = 65532
STATE = "/var/lib/crannog"
SOON = 2.0
PATIENCE = 60.0
SIMULATION = ("--minimum-level", "simulation")


@pytest.fixture
def volume(engine: Engine) -> Iterator[str]:
    name = f"{RUN}-{uuid4().hex[:8]}"
    engine.call("volume", "create", f"--label={LABEL}={RUN}", name)
    try:
        yield name
    finally:
        engine.call("volume", "rm", "--force", name)


@contextmanager
def running_cas(
    engine: Engine, image: str, volume: str, *arguments: str, options: tuple[str, ...] = ()
) -> Iterator[Container]:
    """A CAS that serves."""
    options = (*engine.hardened, f"--volume={volume}:{STATE}", *options)
    with engine.container(image, *arguments, options=options) as cas:
        wait_for(cas, "CAS minimum trust level")
        yield cas


@contextmanager
def running_las(
    engine: Engine, image: str, *arguments: str, options: tuple[str, ...] = ()
) -> Iterator[Container]:
    """A LAS that serves."""
    with engine.container(image, *arguments, options=options) as las:
        wait_for(las, "LAS is listening on")
        yield las


def wait_for(container: Container, text: str, times: int = 1) -> str:
    """What the container logged once `text` is there `times` times."""
    deadline = time.monotonic() + PATIENCE
    while (log := container.logs()).count(text) < times:
        assert container.state()["Running"], f"it ended: {log}"
        assert time.monotonic() < deadline, f"no {text!r} within {PATIENCE:.0f} s: {log}"
        time.sleep(0.05)
    return log


def takes(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    found = re.search(r"^SigCgt:\t([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
    return found is not None and bool(int(found[1], 16) >> (number - 1) & 1)


def key_hash(log: str) -> str:
    found = re.search(r"CAS key hash is (\S+)", log)
    assert found, log
    return found[1]


def las_key(log: str) -> str:
    found = re.search(r"public key ([0-9a-f]{64})", log)
    assert found, log
    return found[1]


def crannog(home: Path, *arguments: str) -> str:
    """A command of the command line on this machine, with its identity in `home`; its stdout."""
    done = subprocess.run(
        [*CRANNOG, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env={"PATH": os.environ["PATH"], "HOME": str(home)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def create_session(home: Path, name: str, measurement: str) -> str:
    path = home / f"{name}.yaml"
    path.write_text(
        f'name: {name}\nversion: "0.2"\nservices:\n'
        f"  - name: application\n    mrenclaves: [{measurement}]\n    command: python3 -c {PRINT}\n"
        "    environment: {GREETING: hello from the CAS image}\n"
    )
    return crannog(home, "session", "create", str(path)).strip()


PRINT = "print(__import__('os').environ['GREETING'])"


# All images.


def test_labels_say_what_an_image_is(
    engine: Engine, launcher_image: str, cas_image: str, las_image: str, artifacts: Path
) -> None:
    digest = (artifacts / "launcher" / "digest").read_text().strip()
    for image in (launcher_image, cas_image, las_image):
        labels = engine.inspect(image)["Config"]["Labels"]
        assert labels["org.opencontainers.image.version"] == __version__
        assert "Crannog" in labels["org.opencontainers.image.title"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", labels["org.opencontainers.image.created"])
        assert labels["crannog.launcher-digest"] == digest


@pytest.mark.one_engine
def test_the_images_hold_nothing_but_ours(engine: Engine, cas_image: str, las_image: str) -> None:
    for image in (cas_image, las_image):
        done = engine.run(image, options=("--entrypoint=/bin/sh",), check=False)
        assert done.returncode == 127


def test_built_twice_the_layers_are_the_same(
    engine: Engine, launcher_image: str, base_image: str, artifacts: Path, image_prefix: str
) -> None:
    prefix = f"{image_prefix}again-"
    first, second = (
        [
            image.layers
            for image in build_images(
                engine.name,
                base=base_image,
                artifacts=artifacts,
                prefix=prefix,
                fresh=True,
            )
        ]
        for _ in range(2)
    )
    assert first == second


def test_sizes(
    engine: Engine,
    base_image: str,
    launcher_image: str,
    curated_image: str,
    cas_image: str,
    las_image: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    images = (base_image, launcher_image, curated_image, cas_image, las_image)
    sizes = {image.rpartition("/")[2]: engine.inspect(image)["Size"] / 1e6 for image in images}
    with capsys.disabled():
        print(
            f"\n{engine.name}:", ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items())
        )


# The CAS.


@pytest.mark.one_engine
def test_a_new_cas_asks_for_its_level(engine: Engine, cas_image: str, volume: str) -> None:
    done = engine.run(
        cas_image, options=(*engine.hardened, f"--volume={volume}:{STATE}"), check=False
    )
    assert done.returncode == 78
    assert "one of simulation, node, hardware" in done.stderr
    assert "docker run … crannog/cas --minimum-level LEVEL" in done.stderr


def test_a_cas_keeps_what_it_was_told_when_it_is_killed(
    engine: Engine, cas_image: str, volume: str, tmp_path: Path
) -> None:
    with running_cas(engine, cas_image, volume, *SIMULATION) as cas:
        known = key_hash(cas.logs())
        crannog(tmp_path, "cas", "attest", f"{cas.address}:8081", "-c", known)
        created = create_session(tmp_path, "kept", "5a" * 32)
        engine.call("kill", "--signal=KILL", cas.id)
        cas.wait()
        engine.call("start", cas.id)
        wait_for(cas, "CAS minimum trust level", times=2)
        assert key_hash(cas.logs().rpartition("client API is listening")[2]) == known
        crannog(tmp_path, "cas", "attest", f"{cas.address}:8081", "-c", known)
        back = tmp_path / "back.yaml"
        back.write_text(
            crannog(tmp_path, "session", "read", "kept", "--cas", f"{cas.address}:8081")
        )
        assert crannog(tmp_path, "session", "verify", str(back)).strip() == created
    # And for another container, which needs no level any more.
    with running_cas(engine, cas_image, volume) as cas:
        assert key_hash(cas.logs()) == known


@pytest.mark.one_engine
def test_a_cas_of_another_level_is_refused(engine: Engine, cas_image: str, volume: str) -> None:
    with running_cas(engine, cas_image, volume, *SIMULATION):
        pass
    done = engine.run(
        cas_image,
        *("--minimum-level", "node"),
        options=(*engine.hardened, f"--volume={volume}:{STATE}"),
        check=False,
    )
    assert done.returncode == 78
    assert "the database was created with simulation" in done.stderr


def test_a_cas_is_not_root_and_writes_nowhere_else(
    engine: Engine, cas_image: str, volume: str
) -> None:
    with running_cas(engine, cas_image, volume, *SIMULATION) as cas:
        status = Path(f"/proc/{cas.pid}/status").read_text()
        assert re.search(rf"^Uid:\t{USER}\t{USER}\t{USER}\t{USER}$", status, re.MULTILINE)
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE)
        assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)


def test_a_cas_stops_at_once(engine: Engine, cas_image: str, volume: str) -> None:
    with running_cas(engine, cas_image, volume, *SIMULATION) as cas:
        assert cas.stop() < SOON
        assert cas.state()["ExitCode"] == 0
        assert "CAS has stopped" in cas.logs()


def test_a_cas_that_has_hardly_started_stops_at_once(
    engine: Engine, cas_image: str, volume: str
) -> None:
    options = (*engine.hardened, f"--volume={volume}:{STATE}")
    with engine.container(cas_image, *SIMULATION, options=options) as cas:
        # From when it takes the signal; before that nobody does, as in any container.
        deadline = time.monotonic() + PATIENCE
        while not takes(cas.pid, signal.SIGTERM):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert "listening" not in cas.logs()
        assert cas.stop() < SOON


def test_a_directory_of_anothers_is_refused_with_the_user_it_needs(
    engine: Engine, cas_image: str, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory to the CAS's user")
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    bind = f"--volume={state}:{STATE}"
    done = engine.run(cas_image, *SIMULATION, options=(*engine.hardened, bind), check=False)
    assert done.returncode != 0
    assert "permission denied" in done.stderr
    assert f"user {USER}" in done.stderr
    os.chown(state, USER, USER)
    with running_cas(engine, cas_image, str(state), *SIMULATION) as cas:
        assert cas.stop() < SOON
    assert (state / "cas").stat().st_mode & 0o777 == 0o700


@pytest.mark.one_engine
def test_a_las_is_enrolled_beside_a_running_cas(
    engine: Engine, cas_image: str, volume: str
) -> None:
    key = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    with running_cas(engine, cas_image, volume, *SIMULATION) as cas:
        cas.exec("crannog", "cas", "las", "add", key)
        assert key in cas.exec("crannog", "cas", "las", "list").stdout
    # Kept, and read from a stopped one as well.
    done = engine.run(
        cas_image,
        *("cas", "las", "list"),
        options=(f"--volume={volume}:{STATE}", "--entrypoint=/opt/crannog/bin/crannog"),
    )
    assert key in done.stdout


# The LAS.


def test_a_las_listens_without_arguments(engine: Engine, las_image: str, tmp_path: Path) -> None:
    with running_las(engine, las_image) as las:
        log = las.logs()
        status = json.loads(crannog(tmp_path, "las", "probe", "--las", las.address, "--json"))
        assert status["public_key"] == las_key(log)
        assert status["level"] == "simulation"
        assert status["reason"]
        assert las.stop() < SOON
        assert las.state()["ExitCode"] == 0


def test_a_las_keeps_its_key_in_a_volume_and_warns_without(
    engine: Engine, las_image: str, volume: str
) -> None:
    keys = []
    for _ in range(2):
        options = (*engine.hardened, f"--volume={volume}:{STATE}")
        with running_las(engine, las_image, options=options) as las:
            keys.append(las_key(las.logs()))
    assert keys[0] == keys[1]
    with running_las(engine, las_image) as las:
        assert las_key(las.logs()) != keys[0]
        assert "new key" in las.logs()


RECORDS = {
    "docker": (
        "/run/docker/containerd/daemon/io.containerd.runtime.v2.task",
        "/run/containerd/io.containerd.runtime.v2.task",
        "/run/docker/runtime-runc",
        "/var/lib/docker/containers",
    ),
    "podman": (
        "/var/lib/containers/storage/overlay-containers",
        "/run/containers/storage",
        "/run/runc",
    ),
}
GIVEN = {
    "the host's PIDs": "--pid=host",
    "SYS_PTRACE": "--cap-add=SYS_PTRACE",
}


@pytest.fixture
def installed(artifacts: Path) -> Iterator[Path]:
    """A node's directory with `launcher` and `las`, root's as all above it is."""
    if os.geteuid() != 0:
        pytest.skip("a node's launcher and LAS belong to root")
    root = Path(tempfile.mkdtemp(prefix=f"{RUN}-", dir="/var/lib"))
    root.chmod(0o755)
    try:
        (root / "las").mkdir()
        subprocess.run(
            ["cp", "-a", "--no-preserve=ownership", artifacts / "launcher", root / "launcher"],
            check=True,
        )
        yield root
    finally:
        shutil.rmtree(root)


WITHOUT = {
    "the host's PIDs": "the LAS is not in the PID namespace of the node (--pid=host)",
    "SYS_PTRACE": "/exe cannot be read: permission denied",
    "the records": "no container engine's records can be read",
    "the launcher": "no launcher directory of the node is known (--launcher)",
}


def ask(
    engine: Engine, las: str, program: str, node: Path, platform: ReachablePlatform, missing: str
) -> str:
    """What a program with the node's mounts says of a LAS container that lacks something."""
    options = [*engine.hardened, f"--volume={node}/las:/run/crannog/las"]
    options += [option for name, option in GIVEN.items() if name != missing]
    options += ["--tmpfs=/var/lib/crannog"]
    if engine.name == "podman":
        options.append("--read-only-tmpfs=false")  # it would make /run anybody's
    if missing != "the launcher":
        options.append(f"--volume={node}/launcher:/run/crannog/launcher:ro")
    if missing != "the records":
        for path in filter(os.path.isdir, RECORDS[engine.name]):
            options.append(
                f"--mount=type=bind,source={path},target={path},readonly,bind-nonrecursive"
            )
    asking = (
        *engine.hardened,
        "--user=1000:1000",
        f"--volume={node}/launcher:/run/crannog/launcher:ro",
        f"--volume={node}/las:/run/crannog/las:ro",
        "--entrypoint=/run/crannog/launcher/run",
        "--env=SCONE_CONFIG_ID=no-such-session/application",
        f"--env=SCONE_CAS_ADDR={platform.cas_address(engine)}",
    )
    with running_las(engine, las, options=tuple(options)) as running:
        wait_for(running, "listening on unix:")
        done = engine.run(program, "--", "/crannog/run", options=asking, check=False)
    assert "no-such-session" in done.stderr, done.stderr  # it got as far as the session
    return done.stderr


@pytest.mark.parametrize("missing", WITHOUT)
def test_a_las_without_what_it_needs_says_why_it_is_simulation(
    engine: Engine,
    las_image: str,
    launcher_image: str,
    installed: Path,
    platform: ReachablePlatform,
    missing: str,
) -> None:
    said = ask(engine, las_image, launcher_image, installed, platform, missing)
    assert f"vouches at level simulation only: {WITHOUT[missing]}" in re.sub(
        r"only: /proc/\d+", "only: ", said
    )


def test_a_las_needs_one_capability(
    engine: Engine,
    las_image: str,
    launcher_image: str,
    installed: Path,
    platform: ReachablePlatform,
) -> None:
    said = ask(engine, las_image, launcher_image, installed, platform, "nothing")
    assert "vouches at level simulation" not in said


# Both, with a program.


def test_a_program_is_attested_by_the_two_images(
    engine: Engine,
    cas_image: str,
    las_image: str,
    curated_image: str,
    volume: str,
    tmp_path: Path,
) -> None:
    measurement = engine.run(curated_image, options=("--env=SCONE_HASH=1",)).stdout.strip()
    with (
        running_cas(engine, cas_image, volume, *SIMULATION) as cas,
        running_las(engine, las_image) as las,
    ):
        crannog(tmp_path, "cas", "attest", f"{cas.address}:8081", "-c", key_hash(cas.logs()))
        create_session(tmp_path, "attested", measurement)
        environment = {
            "SCONE_CAS_ADDR": cas.address,
            "SCONE_LAS_ADDR": las.address,
            "SCONE_CONFIG_ID": "attested/application",
        }
        options = [f"--env={name}={value}" for name, value in environment.items()]
        done = engine.run(curated_image, "python3", options=(*engine.hardened, *options))
        assert done.stdout == "hello from the CAS image\n"
        assert "simulation" in done.stderr
