"""Building a seccomp filter (classic BPF). Pure: installing it is `notify.install`.

A filter here has rules per system call: the first whose conditions hold decides. Calls without a
rule go on untouched. Three things are refused whatever the rules say, since each would be a way
round them: calls of another architecture's interface (i386, x32), numbers beyond the table, and
what a rule refuses by name.

Conditions look at the low 32 bits of an argument: the kernel itself takes no more of the flags and
descriptors that are looked at here.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from crannog.linux.syscalls import Machine

ALLOW = 0x7FFF0000  # SECCOMP_RET_ALLOW
NOTIFY = 0x7FC00000  # SECCOMP_RET_USER_NOTIF
_ERRNO = 0x00050000  # SECCOMP_RET_ERRNO, the number in the low 16 bits

# struct seccomp_data: nr, arch, instruction pointer, six arguments of 64 bits; little-endian here.
_NR, _ARCH, _ARGS = 0, 4, 16

_LD_W_ABS = 0x20
_JEQ = 0x15
_JGT = 0x25
_AND = 0x54
_RET = 0x06

_INSTRUCTION = struct.Struct("=HBBI")
MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
_MAX_JUMP = 255

Instruction: TypeAlias = tuple[int, int, int, int]


class Condition(NamedTuple):
    """Holds when `argument & mask` is (or, with `negated`, is not) `value`."""

    argument: int
    mask: int
    value: int
    negated: bool = False


class Rule(NamedTuple):
    """`action` for a call all of whose conditions hold; a rule without conditions always does."""

    action: int
    conditions: tuple[Condition, ...] = ()


def refuse(number: int) -> int:
    """The action that answers with errno `number` without running the call."""
    return _ERRNO | number


def any_bit(argument: int, mask: int) -> Condition:
    """Holds when the argument has at least one of the bits of `mask`."""
    return Condition(argument, mask, 0, negated=True)


def is_value(argument: int, value: int) -> Condition:
    """Holds when the argument's low 32 bits are `value`."""
    return Condition(argument, 0xFFFFFFFF, value)


def is_not(argument: int, value: int) -> Condition:
    """Holds when the argument's low 32 bits are anything but `value`."""
    return Condition(argument, 0xFFFFFFFF, value, negated=True)


def build(machine: Machine, rules: Mapping[str, Sequence[Rule]]) -> tuple[Instruction, ...]:
    """The program for `machine`; names it does not have are left out.

    Args:
        machine: whose numbers to use.
        rules: per call, tried in order; where none holds the call goes on. Earlier names are
            looked at first, so those whose answer depends on arguments belong in front.

    Raises:
        ValueError: a rule names a call that no table has, or the program is too long.
    """
    program: list[Instruction] = [
        (_LD_W_ABS, 0, 0, _ARCH),
        (_JEQ, 1, 0, machine.audit_arch),
        (_RET, 0, 0, refuse(errno.ENOSYS)),
        (_LD_W_ABS, 0, 0, _NR),
        # Also catches x32, whose numbers have bit 30 set.
        (_JGT, 0, 1, machine.end),
        (_RET, 0, 0, refuse(errno.ENOSYS)),
    ]
    for name, tried in rules.items():
        number = machine.numbers.get(name)
        if number is None:
            continue
        block = _block(tried)
        if len(block) > _MAX_JUMP:
            raise ValueError(f"rules for {name} are too long")
        program.append((_JEQ, 0, len(block), number))
        program.extend(block)
    program.append((_RET, 0, 0, ALLOW))
    if len(program) > MAX_INSTRUCTIONS:
        raise ValueError(f"filter of {len(program)} instructions")
    return tuple(program)


def pack(program: Iterable[Instruction]) -> bytes:
    """The program as the kernel takes it: an array of `struct sock_filter`."""
    return b"".join(_INSTRUCTION.pack(*instruction) for instruction in program)


def _block(tried: Sequence[Rule]) -> list[Instruction]:
    # Every block returns, so the accumulator needs no restoring for the next name.
    block: list[Instruction] = []
    for rule in tried:
        body: list[Instruction] = []
        for condition in rule.conditions:
            body += _condition(condition)
        # A condition that fails jumps past this rule's return: patched in below.
        end = len(body)
        body.append((_RET, 0, 0, rule.action))
        for index, (code, jump_true, jump_false, value) in enumerate(body[:end]):
            if code == _JEQ:
                away = end - index
                body[index] = (
                    code,
                    away if jump_true else 0,
                    away if jump_false else 0,
                    value,
                )
        block += body
    if not tried or tried[-1].conditions:
        block.append((_RET, 0, 0, ALLOW))
    return block


def _condition(condition: Condition) -> list[Instruction]:
    code: list[Instruction] = [(_LD_W_ABS, 0, 0, _ARGS + 8 * condition.argument)]
    if condition.mask != 0xFFFFFFFF:
        code.append((_AND, 0, 0, condition.mask))
    # 1 marks the branch that leaves the rule.
    code.append((_JEQ, int(condition.negated), int(not condition.negated), condition.value))
    return code
