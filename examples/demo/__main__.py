"""`make demo`: run the tutorial on this machine, check every reply, end with a summary."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from examples.demo.narrator import Narrator
from examples.demo.platform import Platform
from examples.demo.steps import run_programs, run_refusals


def main() -> int:
    """Run every step; 0 when everything was as it should be."""
    narrator = Narrator()
    narrator.say(
        "The tutorial as local processes, in simulation: every check is made, and nothing is proved"
        " to anybody, since no TEE vouches for this machine."
    )
    with tempfile.TemporaryDirectory(prefix="crannog-demo-") as name:
        with Platform(Path(name), narrator) as platform:
            run_programs(platform)
            run_refusals(platform)
        narrator.check(
            "nothing is left running", platform.left_running(), lambda left: left == [], "[]"
        )
    return narrator.summarise()


if __name__ == "__main__":
    sys.exit(main())
