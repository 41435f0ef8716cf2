from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from crannog.measure.root import Root
from tests.unit.measure.elves import Tree


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


@pytest.fixture(params=["kernel", "here"])
def root(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Root]:
    with Root(str(tmp_path), resolve_here=request.param == "here") as opened:
        yield opened


@pytest.fixture(params=[False, True], ids=["kernel", "here"])
def resolve_here(request: pytest.FixtureRequest) -> bool:
    """Whether links are followed by us, where the kernel's openat2 is not allowed."""
    return bool(request.param)
