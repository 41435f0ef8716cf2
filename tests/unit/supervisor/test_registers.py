"""A redirected call: the registers that make a thread call something else."""

from __future__ import annotations

import pytest

from crannog.linux.ptrace import AARCH64, X86_64, Layout, redirected


@pytest.mark.parametrize("layout", [X86_64, AARCH64])
def test_the_instruction_is_repeated_with_other_arguments(layout: Layout) -> None:
    before = tuple(range(1000, 1000 + layout.registers))
    after = redirected(before, layout, 322, (3, 0x1000, -100, 4, 5))
    assert after[layout.program_counter] == before[layout.program_counter] - layout.step
    assert after[layout.number] == 322
    expected = (3, 0x1000, 2**64 - 100, 4, 5)
    assert tuple(after[index] for index in layout.arguments[:5]) == expected
    changed = {layout.program_counter, layout.number, *layout.arguments[:5], layout.original}
    assert all(after[i] == before[i] for i in range(layout.registers) if i not in changed)


def test_the_kernel_does_not_restart_the_old_call() -> None:
    assert redirected((0,) * 27, X86_64, 8, ())[X86_64.original] == 2**64 - 1
