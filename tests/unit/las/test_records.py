"""Reading records: what is found, and what is refused because somebody else may have written it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.errors import Denied, Error, FormatError, Misconfigured, TooLarge
from crannog.las.oci import parse_oci
from crannog.las.record import Record, parse_crun_status, parse_runc_state
from crannog.las.records.find import container_ids, find, readable
from crannog.las.records.places import Places, parse_places
from crannog.las.records.shim import parse_pid
from crannog.las.tree import Tree
from tests.unit.las.genuine import ENGINES, document, genuine, install

IMAGE = "debian-python:bookworm"


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine of which there is a record."""
    return str(request.param)


class Node:
    """A node's files in a directory, with one genuine container."""

    def __init__(self, root: Path, engine: str) -> None:
        root.chmod(0o755)
        self.root = root
        self.id = install(engine, root)
        for directory, _, files in os.walk(root):
            os.chmod(directory, 0o755)
            for name in files:
                os.chmod(os.path.join(directory, name), 0o644)

    def path(self, name: str) -> Path:
        """The one file of that name."""
        (found,) = self.root.rglob(name)
        return found

    def find(self) -> Record:
        """The record of the container."""
        tree = Tree(str(self.root), owner=os.getuid())
        return find(tree, Places(), (f"/docker/{self.id}",))


@pytest.fixture
def node(tmp_path: Path, engine: str) -> Node:
    """A node with a container of each engine in turn."""
    return Node(tmp_path, engine)


def test_a_genuine_record_is_read(node: Node, engine: str) -> None:
    record = node.find()
    expected = genuine(engine).record
    assert record._replace(container=expected.container) == expected
    assert record.container.engine == engine.partition("-")[0]
    assert record.container.id == node.id
    assert record.container.name == "hello-world"
    assert record.container.image.removeprefix("localhost/") == IMAGE
    # The kubelet's has a digest only where the pod names one.
    assert bool(record.container.image_id) == (engine in ("docker", "podman"))


@pytest.mark.parametrize("engine", ["containerd", "containerd-2"])
def test_a_pod_s_claims(tmp_path: Path, engine: str) -> None:
    container = Node(tmp_path, engine).find().container
    assert (container.namespace, container.pod) == ("tutorial", "hello-world")


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_only_the_kubelet_s_records_name_a_pod(tmp_path: Path, engine: str) -> None:
    container = Node(tmp_path, engine).find().container
    assert (container.namespace, container.pod) == ("", "")


def test_an_image_by_digest_is_claimed_with_it(tmp_path: Path) -> None:
    node = Node(tmp_path, "containerd")
    config = node.path("config.json")
    digest = f"sha256:{'ab' * 32}"
    config.write_text(config.read_text().replace(IMAGE, f"debian-python@{digest}"))
    assert node.find().container.image_id == digest


def test_docker_s_hook_is_listed(tmp_path: Path) -> None:
    hooks = Node(tmp_path, "docker").find().container.hooks
    assert [hook.split()[0] for hook in hooks] == ["prestart"]


def test_the_directories_that_can_be_read_are_named(node: Node, engine: str) -> None:
    (found,) = readable(Tree(str(node.root), owner=os.getuid()), Places())
    assert {"docker": "moby", "podman": "overlay-containers"}.get(engine, "k8s.io") in found


def test_a_record_of_another_owner(node: Node) -> None:
    with pytest.raises(Denied, match="belongs to user"):
        find(Tree(str(node.root), owner=os.getuid() + 1), Places(), (f"/{node.id}",))


@pytest.mark.parametrize("name", ["config.json", "state.json"])
def test_a_record_that_others_may_write(node: Node, name: str) -> None:
    node.path(name).chmod(0o666)
    with pytest.raises(Denied, match="writable by others"):
        node.find()


@pytest.mark.parametrize("name", ["config.json", "state.json"])
def test_a_directory_above_a_record_that_others_may_write(node: Node, name: str) -> None:
    node.path(name).parent.parent.chmod(0o777)
    with pytest.raises(Denied, match="writable by others"):
        node.find()


