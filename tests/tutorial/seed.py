"""The tutorial's text and its blocks, found beside the project."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import NamedTuple

import pytest

PROJECT = Path(__file__).parents[2]


class Reply(NamedTuple):
    """A `curl` line of the tutorial and what it says comes back."""

    command: str
    output: str


def seed_text() -> str:
    """The tutorial; the test is skipped where it does not lie beside the project."""
    directory = Path(os.environ.get("CRANNOG_SEED_DIR", PROJECT.parent / "shared" / "seed"))
    found = sorted(directory.glob("*.txt"))
    if not found:
        pytest.skip("the tutorial's text is not beside the project (CRANNOG_SEED_DIR)")
    return found[0].read_text()


def bash_blocks(text: str) -> list[str]:
    """The fenced bash blocks in order, as they are written."""
    return re.findall(r"^```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def block_with(blocks: list[str], *marks: str) -> str:
    """The one block that holds all of `marks`."""
    found = [block for block in blocks if all(mark in block for mark in marks)]
    assert len(found) == 1, f"{len(found)} blocks hold {marks}"
    return found[0]


def replies(block: str) -> list[Reply]:
    """The `$ curl …` lines of a block with the output that the tutorial shows."""
    found = re.findall(r"^\$ (curl .*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE)
    return [Reply(command, output) for command, output in found]
