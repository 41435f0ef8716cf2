"""One test for each thing that the witness refuses, by a change to a genuine record."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crannog.evidence.subject import Container, Pins
from crannog.las.facts import FileId, Place
from tests.unit.las.genuine import ENGINES, Case, Document, genuine

LAUNCHER = "/run/crannog/launcher"
BIND = {"type": "bind", "options": ["rbind", "ro", "rprivate"]}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine of which there is a record."""
    return str(request.param)


def refused(case: Case, reason: str) -> None:
    """There is a reason against, and it says this."""
    reasons = case.reasons()
    assert any(reason in one for one in reasons), reasons
    assert all(one.isprintable() and len(one) < 300 for one in reasons)


def test_a_genuine_container_is_vouched_for(engine: str) -> None:
    assert genuine(engine).reasons() == ()


def _mount(config: Document, point: str) -> Document:
    (found,) = [mount for mount in config["mounts"] if mount["destination"] == point]
    return dict_of(found)


def dict_of(value: Any) -> Document:
    """`value`, which is an object."""
    assert isinstance(value, dict)
    return value


def _args(first: str) -> Callable[[Document], object]:
    return lambda config: config["process"]["args"].__setitem__(0, first)


ARGS = ["python3", "/crannog/run", f"{LAUNCHER}/lib/ld.so", f"{LAUNCHER}/bin/python3", "run"]
ARGS += [f"{LAUNCHER}/../launcher/run", f"{LAUNCHER}//run", f"{LAUNCHER}/run/"]


@pytest.mark.parametrize("first", ARGS)
def test_another_command_than_the_entry(engine: str, first: str) -> None:
    refused(genuine(engine, _args(first)), "the container was started as")


def test_no_command(engine: str) -> None:
    case = genuine(engine, lambda config: config["process"].pop("args"))
    refused(case, "the container was started as")


# -- mounts, as recorded

MOUNTS = {
    "inside": ({"destination": f"{LAUNCHER}/lib", **BIND}, "something else is mounted at"),
    "beside": ({"destination": "/run/crannog/more", **BIND}, "something else is mounted at"),
    "twice": ({"destination": LAUNCHER, **BIND}, "something else is mounted at"),
    "trailing slash": ({"destination": f"{LAUNCHER}/", **BIND}, "something else is mounted at"),
    "above": ({"destination": "/run/crannog", **BIND}, "that is not a tmpfs"),
    "root": ({"destination": "/", **BIND}, "that is not a tmpfs"),
    "tmpfs by bind": (
        {"destination": "/run", "type": "tmpfs", "source": "/srv", "options": ["rbind"]},
        "that is not a tmpfs",
    ),
    "over /proc": ({"destination": "/proc", **BIND}, "something is mounted at /proc"),
    "below /proc": ({"destination": "/proc/self", **BIND}, "something is mounted at /proc/self"),
    "dots": ({"destination": "/run/x/../crannog", **BIND}, "a recorded mount has destination"),
    "relative": ({"destination": "run", **BIND}, "a recorded mount has destination"),
}


@pytest.mark.parametrize("name", MOUNTS)
def test_a_recorded_mount(engine: str, name: str) -> None:
    mount, reason = MOUNTS[name]
    refused(genuine(engine, lambda config: config["mounts"].append(mount)), reason)


@pytest.mark.parametrize("point", [LAUNCHER, "/run/crannog/las"])
def test_a_recorded_mount_that_is_missing(engine: str, point: str) -> None:
    case = genuine(engine, lambda config: config["mounts"].remove(_mount(config, point)))
    refused(case, f"the record has no mount at {point}")


OPTIONS = [["rbind", "rprivate"], ["rbind", "ro", "rw"], ["ro"], ["rbind", "ro", "rshared"]]
OPTIONS += [["rbind", "ro", "rslave"], ["rbind", "ro", "exotic"], []]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
@pytest.mark.parametrize("point", [LAUNCHER, "/run/crannog/las"])
def test_options_of_the_node_s_mounts(engine: str, point: str, options: list[str]) -> None:
    case = genuine(engine, lambda config: _mount(config, point).update(options=options))
    refused(case, "is not a read-only private bind mount")


