"""Each attack on level node against a real container: refused by the CAS, with its reason.

The rows of docs/formats/las.md, "What is checked". The session asks for level node; the attacker
knows the measurement, the launcher's digest and the protocol.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.containers import impostor
from tests.containers.node import Node, running_node
from tests.containers.platform import ReachablePlatform
from tests.containers.protected import create_session
from tests.containers.rig import LABEL, RUN, Container, Engine
from tests.containers.vouched import GREETING, PROGRAM, REFUSED, World, make_world, measured, said

TOO_LOW = "Trust level is simulation"
LAUNCHER = "/run/crannog/launcher"


@pytest.fixture(scope="module")
def world(
    engine: Engine, base_image: str, node: Node, platform: ReachablePlatform
) -> Iterator[World]:
    """An enrolled node."""
    yield make_world(engine, base_image, node, platform)
    platform.remove_las(node.key)


def refused(done: subprocess.CompletedProcess[str], reason: str) -> None:
    """The CAS refused because of the level, and said why it is not higher."""
    everything = said(done)
    assert GREETING not in done.stdout, everything
    assert "CONFIGURED" not in done.stdout, everything
    assert TOO_LOW in everything, everything
    assert reason in everything, everything


def test_the_protocol_spoken_by_a_pristine_python_is_refused(world: World) -> None:
    done = world.start("-c", impostor.attest(world.mrenclave), entry="python3")
    refused(done, "the container was started as 'python3'")


def test_the_image_s_own_launcher_is_refused(world: World, launcher_image: str) -> None:
    tag = f"{launcher_image.rpartition(':')[0]}-own:1"
    image = world.engine.build_text(
        tag, f"FROM {world.image}\nCOPY --from={launcher_image} /crannog /crannog\n"
    )
    done = world.start(image=image, entry="/crannog/run")
    refused(done, "the container was started as '/crannog/run'")
    assert done.returncode == REFUSED


def test_the_launcher_s_loader_as_command_is_refused(world: World) -> None:
    loader = f"{LAUNCHER}/lib/ld.so"
    done = world.start(
        *("--library-path", f"{LAUNCHER}/lib", f"{LAUNCHER}/bin/python3", "-I", "-S"),
        *("-c", impostor.attest(world.mrenclave)),
        entry=loader,
    )
    refused(done, f"the container was started as '{loader}'")


def test_the_loader_runs_an_echo_and_nothing_is_vouched_for(world: World) -> None:
    done = world.start("/bin/echo", "hello", entry=f"{LAUNCHER}/lib/ld.so")
    assert done.stdout == "hello\n", said(done)
    assert "level node" not in world.node.log().splitlines()[-1]


def test_the_launcher_s_python_as_command_is_refused(world: World) -> None:
    done = world.start("-c", impostor.attest(world.mrenclave), entry=f"{LAUNCHER}/bin/python3")
    refused(done, f"the container was started as '{LAUNCHER}/bin/python3'")


def test_a_mount_inside_the_launcher_is_refused(world: World) -> None:
    options = (f"--volume={world.node.launcher}/etc:{LAUNCHER}/etc:ro",)
    refused(world.start(options=options), f"something else is mounted at {LAUNCHER}/etc")


def test_a_mount_over_the_launcher_is_refused(world: World, tmp_path: Path) -> None:
    # By another name for the same place, which the engine does not notice: /var/run is a link.
    copy = Path(shutil.copytree(world.node.launcher, tmp_path / "copy", symlinks=True))
    options = (f"--volume={copy}:/var{LAUNCHER}:ro",)
    refused(world.start(options=options), LAUNCHER)


def test_a_volume_above_the_launcher_is_refused(world: World, tmp_path: Path) -> None:
    (tmp_path / "run" / "crannog" / "launcher").mkdir(parents=True)
    (tmp_path / "run" / "crannog" / "las").mkdir()
    refused(
        world.start(options=(f"--volume={tmp_path / 'run'}:/run",)),
        "something is mounted at /run, above the launcher, that is not a tmpfs",
    )


def test_a_link_above_the_launcher_is_refused(world: World, tmp_path: Path) -> None:
    # The engine mounts where the image's link leads, and the record does not show it.
    (tmp_path / "root" / "run").mkdir(parents=True)
    (tmp_path / "root" / "evil").mkdir()
    (tmp_path / "root" / "run" / "crannog").symlink_to("/evil")
    (tmp_path / "Dockerfile").write_text(f"FROM {world.image}\nCOPY root /\n")
    image = world.engine.build(tmp_path, f"{world.image.rpartition('/')[0]}/link:1")
    refused(world.start(image=image), f"nothing is mounted at {LAUNCHER}")


def test_a_tmpfs_above_the_launcher_is_no_attack(world: World) -> None:
    done = world.start(options=("--tmpfs=/run",))
    assert GREETING in done.stdout, said(done)


def test_a_copy_of_the_launcher_in_its_place_is_refused(world: World, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(world.node.launcher, tmp_path / "copy", symlinks=True))
    mounts = (f"--volume={copy}:{LAUNCHER}:ro", world.node.mounts[1])
    refused(world.start(mounts=mounts), f"the mount at {LAUNCHER} is not this node's launcher")


def test_a_writable_mount_of_the_launcher_is_refused(world: World) -> None:
    mounts = tuple(option.removesuffix(":ro") for option in world.node.mounts)
    refused(world.start(mounts=mounts), f"the mount at {LAUNCHER} is not read-only")


def test_an_exec_into_the_container_is_refused(world: World) -> None:
    waiting = (
        *world.node.mounts,
        *world.variables(SCONE_CAS_ADDR="192.0.2.1", CRANNOG_RETRY_SECONDS="600"),
        f"--entrypoint={LAUNCHER}/run",
    )
    code = impostor.attest(world.mrenclave, SCONE_CAS_ADDR=world.platform.cas_address(world.engine))
    with world.engine.container(world.image, "--", *PROGRAM, options=waiting) as container:
        done = container.exec("python3", "-c", code, check=False)
        refused(done, "the process is not the container's init")


def test_a_forked_holder_of_the_socket_is_refused(world: World) -> None:
    done = world.start("-c", impostor.forked(world.mrenclave), entry="python3")
    assert "QUOTED" not in done.stdout, said(done)
    assert "one process connects and asks" in done.stdout, said(done)


def test_the_host_s_pid_namespace_is_refused(world: World) -> None:
    refused(world.start(options=("--pid=host",)), "the container has no pid namespace of its own")


def test_the_pid_namespace_of_another_container_is_refused(world: World) -> None:
    with world.engine.container(world.image, "sleep", "600") as other:
        done = world.start(options=(f"--pid=container:{other.id}",))
    refused(done, "pid namespace")


@pytest.mark.parametrize("capability", ["SYS_PTRACE", "SYS_ADMIN", "NET_ADMIN"])
def test_an_added_capability_is_refused(world: World, capability: str) -> None:
    done = world.start(options=(f"--cap-add={capability}",))
    refused(done, f"the record grants CAP_{capability}")


def test_no_seccomp_profile_is_refused(world: World) -> None:
    done = world.start(options=("--security-opt=seccomp=unconfined",))
    refused(done, "the container has no seccomp profile")


def test_a_seccomp_profile_that_says_what_is_there_is_not_is_refused(
    world: World, tmp_path: Path
) -> None:
    # Of one descriptor number: a planted file counts as absent, and the program opens it by path.
    # The number here is one that the launcher does not happen to use, or it would not get that far.
    arguments = [{"index": 0, "value": 1000, "op": "SCMP_CMP_EQ"}]
    rule = {"names": ["openat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 2, "args": arguments}
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))
    profile.chmod(0o644)
    done = world.start(options=(f"--security-opt=seccomp={profile}",))
    refused(done, "the seccomp profile answers 2")


@pytest.mark.parametrize(
    ("rule", "reason"),
    [
        ({"action": "SCMP_ACT_TRACE"}, "'SCMP_ACT_TRACE' for swapon"),
        ({"action": "SCMP_ACT_TRAP"}, "'SCMP_ACT_TRAP' for swapon"),
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 0}, "answers 0 for swapon"),
    ],
    ids=["trace", "trap", "no error"],
)
def test_a_seccomp_profile_of_one_s_own_is_refused(
    world: World, tmp_path: Path, rule: dict[str, object], reason: str
) -> None:
    profile = tmp_path / "profile.json"
    rules = [{"names": ["swapon"], **rule}]
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}))
    refused(world.start(options=(f"--security-opt=seccomp={profile}",)), reason)


def test_unmasked_kernel_settings_are_refused(world: World) -> None:
    option = "systempaths=unconfined" if world.engine.name == "docker" else "unmask=ALL"
    refused(world.start(options=(f"--security-opt={option}",)), "the container may")


def test_a_device_is_refused(world: World) -> None:
    done = world.start(options=("--device=/dev/kmsg",))
    refused(done, "the container may use device c 1:11")


def test_a_start_container_hook_is_refused(world: World, tmp_path: Path) -> None:
    if world.engine.name != "podman":
        pytest.skip("only podman takes hooks of the caller's")
    hook = {"version": "1.0.0", "hook": {"path": "/bin/true"}, "when": {"always": True}}
    (tmp_path / "hook.json").write_text(json.dumps({**hook, "stages": ["startContainer"]}))
    done = world.engine.call(
        *(f"--hooks-dir={tmp_path}", "run", "--rm", f"--label={LABEL}={RUN}"),
        *world.engine.limits,
        *world.node.mounts,
        *world.variables(),
        *(f"--entrypoint={LAUNCHER}/run", world.image, "--", *PROGRAM),
        check=False,
    )
    refused(done, "startContainer hook: '/bin/true'")


def test_an_annotation_that_changes_the_runtime_is_refused(world: World) -> None:
    if world.engine.name != "podman":
        pytest.skip("this Docker takes no annotations")
    done = world.start(options=("--annotation=org.criu.config=/evil.conf",))
    refused(done, "the record has the annotation 'org.criu.config'")


def test_another_configuration_id_than_the_record_s_is_refused(world: World) -> None:
    code = impostor.attest(world.mrenclave, SCONE_CONFIG_ID=world.config_id)
    done = world.start("-c", code, entry="python3", SCONE_CONFIG_ID="another/service")
    refused(done, "the configuration id asked for is not the one in the container's record")


def test_another_cas_than_the_record_s_is_refused(world: World) -> None:
    cas = world.platform.cas_address(world.engine)
    code = impostor.attest(world.mrenclave, SCONE_CAS_ADDR=cas)
    done = world.start("-c", code, entry="python3", SCONE_CAS_ADDR="192.0.2.1")
    refused(done, "the CAS asked is not the one in the container's record")


def test_other_pins_than_the_record_s_are_refused(world: World) -> None:
    code = impostor.attest(world.mrenclave, CRANNOG_SESSION_HASH="")
    done = world.start("-c", code, entry="python3", CRANNOG_SESSION_HASH="0a" * 32)
    refused(done, "the pins are not those in the container's record")


def test_another_program_is_refused(world: World) -> None:
    done = world.start("--", "sh", "-c", "true")
    assert "Unexpected enclave measurement" in done.stderr, said(done)
    assert done.returncode == REFUSED


def test_a_program_on_a_volume_is_refused(world: World, tmp_path: Path) -> None:
    shutil.copy("/bin/true", tmp_path / "program")
    options = (f"--volume={tmp_path}:/volume:ro",)
    done = world.start("--", "/volume/program", options=options)
    refused(done, "is not on the container's root mount")


def test_an_image_with_a_preload_file_is_refused_and_its_code_never_ran(
    world: World, tmp_path: Path
) -> None:
    image = _preloading(world, tmp_path)
    done = world.start(image=image)
    assert "Unexpected enclave measurement" in done.stderr, said(done)
    assert "PRELOADED" not in done.stdout + done.stderr, said(done)


def test_variables_that_would_load_code_have_no_effect(world: World, tmp_path: Path) -> None:
    image = _preloading(world, tmp_path, preload=False)
    done = world.start(
        image=image,
        LD_PRELOAD="/evil/preloaded.so",
        LD_LIBRARY_PATH="/evil",
        PYTHONPATH="/evil",
        PYTHONHOME="/evil",
        OPENSSL_CONF="/evil/openssl.cnf",
    )
    assert done.stdout == f"PROGRAM RAN {GREETING}\n", said(done)
    assert "PRELOADED" not in done.stderr, said(done)


def test_no_second_evidence_once_the_container_is_configured(world: World) -> None:
    sleeper = ("python3", "-c", "__import__('time').sleep(600)")
    config_id = create_session(
        world.platform,
        {
            "mrenclaves": [measured(world.engine, world.image, world.node, *sleeper)],
            "command": "python3 -c print('READY',flush=True)or(__import__('time').sleep(600))",
            "minimum_level": "node",
        },
    )
    options = (
        *world.node.mounts,
        *world.variables(SCONE_CONFIG_ID=config_id),
        f"--entrypoint={LAUNCHER}/run",
        f"--label={LABEL}={RUN}",
    )
    with world.engine.container(world.image, "--", *sleeper, options=options) as container:
        deadline = time.monotonic() + 60
        while "READY" not in container.logs():
            assert time.monotonic() < deadline, container.logs()
        done = container.exec("python3", "-c", impostor.attest(world.mrenclave), check=False)
    assert "CONFIGURED" not in done.stdout, said(done)
    assert "this container was configured already and gets no further evidence" in said(done)


def test_a_stale_record_is_refused(world: World, artifacts: Path) -> None:
    # The LAS sees a node whose records are those of the container's first start.
    host = Path(tempfile.mkdtemp(prefix=f"{RUN}-", dir="/var/lib"))
    host.chmod(0o755)
    (host / "var/lib/containers/storage/overlay-containers").mkdir(parents=True)
    try:
        with (
            Door(world.platform.cas_enclave) as door,
            running_node(artifacts / "launcher", "--host-root", str(host)) as other,
        ):
            world.platform.enrol(other.key)
            options = (
                *other.mounts,
                *world.variables(
                    SCONE_CAS_ADDR=f"{world.engine.gateway}:{door.port}",
                    CRANNOG_RETRY_SECONDS="120",
                ),
                f"--entrypoint={LAUNCHER}/run",
            )
            with world.engine.container(world.image, "--", *PROGRAM, options=options) as container:
                _copy_record(container, host)
                world.engine.call("restart", container.id)
                door.open()
                container.wait()
                logs = container.logs()
            world.platform.remove_las(other.key)
    finally:
        shutil.rmtree(host)
    assert GREETING not in logs, logs
    assert TOO_LOW in logs, logs
    assert "the record is stale" in logs, logs


def test_a_las_that_is_not_enrolled_is_refused(world: World) -> None:
    world.platform.remove_las(world.node.key)
    try:
        refused(world.start(), "not enrolled")
    finally:
        world.platform.enrol(world.node.key)
    assert GREETING in world.start().stdout


def test_the_same_over_tcp_is_refused(world: World) -> None:
    world.platform.enrol(world.platform.las_key)
    try:
        done = world.start(
            mounts=world.node.mounts[:1],
            SCONE_LAS_ADDR=world.platform.las_address(world.engine),
        )
    finally:
        world.platform.remove_las(world.platform.las_key)
    refused(done, "over TCP the LAS cannot see which process asks")


class Door:
    """A port that leads to the CAS once it is open; until then connections end at once."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._address = (host.strip("[]"), int(port))
        self._open = threading.Event()
        self._listening = socket.create_server(("0.0.0.0", 0))
        self.port = int(self._listening.getsockname()[1])

        self._thread = threading.Thread(target=self._accept, daemon=True)

    def __enter__(self) -> Door:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()

    def open(self) -> None:
        """From now on who connects speaks with the CAS."""
        self._open.set()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                one, _ = self._listening.accept()
                if not self._open.is_set():
                    one.close()
                    continue
                threading.Thread(target=_join, args=(one, self._address), daemon=True).start()


