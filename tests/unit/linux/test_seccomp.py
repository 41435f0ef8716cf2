"""The filter, run by an interpreter of classic BPF: what the kernel would decide."""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable

import pytest

from crannog.linux import seccomp
from crannog.linux.procfs import Credentials
from crannog.linux.seccomp import ALLOW, NOTIFY, Condition, Instruction, Rule, build, refuse
from crannog.linux.syscalls import ARM64, LAST_KNOWN, X86_64, Machine
from crannog.runtime.supervisor import parts, table
from crannog.runtime.supervisor.contents import Contents
from crannog.runtime.supervisor.directories import Directories
from crannog.runtime.supervisor.loop import Supervisor
from crannog.runtime.supervisor.namespace import Namespace, Owner
from crannog.runtime.supervisor.world import World

AT_FDCWD = 0xFFFFFFFFFFFFFF9C
AT_EMPTY_PATH = 0x1000
EPERM = refuse(errno.EPERM)
ENOSYS = refuse(errno.ENOSYS)


def run(program: tuple[Instruction, ...], data: bytes) -> int:
    accumulator = 0
    at = 0
    while True:
        code, jump_true, jump_false, value = program[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x15:
            at += jump_true if accumulator == value else jump_false
        elif code == 0x25:
            at += jump_true if accumulator > value else jump_false
        elif code == 0x06:
            return value
        else:
            raise AssertionError(f"unknown instruction {code:#x}")


def data(machine: Machine, number: int, *arguments: int, arch: int | None = None) -> bytes:
    padded = [*arguments, *([0] * (6 - len(arguments)))]
    return struct.pack(
        "<iIQ6Q", number, arch or machine.audit_arch, 0, *(word % 2**64 for word in padded)
    )


def supervisor(machine: Machine, allow_dlopen: int = 2) -> Supervisor:
    world = World(allow_dlopen=allow_dlopen)
    namespace = Namespace(world, Owner(0, 0, 0), lambda path: path)
    contents = Contents(
        namespace, memory_limit=1, descriptor_limit=1, threads=1, say=lambda line: None
    )
    made = Supervisor(
        machine=machine,
        world=world,
        namespace=namespace,
        contents=contents,
        directories=Directories(1),
        workers=0,
        own_credentials=Credentials(0, 0, (), 0),
        stop=lambda: None,
    )
    table.register_all(made)
    parts.register(made)
    return made


Decide = Callable[..., int]


@pytest.fixture(params=[X86_64, ARM64], ids=lambda machine: str(machine.name))
def machine(request: pytest.FixtureRequest) -> Machine:
    assert isinstance(request.param, Machine)
    return request.param


@pytest.fixture
def decide(machine: Machine) -> Decide:
    program = build(machine, table.filter_rules(supervisor(machine)))

    def decided(name: str, *arguments: int) -> int:
        return run(program, data(machine, machine.numbers[name], *arguments))

    return decided


def test_opens_are_notified(decide: Decide) -> None:
    assert decide("openat") == NOTIFY
    assert decide("openat2") == NOTIFY
    assert decide("execve") == NOTIFY


@pytest.mark.parametrize("number", [0, 1, 3, 202, 232])
def test_reads_and_writes_go_on(number: int) -> None:
    program = build(X86_64, table.filter_rules(supervisor(X86_64)))
    assert run(program, data(X86_64, number)) == ALLOW


def test_every_handler_is_notified(machine: Machine) -> None:
    made = supervisor(machine, allow_dlopen=0)
    program = build(machine, table.filter_rules(made))
    for name in set(made.handlers) & set(machine.numbers):
        arguments = (AT_FDCWD, 0, 4, 2) if name == "mmap" else (AT_FDCWD,)
        assert run(program, data(machine, machine.numbers[name], *arguments)) == NOTIFY, name


def test_every_known_call_is_decided_on_purpose(machine: Machine) -> None:
    made = supervisor(machine)
    decided = set(table.filter_rules(made))
    own = {"seccomp", "fchdir", "close", "mmap", "lseek", "execveat"}
    assert set(machine.numbers) - decided - own == set()


def test_another_architecture_is_refused(machine: Machine) -> None:
    program = build(machine, table.filter_rules(supervisor(machine)))
    i386 = 0x40000003
    assert run(program, data(machine, 5, arch=i386)) == ENOSYS


def test_x32_is_refused() -> None:
    program = build(X86_64, table.filter_rules(supervisor(X86_64)))
    assert run(program, data(X86_64, 0x40000000 | 2)) == ENOSYS
    assert run(program, data(X86_64, 0x40000000)) == ENOSYS


def test_numbers_beyond_the_table_are_refused(machine: Machine) -> None:
    program = build(machine, table.filter_rules(supervisor(machine)))
    for number in (LAST_KNOWN + 1, 1000, 0x3FFFFFFF, -1):
        assert run(program, data(machine, number)) == ENOSYS


@pytest.mark.parametrize("name", ["io_uring_setup", "io_uring_enter", "clone3"])
def test_ways_round_are_not_there(decide: Decide, name: str) -> None:
    assert decide(name) == ENOSYS


@pytest.mark.parametrize(
    "name",
    [
        *("setns", "mount", "umount2", "pivot_root", "move_mount", "open_tree", "fsmount"),
        *("fspick", "mount_setattr", "open_by_handle_at", "open_tree_attr"),
    ],
)
def test_mounts_and_namespaces_are_not_permitted(decide: Decide, name: str) -> None:
    assert decide(name) == EPERM


@pytest.mark.parametrize("flag", [0x00020000, 0x02000000, 0x10000000, 0x20000000, 0x40000000])
def test_clone_of_a_namespace_is_not_permitted(decide: Decide, flag: int) -> None:
    assert decide("clone", flag | 17) == EPERM
    assert decide("unshare", flag) == EPERM


def test_clone_of_threads_and_processes_goes_on(decide: Decide) -> None:
    assert decide("clone", 0x3D0F00) == ALLOW
    assert decide("clone", 17) == ALLOW
    assert decide("unshare", 0x400) == ALLOW


@pytest.mark.parametrize(("name", "flags_at"), [("newfstatat", 3), ("statx", 2)])
class TestEmptyPath:
    def test_fstat_of_a_descriptor_goes_on(self, decide: Decide, name: str, flags_at: int) -> None:
        arguments = [3, 0, 0, 0]
        arguments[flags_at] = AT_EMPTY_PATH
        assert decide(name, *arguments) == ALLOW

    def test_with_the_working_directory_it_is_notified(
        self, decide: Decide, name: str, flags_at: int
    ) -> None:
        for directory in (AT_FDCWD, 0xFFFFFF9C, 0x1FFFFFF9C):
            arguments = [directory, 0, 0, 0]
            arguments[flags_at] = AT_EMPTY_PATH
            assert decide(name, *arguments) == NOTIFY

    def test_without_the_flag_it_is_notified(
        self, decide: Decide, name: str, flags_at: int
    ) -> None:
        assert decide(name, 3, 0, 0, 0) == NOTIFY
        assert decide(name, AT_FDCWD, 0, 0, 0) == NOTIFY


@pytest.mark.parametrize("name", ["openat2", "faccessat2", "linkat", "fchownat", "execveat"])
def test_no_other_call_is_let_pass_for_the_flag(decide: Decide, name: str) -> None:
    assert decide(name, 3, 0, AT_EMPTY_PATH, AT_EMPTY_PATH, AT_EMPTY_PATH) == NOTIFY


class TestMmap:
    PRIVATE, SHARED, ANONYMOUS, EXEC = 2, 1, 0x20, 4

    def decide(self, machine: Machine, protection: int, flags: int, dlopen: int) -> int:
        program = build(machine, table.filter_rules(supervisor(machine, dlopen)))
        return run(program, data(machine, machine.numbers["mmap"], 0, 0, protection, flags))

    def test_goes_on_where_everything_may_be_loaded(self, machine: Machine) -> None:
        assert self.decide(machine, self.EXEC, self.PRIVATE, 2) == ALLOW

    def test_private_or_executable_files_are_notified_below(self, machine: Machine) -> None:
        assert self.decide(machine, 1, self.PRIVATE, 1) == NOTIFY
        assert self.decide(machine, self.EXEC, self.SHARED, 1) == NOTIFY

    def test_memory_and_shared_data_go_on(self, machine: Machine) -> None:
        assert self.decide(machine, 3, self.PRIVATE | self.ANONYMOUS, 1) == ALLOW
        assert self.decide(machine, 1, self.SHARED, 1) == ALLOW


def test_the_first_rule_that_holds_decides() -> None:
    rules = (
        Rule(refuse(1), (Condition(0, 0xFF, 1), Condition(1, 0xFF, 1))),
        Rule(refuse(2), (Condition(0, 0xFF, 1),)),
        Rule(refuse(3)),
    )
    program = build(X86_64, {"openat": rules})
    number = X86_64.numbers["openat"]
    assert run(program, data(X86_64, number, 1, 1)) == refuse(1)
    assert run(program, data(X86_64, number, 1, 2)) == refuse(2)
    assert run(program, data(X86_64, number, 2, 1)) == refuse(3)


def test_packed_instructions_are_eight_bytes() -> None:
    program = build(X86_64, {"openat": (Rule(NOTIFY),)})
    assert len(seccomp.pack(program)) == 8 * len(program)
    assert seccomp.pack(program)[:8] == bytes.fromhex("2000000004000000")
