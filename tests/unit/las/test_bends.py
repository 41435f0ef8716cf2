"""Records that bend the rules, and powers that reach into the launcher: each refused."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.las.bends import hooks_of
from crannog.las.facts import parse_misc_devices
from crannog.las.powers import enclave_devices
from tests.unit.las.genuine import ENGINES, Document, genuine
from tests.unit.las.test_witness import refused


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine of which there is a record."""
    return str(request.param)


def _seccomp(change: Callable[[Document], object]) -> Callable[[Document], object]:
    return lambda config: change(config["linux"]["seccomp"])


def _rule(**rule: Any) -> Callable[[Document], object]:
    return _seccomp(lambda profile: profile["syscalls"].append({"names": ["mount"], **rule}))


ACTIONS = ["SCMP_ACT_NOTIFY", "SCMP_ACT_TRACE", "SCMP_ACT_TRAP", "SCMP_ACT_NEW", ""]


@pytest.mark.parametrize("action", ACTIONS)
def test_a_seccomp_action_that_is_not_listed(engine: str, action: str) -> None:
    refused(genuine(engine, _rule(action=action)), "the seccomp profile has")


@pytest.mark.parametrize("action", ACTIONS)
def test_a_seccomp_default_that_is_not_listed(engine: str, action: str) -> None:
    case = genuine(engine, _seccomp(lambda profile: profile.update(defaultAction=action)))
    refused(case, "the seccomp profile has")


@pytest.mark.parametrize("number", [0, 65536, -1, 4096])
def test_a_seccomp_rule_that_answers_without_an_error(engine: str, number: int) -> None:
    case = genuine(engine, _rule(action="SCMP_ACT_ERRNO", errnoRet=number))
    refused(case, "expected EPERM")


@pytest.mark.parametrize("number", [errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EAGAIN])
def test_a_seccomp_rule_that_lies_about_a_file(engine: str, number: int) -> None:
    case = genuine(engine, _rule(action="SCMP_ACT_ERRNO", errnoRet=number))
    refused(case, f"the seccomp profile answers {number}")


