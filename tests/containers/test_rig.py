"""The tests' own tools: what they start answers, and nothing of a run is left over."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.containers.registry import Registry
from tests.containers.rig import LABEL, Engine, is_dead, remove_everything
from tests.tutorial.seed import PROJECT


def test_a_hardened_container_runs_and_says_how_it_ended(engine: Engine, base_image: str) -> None:
    options = (*engine.hardened, "--user=1000:1000")
    with engine.container(base_image, "sh", "-c", "id -u; exit 7", options=options) as container:
        assert container.wait() == 7
        assert container.logs() == "1000\n"


def test_an_image_goes_through_the_registry(
    engine: Engine, base_image: str, registry: Registry
) -> None:
    pushed = registry.push(engine, base_image, "rig/base:1")
    assert pushed not in engine.listed("image", "--format", "{{.Repository}}:{{.Tag}}")
    engine.call("build", "--pull", "--tag", pushed, "-", input=f"FROM {pushed}\nENV A=b\n")
    assert engine.run(pushed, "sh", "-c", "echo $A").stdout == "b\n"


def test_a_killed_run_is_cleaned_up_by_the_next(engine: Engine, base_image: str) -> None:
    script = (
        "import os, signal; from tests.containers.rig import RUN, Engine;"
        f"e = Engine({engine.name!r});"
        f"e.build_text(f'localhost/{{RUN}}/left', 'FROM {base_image}\\n');"
        "done = e.run(f'localhost/{RUN}/left', 'sleep', '600', detach=True);"
        "print(RUN, done.stdout, flush=True);"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(PROJECT),
    )
    run, container = done.stdout.split()
    assert container in engine.call("ps", "--quiet", "--no-trunc").stdout
    assert is_dead(run)
    remove_everything(engine, lambda other: other == run)
    label = f"label={LABEL}={run}"
    assert engine.call("ps", "--all", "--quiet", "--filter", label).stdout == ""
    assert engine.call("image", "ls", "--all", "--quiet", "--filter", label).stdout == ""
    assert run not in engine.call("image", "ls").stdout