def _join(one: socket.socket, address: tuple[str, int]) -> None:
    with one, socket.create_connection(address) as other:
        back = threading.Thread(target=_pass_on, args=(other, one), daemon=True)
        back.start()
        _pass_on(one, other)
        back.join()


def _pass_on(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)


RECORDED = {
    "docker": (
        "run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{}/config.json",
        "run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{}/init.pid",
        "run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{}/options.json",
        "run/docker/containerd/daemon/io.containerd.runtime.v2.task/moby/{}/shim-binary-path",
        "run/docker/runtime-runc/moby/{}/state.json",
    ),
    "podman": (
        "var/lib/containers/storage/overlay-containers/{}/userdata/config.json",
        "run/containers/storage/overlay-containers/{}/userdata/pidfile",
        "run/runc/{}/state.json",
    ),
}


def _copy_record(container: Container, host: Path) -> None:
    """The record of a running container, below `host`."""
    files = [name.format(container.id) for name in RECORDED[container.engine.name]]
    if not all((Path("/") / name).is_file() for name in files):
        pytest.skip("the engine keeps its records elsewhere on this machine")
    subprocess.run(["cp", "-a", "--parents", *files, str(host)], cwd="/", check=True)


def _preloading(world: World, directory: Path, *, preload: bool = True) -> str:
    """An image with a library in /evil that says when it is loaded."""
    (directory / "preloaded.c").write_text(
        "#include <unistd.h>\n"
        "__attribute__((constructor)) static void say(void)"
        '{ if (write(2, "PRELOADED\\n", 10)) {} }\n'
    )
    library = directory / "preloaded.so"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-nostdlib", "-o", library, directory / "preloaded.c"],
        check=True,
    )
    name = "preload" if preload else "variables"
    more = "RUN echo /evil/preloaded.so > /etc/ld.so.preload\n" if preload else ""
    (directory / "Dockerfile").write_text(
        f"FROM {world.image}\nCOPY preloaded.so /evil/preloaded.so\n"
        f"RUN echo \"print('PRELOADED')\" > /evil/sitecustomize.py\n{more}"
    )
    return world.engine.build(directory, f"{world.image.rpartition('/')[0]}/{name}:1")