def test_a_record_that_is_a_link(node: Node) -> None:
    config = node.path("config.json")
    moved = config.rename(config.with_name("moved.json"))
    config.symlink_to(moved)
    with pytest.raises(Denied):
        node.find()


def test_a_directory_that_is_a_link(node: Node) -> None:
    directory = node.path("config.json").parent
    moved = directory.rename(directory.with_name("moved"))
    directory.symlink_to(moved)
    with pytest.raises(Denied):
        node.find()


def test_a_record_that_is_a_pipe(node: Node) -> None:
    config = node.path("config.json")
    config.unlink()
    os.mkfifo(config, 0o644)
    with pytest.raises(Denied, match="not a regular file"):
        node.find()


def test_a_record_that_is_too_large(node: Node) -> None:
    node.path("config.json").write_bytes(b" " * (5 << 20))
    with pytest.raises(Denied, match="more than"):
        node.find()


def test_a_record_without_the_runtime_s_state(node: Node) -> None:
    node.path("state.json").unlink()
    with pytest.raises(Denied, match="runc or crun have no state"):
        node.find()


def test_a_record_without_its_pid_file(node: Node, engine: str) -> None:
    node.path("pidfile" if engine == "podman" else "init.pid").unlink()
    with pytest.raises(Denied, match="is missing in the record"):
        node.find()


def test_no_record(node: Node) -> None:
    node.path("config.json").unlink()
    with pytest.raises(Denied, match="no engine has a record"):
        node.find()


def test_a_process_in_no_container(node: Node) -> None:
    with pytest.raises(Denied, match="in no container"):
        find(Tree(str(node.root), owner=os.getuid()), Places(), ("/user.slice", "/"))


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_claims_that_are_not_there_are_empty(tmp_path: Path, engine: str) -> None:
    node = Node(tmp_path, engine)
    node.path("config.v2.json" if engine == "docker" else "containers.json").unlink()
    container = node.find().container
    assert (container.name, container.image, container.image_id) == ("", "", "")


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_claims_of_another_container_are_not_taken(tmp_path: Path, engine: str) -> None:
    node = Node(tmp_path, engine)
    file = node.path("config.v2.json" if engine == "docker" else "containers.json")
    file.write_text(file.read_text().replace(node.id, "0" * 64))
    assert node.find().container.name == ""


def test_crun_s_status_is_taken_where_there_is_no_runc(tmp_path: Path) -> None:
    node = Node(tmp_path, "podman")
    state = genuine("podman").record.state
    runc = node.path("state.json").parent
    runc.rename(runc.with_name("moved"))
    crun = tmp_path / "run" / "crun" / node.id
    crun.mkdir(parents=True)
    os.chmod(crun.parent, 0o755)
    (crun / "status").write_text(
        json.dumps(
            {
                "pid": state.pid,
                "process-start-time": state.started,
                "rootfs": state.root,
                "bundle": state.bundle,
                "cgroup-path": "/x",
            }
        )
    )
    assert node.find().state == state


# -- by which runtime

SHIMS = ["/usr/bin/containerd-shim-runsc-v1", "/usr/bin/containerd-shim-kata-v2", ""]


@pytest.mark.parametrize("shim", SHIMS)
def test_another_shim(tmp_path: Path, shim: str) -> None:
    node = Node(tmp_path, "docker")
    node.path("shim-binary-path").write_text(shim)
    assert any("the container's shim is" in reason for reason in node.find().bends)


@pytest.mark.parametrize("shim", SHIMS)
def test_another_shim_of_the_sandbox(tmp_path: Path, shim: str) -> None:
    node = Node(tmp_path, "containerd-2")
    node.path("shim-binary-path").write_text(shim)
    assert any("the container's shim is" in reason for reason in node.find().bends)