def test_a_mapped_mount(engine: str) -> None:
    mapping = [{"containerID": 0, "hostID": 1, "size": 1}]
    case = genuine(engine, lambda config: _mount(config, LAUNCHER).update(uidMappings=mapping))
    refused(case, "is not a read-only private bind mount")


# -- mounts, as they are


def _line(text: str, point: str) -> str:
    (found,) = [line for line in text.splitlines() if line.split(" ")[4] == point]
    return found


def _added(line: str) -> Callable[[str], str]:
    return lambda text: f"{text}{line}\n"


LINES = {
    "over": (f"900 76 254:0 /evil {LAUNCHER} ro - ext4 /dev/vda rw", "two mounts lie on"),
    "inside": (f"900 76 254:0 /evil {LAUNCHER}/lib ro - ext4 /dev/vda rw", "something else is"),
    "beside": ("900 76 254:0 /evil /run/crannog/x ro - ext4 /dev/vda rw", "something else is"),
    "over itself": ("900 77 254:0 /evil /proc/self ro - ext4 /dev/vda rw", "/proc/self"),
    "process 1": ("900 77 254:0 /evil /proc/1/exe ro - ext4 /dev/vda rw", "/proc/1/exe"),
    "another root": ("900 76 254:0 /evil / ro - ext4 /dev/vda rw", "two mounts lie on"),
    "crannog": ("900 76 254:0 / /run/crannog ro - tmpfs tmpfs rw", "is not in the record"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_live_mount(engine: str, name: str) -> None:
    line, reason = LINES[name]
    refused(genuine(engine).with_mounts(_added(line)), reason)


@pytest.mark.parametrize("point", [LAUNCHER, "/run/crannog/las"])
def test_a_live_mount_that_is_gone(engine: str, point: str) -> None:
    case = genuine(engine).with_mounts(lambda text: text.replace(_line(text, point) + "\n", ""))
    refused(case, f"nothing is mounted at {point}")


@pytest.mark.parametrize("point", [LAUNCHER, "/run/crannog/las"])
def test_a_live_mount_that_is_writable(engine: str, point: str) -> None:
    case = genuine(engine).with_mounts(lambda text: text.replace(f"{point} ro,", f"{point} rw,", 1))
    refused(case, f"the mount at {point} is not read-only")


@pytest.mark.parametrize(
    ("source", "reason"),
    [("launcher", "is not this node's launcher"), ("las", "is not this LAS's socket directory")],
)
def test_a_live_mount_of_something_else(engine: str, source: str, reason: str) -> None:
    case = genuine(engine).with_mounts(
        lambda text: text.replace(f"/opt/crannog-node/{source} ", f"/opt/other/{source} ")
    )
    refused(case, reason)


def test_the_same_path_on_another_file_system(engine: str) -> None:
    case = genuine(engine).with_mounts(
        lambda text: text.replace(
            "254:0 /opt/crannog-node/launcher", "7:1 /opt/crannog-node/launcher"
        )
    )
    refused(case, "is not this node's launcher")


def test_a_volume_above_the_launcher(engine: str) -> None:
    line = "900 76 254:0 /srv /run rw - ext4 /dev/vda rw"
    case = genuine(engine).with_mounts(_added(line))
    assert case.reasons()


def test_a_tmpfs_over_the_launcher_s_mounts() -> None:
    # It lies on the root, and the launcher's mount too: so it hides it.
    line = "900 76 0:99 / /run rw - tmpfs tmpfs rw"
    tmpfs = {"destination": "/run", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}
    case = genuine("docker", lambda config: config["mounts"].append(tmpfs))
    refused(case.with_mounts(_added(line)), "does not lie on what is mounted above it")


def test_a_bound_tmpfs_above_the_launcher() -> None:
    case = genuine("podman").with_mounts(
        lambda text: text.replace(" / /run rw", " /volume /run rw")
    )
    refused(case, "that is not a tmpfs")


def test_a_proc_that_is_none(engine: str) -> None:
    case = genuine(engine).with_mounts(
        lambda text: text.replace(
            "/proc rw,nosuid,nodev,noexec,relatime - proc ", "/proc rw - ext4 "
        )
    )
    refused(case, "what is mounted at /proc is not a whole proc file system")


def test_another_root_than_the_record_s(engine: str) -> None:
    case = genuine(engine)
    refused(
        case._replace(node=case.node._replace(root=Place("0:99", "/"))),
        "the container's root is not the recorded one",
    )


def test_a_recorded_root_that_the_node_does_not_show(engine: str) -> None:
    case = genuine(engine)
    refused(case._replace(node=case.node._replace(root=None)), "does not show")


# -- the process


def test_another_executable(engine: str) -> None:
    case = genuine(engine).with_facts(executable=FileId(65024, 1))
    refused(case, "does not execute the node's launcher")


def test_another_process_of_the_container(engine: str) -> None:
    refused(genuine(engine).with_facts(pid=4711), "is not the container's init")


def test_a_pid_file_that_differs_from_the_runtime_s_state(engine: str) -> None:
    refused(genuine(engine).with_record(pid=4711), "is not the container's init")


def test_a_stale_record(engine: str) -> None:
    case = genuine(engine)
    refused(case.with_facts(started=case.facts.started + 1), "the record is stale")


@pytest.mark.parametrize("numbers", [(25255,), (25255, 7), (25255, 9, 1)])
def test_a_process_that_is_not_1_in_its_namespace(engine: str, numbers: tuple[int, ...]) -> None:
    case = genuine(engine)
    status = case.facts.status._replace(numbers=numbers)
    refused(case.with_facts(status=status), "is not process 1 of a PID namespace")


def test_the_state_of_another_container(engine: str) -> None:
    case = genuine(engine)
    state = case.record.state._replace(id="0" * 64)
    refused(case.with_record(state=state), "of another container")


def test_a_state_with_another_bundle(engine: str) -> None:
    case = genuine(engine)
    state = case.record.state._replace(bundle="/srv/bundle")
    refused(case.with_record(state=state), "from another directory")


@pytest.mark.parametrize("groups", [(), ("/",), ("/system.slice/docker-evil.scope",)])
def test_another_control_group(engine: str, groups: tuple[str, ...]) -> None:
    refused(genuine(engine).with_facts(groups=groups), "not in the recorded control group")


def test_one_hierarchy_elsewhere(engine: str) -> None:
    case = genuine(engine)
    refused(
        case.with_facts(groups=(*case.facts.groups, "/docker/other")),
        "not in the recorded control group",
    )


def test_a_recorded_control_group_that_is_not_the_container_s(engine: str) -> None:
    case = genuine(engine, lambda config: config["linux"].update(cgroupsPath="/shared"))
    refused(case, "the recorded control group is not the container's own")


def test_the_form_of_systemd_s_control_groups(engine: str) -> None:
    case = genuine(engine)
    container = case.record.container.id
    oci = case.record.oci._replace(cgroup=f"system.slice:docker:{container}")
    case = case.with_record(oci=oci)
    # As runc has it, as a LAS in a control group namespace sees it, as crun has it.
    for group in (
        "/system.slice/docker-{}.scope",
        "/../docker-{}.scope",
        "/x/docker-{}.scope/container",
    ):
        found = case.with_facts(groups=(group.format(container), "/", "/.."))
        assert found.reasons() == ()
    refused(
        case.with_facts(groups=(f"/system.slice/docker-{container}.scope/other",)),
        "not in the recorded control group",
    )


def test_a_process_with_children(engine: str) -> None:
    refused(genuine(engine).with_facts(children=1), "has child processes")


def test_a_traced_process(engine: str) -> None:
    case = genuine(engine)
    status = case.facts.status._replace(tracer=1)
    refused(case.with_facts(status=status), "the process is traced")


def test_a_dumpable_process(engine: str) -> None:
    refused(genuine(engine).with_facts(owner=1000), "is dumpable")


@pytest.mark.parametrize("filters", [0, 2])
def test_another_number_of_seccomp_filters_than_recorded(engine: str, filters: int) -> None:
    case = genuine(engine)
    status = case.facts.status._replace(filters=filters)
    refused(case.with_facts(status=status), "seccomp filters more than the node's init")


# -- namespaces


def _namespaces(*spaces: tuple[str, str]) -> Callable[[Document], object]:
    made = [{"type": kind, "path": path} for kind, path in spaces]
    return lambda config: config["linux"].update(namespaces=made)


def test_no_pid_namespace(engine: str) -> None:
    case = genuine(engine, _namespaces(("mount", ""), ("network", "")))
    refused(case, "no pid namespace of its own")


def test_no_mount_namespace(engine: str) -> None:
    case = genuine(engine, _namespaces(("pid", ""), ("network", "")))
    refused(case, "no mount namespace of its own")


@pytest.mark.parametrize("kind", ["pid", "mount"])
def test_a_namespace_of_another_container(engine: str, kind: str) -> None:
    spaces = [(one, "/proc/1/ns/x" if one == kind else "") for one in ("pid", "mount")]
    refused(genuine(engine, _namespaces(*spaces)), f"shares the {kind} namespace")


@pytest.mark.parametrize("kind", ["user", "time", "exotic"])
def test_a_namespace_that_is_not_judged(engine: str, kind: str) -> None:
    case = genuine(engine, _namespaces(("pid", ""), ("mount", ""), (kind, "")))
    refused(case, f"namespace of type '{kind}'")


def test_user_id_mappings(engine: str) -> None:
    mapping = [{"containerID": 0, "hostID": 100000, "size": 65536}]
    case = genuine(engine, lambda config: config["linux"].update(uidMappings=mapping))
    refused(case, "user id mappings")


def test_the_host_s_pid_namespace(engine: str) -> None:
    refused(genuine(engine).with_facts(pid_namespace=4026531836), "the host's PID namespace")


def test_the_host_s_mounts(engine: str) -> None:
    case = genuine(engine)
    node = case.node._replace(mounts=frozenset({case.facts.mounts[0].number}))
    refused(case._replace(node=node), "the host's mount namespace")


def test_a_user_namespace(engine: str) -> None:
    refused(genuine(engine).with_facts(user_namespace=1), "in a user namespace")


# -- what the launcher was told


def test_another_configuration_id(engine: str) -> None:
    refused(genuine(engine).with_request(config_id="other/app"), "the configuration id")


def test_another_cas(engine: str) -> None:
    refused(genuine(engine).with_request(cas="198.51.100.1:18765"), "the CAS asked")


@pytest.mark.parametrize("pins", [Pins("key", ""), Pins("", "0a" * 32)])
def test_other_pins(engine: str, pins: Pins) -> None:
    refused(genuine(engine).with_request(pins=pins), "the pins")


def test_another_launcher_s_digest(engine: str) -> None:
    refused(genuine(engine).with_request(launcher=b"x" * 32), "the launcher's digest")


def test_something_measured_on_a_volume(engine: str) -> None:
    refused(genuine(engine).with_request(foreign="/data/program"), "'/data/program' was measured")


def test_everything_at_once_names_everything() -> None:
    case = genuine("docker", _args("python3")).with_request(config_id="x/y", foreign="/x")
    case = case.with_record(container=Container("docker", "0" * 64))
    assert len(case.reasons()) >= 4
