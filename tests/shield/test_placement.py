"""Where the supervisor runs: the program sees its own processors, and waiting costs nothing."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest

from tests.shield.exec_world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    world = World(tmp_path)
    world.add("file", "content\n")
    world.protect()
    return world


def test_the_programs_affinity_is_what_it_was(world: World) -> None:
    script = (
        "import os, sys\n"
        "for _ in range(200): open(sys.argv[1]).close()\n"
        "print(sorted(os.sched_getaffinity(0)), os.sched_getscheduler(0))\n"
    )
    done = world.run("/usr/bin/python3", "-c", script, world.app / "file")
    assert done.out == f"{sorted(os.sched_getaffinity(0))} {os.sched_getscheduler(0)}\n", done.err


def test_a_program_that_asks_nothing_costs_nothing(world: World) -> None:
    """Processor time, not wall time: two seconds of sleep must not cost what spinning would."""

    def cost(seconds: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert world.run("/bin/sleep", seconds).status == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    short = min(cost("0") for _ in range(3))
    assert cost("2") - short < 0.5


def test_the_keeper_of_a_core_sleeps_after_a_burst(world: World) -> None:
    """Processor time again: what follows a burst of opens costs nothing."""
    script = (
        "import sys, time\n"
        "for _ in range(2000): open(sys.argv[1]).close()\n"
        "time.sleep(float(sys.argv[2]))\n"
    )

    def cost(seconds: str) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert world.run("/usr/bin/python3", "-c", script, world.app / "file", seconds).status == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    short = min(cost("0") for _ in range(3))
    assert cost("2") - short < 0.5


def test_program_and_supervisor_share_a_single_processor(world: World) -> None:
    script = (
        "import os, sys, threading\n"
        "def work():\n"
        "    for _ in range(300):\n"
        "        assert open(sys.argv[1]).read() == 'content\\n'\n"
        "threads = [threading.Thread(target=work) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(len(os.sched_getaffinity(0)))\n"
    )
    done = world.run("/usr/bin/python3", "-c", script, world.app / "file", one_core=True)
    assert (done.status, done.out) == (0, "1\n"), done.err