def test_the_shim_of_another_sandbox(tmp_path: Path) -> None:
    node = Node(tmp_path, "containerd-2")
    sandbox = node.path("sandbox")
    other = node.path("shim-binary-path").parent
    other.rename(other.with_name("0" * 64))
    sandbox.write_text("0" * 64)
    assert any("another sandbox's" in reason for reason in node.find().bends)


@pytest.mark.parametrize("text", ["", "..", "../..", "AB" * 32, f"{'ab' * 32}/x"])
def test_a_sandbox_that_is_no_id(tmp_path: Path, text: str) -> None:
    node = Node(tmp_path, "containerd-2")
    node.path("sandbox").write_text(text)
    with pytest.raises(Denied, match="is not a container's id"):
        node.find()


@pytest.mark.parametrize("name", ["sandbox", "shim-binary-path"])
def test_a_shim_that_is_not_recorded(tmp_path: Path, name: str) -> None:
    node = Node(tmp_path, "containerd-2")
    node.path(name).unlink()
    with pytest.raises(Denied, match="shim-binary-path is missing in the record"):
        node.find()


RUNTIMES = {
    "gVisor": {"binary_name": "runsc", "root": "/var/run/docker/runtime-runsc"},
    "gVisor of containerd": {"BinaryName": "/usr/local/bin/runsc"},
    "Kata": {"binary_name": "kata-runtime"},
    "nvidia": {"binary_name": "/usr/bin/nvidia-container-runtime"},
}


@pytest.mark.parametrize("name", RUNTIMES)
def test_another_runtime(tmp_path: Path, name: str) -> None:
    node = Node(tmp_path, "docker")
    node.path("options.json").write_text(json.dumps(RUNTIMES[name]))
    assert node.find().runtime not in ("runc", "crun")


OPTIONS = {
    "no pivot": ({"no_pivot_root": True}, "was not pivoted"),
    "a checkpoint": ({"criu_image_path": "/x"}, "restored or saved"),
    "unknown": ({"config_path": "/etc/runsc.toml"}, "is not known here"),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_the_shim(tmp_path: Path, name: str) -> None:
    options, reason = OPTIONS[name]
    node = Node(tmp_path, "docker")
    node.path("options.json").write_text(json.dumps(options))
    assert any(reason in one for one in node.find().bends)


@pytest.mark.parametrize("name", ["restore.log", "checkpoint"])
def test_traces_of_a_checkpoint(node: Node, name: str) -> None:
    (node.path("config.json").parent / name).mkdir()
    assert any("restored or saved" in one for one in node.find().bends)


# -- Kubernetes


def _pod(root: Path) -> tuple[Path, str]:
    """Docker's record as containerd's CRI plugin writes it: its places, options, annotations."""
    node = Node(root, "docker")
    bundle = root / "run/containerd/io.containerd.runtime.v2.task/k8s.io" / node.id
    state = root / "run/containerd/runc/k8s.io" / node.id
    for place in (bundle, state):
        place.mkdir(parents=True)
    config = document("docker")
    cri = "io.kubernetes.cri."
    config["annotations"] = {
        f"{cri}container-type": "container",
        f"{cri}container-name": "server",
        f"{cri}image-name": "registry.example/hello@sha256:" + "0a" * 32,
        f"{cri}sandbox-id": "1b" * 32,
        f"{cri}sandbox-name": "hello-7d9",
        f"{cri}sandbox-namespace": "tutorial",
        f"{cri}sandbox-uid": "1",
    }
    config["root"]["path"] = "rootfs"
    (bundle / "config.json").write_text(json.dumps(config))
    (bundle / "init.pid").write_bytes(node.path("init.pid").read_bytes())
    (bundle / "options.json").write_text('{"binary_name":"","systemd_cgroup":true}')
    (bundle / "shim-binary-path").write_text("/usr/bin/containerd-shim-runc-v2")
    (state / "state.json").write_bytes(
        (root / "run/docker/runtime-runc/moby" / node.id / "state.json").read_bytes()
    )
    for directory, _, files in os.walk(root / "run/containerd"):
        os.chmod(directory, 0o755)
        for name in files:
            os.chmod(os.path.join(directory, name), 0o644)
    (root / "run/docker").rename(root / "run/no-docker")
    return bundle, node.id


def test_a_pod_s_container_is_named_by_the_cri_s_annotations(tmp_path: Path) -> None:
    _, container = _pod(tmp_path)
    tree = Tree(str(tmp_path), owner=os.getuid())
    group = f"/kubepods-burstable-pod1.slice/cri-containerd-{container}.scope"
    found = find(tree, Places(), (group,)).container
    assert found._replace(hooks=()) == (
        "containerd",
        container,
        "server",
        "registry.example/hello@sha256:" + "0a" * 32,
        "sha256:" + "0a" * 32,
        "tutorial",
        "hello-7d9",
        (),
    )


def test_annotations_outside_the_kubelet_s_namespace_claim_nothing(tmp_path: Path) -> None:
    bundle, container = _pod(tmp_path)
    moby = tmp_path / "run/containerd/io.containerd.runtime.v2.task/moby"
    moby.mkdir()
    moby.chmod(0o755)
    bundle.rename(moby / container)
    (tmp_path / "run/no-docker").rename(tmp_path / "run/docker")
    (tmp_path / "run/docker/containerd").rename(tmp_path / "run/docker/moved")
    found = find(Tree(str(tmp_path), owner=os.getuid()), Places(), (f"/docker/{container}",))
    assert (found.container.engine, found.container.pod, found.container.namespace) == (
        "docker",
        "",
        "",
    )


# -- bytes


def test_ids_are_taken_innermost_first() -> None:
    outer, inner = "a" * 64, "b" * 64
    assert container_ids((f"/docker/{outer}/kubepods/{inner}", "/")) == (inner, outer)
    assert container_ids(("/user.slice", f"/x{'c' * 65}")) == ()


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_hostile_records_raise_our_errors_only(data: bytes) -> None:
    for parse in (parse_oci, parse_runc_state, parse_pid):
        try:
            parse(data)
        except Error:
            continue


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=5), children)
    ),
    max_leaves=10,
)
_names = st.sampled_from(["process", "root", "mounts", "hooks", "annotations", "linux", "config"])