def test_a_seccomp_default_that_lies_about_a_file(engine: str) -> None:
    change = {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": errno.ENOENT}
    case = genuine(engine, _seccomp(lambda profile: profile.update(change)))
    refused(case, "the seccomp profile answers 2 by default")


@pytest.mark.parametrize("action", ["SCMP_ACT_ALLOW", "SCMP_ACT_LOG", "SCMP_ACT_KILL_PROCESS"])
def test_a_seccomp_action_that_is_listed(engine: str, action: str) -> None:
    assert genuine(engine, _rule(action=action)).reasons() == ()


@pytest.mark.parametrize("engine", ["docker", "podman"])
def test_no_seccomp_profile(engine: str) -> None:
    case = genuine(engine, lambda config: config["linux"].pop("seccomp"))
    refused(case, "the container has no seccomp profile")


@pytest.mark.parametrize("engine", ["containerd", "containerd-2"])
def test_no_seccomp_profile_is_what_kubernetes_gives(engine: str) -> None:
    case = genuine(engine, lambda config: config["linux"].pop("seccomp"))
    without = case.facts.status._replace(filters=0)
    assert case.with_facts(status=without).reasons() == ()


@pytest.mark.parametrize("engine", ["containerd", "containerd-2"])
def test_a_filter_where_no_profile_is_recorded(engine: str) -> None:
    case = genuine(engine, lambda config: config["linux"].pop("seccomp"))
    refused(case, "the process has 1 seccomp filters more than the node's init, expected 0")


@pytest.mark.parametrize("name", ["listenerPath", "listenerMetadata"])
def test_a_seccomp_listener(engine: str, name: str) -> None:
    case = genuine(engine, _seccomp(lambda profile: profile.update({name: "/run/x"})))
    refused(case, "has a listener")


def test_a_seccomp_flag_that_is_not_listed(engine: str) -> None:
    flags = ["SECCOMP_FILTER_FLAG_NEW_LISTENER"]
    case = genuine(engine, _seccomp(lambda profile: profile.update(flags=flags)))
    refused(case, "has the flag")


@pytest.mark.parametrize("name", ["getrandom", "prctl"])
def test_a_seccomp_profile_that_takes_what_the_launcher_needs(engine: str, name: str) -> None:
    def change(profile: Document) -> None:
        for rule in profile["syscalls"]:
            rule["names"] = [one for one in rule["names"] if one != name]

    refused(genuine(engine, _seccomp(change)), f"does not let {name} through")


def test_a_seccomp_rule_on_getrandom_with_a_condition(engine: str) -> None:
    condition = [{"index": 1, "value": 32, "op": "SCMP_CMP_EQ"}]
    rule = {"names": ["getrandom"], "action": "SCMP_ACT_ERRNO", "args": condition}
    case = genuine(engine, _seccomp(lambda profile: profile["syscalls"].append(rule)))
    refused(case, "does not let getrandom through")


def test_a_start_container_hook(engine: str) -> None:
    hooks = {"startContainer": [{"path": "/image/hook"}]}
    case = genuine(engine, lambda config: config.update(hooks=hooks))
    refused(case, "startContainer hook: '/image/hook'")


def test_other_hooks_are_the_node_s_and_are_listed(engine: str) -> None:
    hooks = {"createRuntime": [{"path": "/usr/bin/nvidia", "args": ["x"], "env": ["A=b"]}]}
    case = genuine(engine, lambda config: config.update(hooks=hooks))
    assert case.reasons() == ()
    assert hooks_of(case.record.oci) == ("createRuntime /usr/bin/nvidia",)


ANNOTATIONS = {
    "gVisor": ("dev.gvisor.spec.mount.x.share", "pod"),
    "Kata": ("io.katacontainers.config.hypervisor.path", "/x"),
    "crun": ("run.oci.handler", "wasm"),
    "crun hooks": ("run.oci.hooks.stdout", "/x"),
    "systemd": ("org.systemd.property.TasksMax", "1"),
    "a checkpoint's": ("org.criu.config", "/etc/criu/evil.conf"),
    "a restored container's": ("org.criu.checkpoint.container.name", "x"),
    "untrusted workload": ("io.kubernetes.cri.untrusted-workload", "true"),
    "seccomp notification": ("io.containers.seccomp", "x"),
    "a user's": ("example.org/note", "x"),
}


@pytest.mark.parametrize("name", ANNOTATIONS)
def test_an_annotation_that_is_not_listed(engine: str, name: str) -> None:
    key, value = ANNOTATIONS[name]
    case = genuine(engine, lambda config: config.setdefault("annotations", {}).update({key: value}))
    refused(case, f"the annotation {key!r}")


def test_podman_s_privileged() -> None:
    change = {"io.podman.annotations.privileged": "TRUE"}
    case = genuine("podman", lambda config: config["annotations"].update(change))
    refused(case, "the container is privileged")


@pytest.mark.parametrize("runtime", ["runsc", "kata-runtime", "nvidia-container-runtime", ""])
def test_another_runtime(engine: str, runtime: str) -> None:
    refused(genuine(engine).with_record(runtime=runtime), "the container's runtime is")


def test_what_the_reader_found(engine: str) -> None:
    refused(genuine(engine).with_record(bends=("the container was restored",)), "restored")


CAPABILITIES = ["CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_SYS_MODULE", "CAP_DAC_READ_SEARCH"]
CAPABILITIES += ["CAP_BPF", "CAP_PERFMON", "CAP_CHECKPOINT_RESTORE", "CAP_SYS_RAWIO", "CAP_NEW"]
SETS = ["bounding", "effective", "inheritable", "permitted", "ambient"]


@pytest.mark.parametrize("kind", SETS)
@pytest.mark.parametrize("name", CAPABILITIES)
def test_a_recorded_capability(engine: str, name: str, kind: str) -> None:
    case = genuine(engine, lambda config: config["process"]["capabilities"].update({kind: [name]}))
    refused(case, f"the record grants {name}")


@pytest.mark.parametrize("bit", [2, 12, 16, 17, 19, 21, 38, 39, 40, 63])
def test_a_capability_of_the_process(engine: str, bit: int) -> None:
    case = genuine(engine)
    status = case.facts.status._replace(capabilities=1 << bit)
    refused(case.with_facts(status=status), f"capabilities that are not allowed: {bit}")


RULES: dict[str, Document] = {
    "all": {"allow": True, "access": "rwm"},
    "a disk": {"allow": True, "type": "b", "major": 8, "minor": 0, "access": "rw"},
    "memory": {"allow": True, "type": "c", "major": 1, "minor": 1, "access": "r"},
    "generic SCSI": {"allow": True, "type": "c", "major": 21, "minor": 0, "access": "rw"},
    "every character device": {"allow": True, "type": "c", "access": "rwm"},
    "another miscellaneous device": {"allow": True, "type": "c", "major": 10, "minor": 126},
    "every miscellaneous device": {"allow": True, "type": "c", "major": 10, "access": "rw"},
    "a disk with an enclave's numbers": {"allow": True, "type": "b", "major": 10, "minor": 125},
}


@pytest.mark.parametrize("name", RULES)
def test_a_device(engine: str, name: str) -> None:
    case = genuine(
        engine, lambda config: config["linux"]["resources"]["devices"].append(RULES[name])
    )
    refused(case, "the container may use device")


def test_the_node_s_enclave_device_is_no_obstacle(engine: str) -> None:
    rule = {"allow": True, "type": "c", "major": 10, "minor": 125, "access": "rw"}
    case = genuine(engine, lambda config: config["linux"]["resources"]["devices"].append(rule))
    assert case.reasons() == ()
    without = case.node._replace(enclave_devices=frozenset())
    refused(case._replace(node=without), "the container may use device c 10:125")


def test_enclave_devices_are_known_by_the_kernel_s_names() -> None:
    misc = parse_misc_devices(b"  1 psaux\n125 sgx_enclave\n126 sgx_provision\n124 sgx_vepc\n")
    assert enclave_devices(misc) == {(10, 125), (10, 126)}


FIRST: list[list[Document]] = [
    [],
    [{"allow": True, "type": "c", "major": 1, "minor": 3, "access": "rwm"}],
    [{"allow": False, "type": "c", "access": "rwm"}],
    [{"allow": False, "access": "m"}],
]


@pytest.mark.parametrize("rules", FIRST, ids=range(len(FIRST)))
def test_device_rules_that_do_not_begin_with_a_refusal(engine: str, rules: list[Document]) -> None:
    case = genuine(engine, lambda config: config["linux"]["resources"].update(devices=rules))
    refused(case, "the container may use every device")


@pytest.mark.parametrize("path", ["/proc/sys", "/proc/sysrq-trigger"])
def test_writable_kernel_settings(engine: str, path: str) -> None:
    case = genuine(engine, lambda config: config["linux"]["readonlyPaths"].remove(path))
    refused(case, "may write kernel settings below /proc")


def test_readable_kernel_memory(engine: str) -> None:
    case = genuine(engine, lambda config: config["linux"]["maskedPaths"].remove("/proc/kcore"))
    refused(case, "/proc/kcore")


def test_writable_sysfs(engine: str) -> None:
    def change(config: Document) -> None:
        for mount in config["mounts"]:
            if mount["destination"] == "/sys":
                mount["options"] = ["nosuid"]

    refused(genuine(engine, change), "below /sys")


@pytest.mark.parametrize("name", ["kernel.core_pattern", "kernel/core_pattern", "vm.x", "fs.x"])
def test_a_kernel_parameter(engine: str, name: str) -> None:
    case = genuine(engine, lambda config: config["linux"].update(sysctl={name: "|/evil"}))
    refused(case, "sets the kernel parameter")


@pytest.mark.parametrize("propagation", ["shared", "rshared", "unbindable"])
def test_a_root_that_is_shared(engine: str, propagation: str) -> None:
    case = genuine(engine, lambda config: config["linux"].update(rootfsPropagation=propagation))
    refused(case, "has propagation")


# -- what is not known

PLACES: dict[str, Callable[[Document], Document]] = {
    "config": lambda config: config,
    "process": lambda config: config["process"],
    "capabilities": lambda config: config["process"]["capabilities"],
    "root": lambda config: config["root"],
    "linux": lambda config: config["linux"],
    "seccomp": lambda config: config["linux"]["seccomp"],
    "a seccomp rule": lambda config: config["linux"]["seccomp"]["syscalls"][0],
    "hooks": lambda config: config.setdefault("hooks", {}),
    "a mount": lambda config: config["mounts"][0],
}


@pytest.mark.parametrize("place", PLACES)
@given(name=st.text(min_size=1, max_size=20).map(lambda text: f"x{text}"), value=st.just("x"))
@settings(max_examples=20, deadline=None)
def test_a_field_that_is_not_known(place: str, name: str, value: str) -> None:
    case = genuine("docker", lambda config: PLACES[place](config).update({name: value}))
    assert any("is not known here" in reason for reason in case.reasons())


@pytest.mark.parametrize("name", ["Args", "ARGS", "args "])
def test_a_field_that_go_would_take_for_another(engine: str, name: str) -> None:
    # encoding/json of Go matches names without regard to case.
    case = genuine(engine, lambda config: config["process"].update({name: ["python3"]}))
    refused(case, "is not known here")


@pytest.mark.parametrize("name", ["personality", "timeOffsets"])
def test_a_field_of_linux_that_is_not_judged(engine: str, name: str) -> None:
    case = genuine(engine, lambda config: config["linux"].update({name: {"domain": "LINUX32"}}))
    refused(case, f"config.json.linux.{name}")
