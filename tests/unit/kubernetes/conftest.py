"""What the tests of the plugin share."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from crannog.testing.kubelet import FakeKubelet
from tests.unit.kubernetes.rig import Rig


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Short names: a socket's path has at most 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="crannog-p-") as path:
        yield Rig(Path(path))


@pytest.fixture
def kubelet(rig: Rig) -> Iterator[FakeKubelet]:
    with FakeKubelet(rig.plugins) as running:
        yield running