@given(st.dictionaries(_names | st.sampled_from(["id", "init_process_pid"]), _json))
@settings(deadline=None)
def test_records_of_another_shape_raise_our_errors_only(value: dict[str, object]) -> None:
    data = json.dumps(value).encode()
    for parse in (parse_oci, parse_runc_state, lambda data: parse_crun_status(data, "x")):
        try:
            parse(data)
        except Error:
            continue


@pytest.mark.parametrize("text", [b"", b"0", b"-1", b"1x", b"99999999999", b"\xb2"])
def test_a_pid_file_that_holds_none(text: bytes) -> None:
    with pytest.raises(FormatError):
        parse_pid(text)


def test_an_oversized_config_is_refused() -> None:
    with pytest.raises(TooLarge):
        parse_oci(b" " * (4 << 20) + b"{}")


# -- places


@pytest.mark.parametrize("where", ["mounts", "seccomp"])
def test_a_record_with_thousands_of_mounts_or_rules_is_refused(where: str) -> None:
    value: dict[str, object] = {"mounts": [{"destination": "/a"}] * 5000}
    if where == "seccomp":
        value = {"linux": {"seccomp": {"syscalls": [{"names": ["read"]}] * 5000}}}
    with pytest.raises(FormatError, match="5000 items"):
        parse_oci(json.dumps(value).encode())


def test_places_of_the_command_line() -> None:
    places = parse_places(("docker-root=/srv/docker", "podman-state=/x/"))
    assert (places.docker_root, places.podman_state) == ("/srv/docker", "/x")
    assert places.docker_state == Places().docker_state


@pytest.mark.parametrize(
    "text", ["docker=/x", "docker-root", "docker-root=x", "docker-root=/a/../b"]
)
def test_places_that_are_not_understood(text: str) -> None:
    with pytest.raises(Misconfigured):
        parse_places((text,))
