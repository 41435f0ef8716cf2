"""A LAS that lacks something serves at level simulation, and says what is missing everywhere."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from crannog.evidence.statement import open_statement
from crannog.las.facts import Place
from crannog.las.records.places import Places
from crannog.las.release import OneLauncher, marks
from crannog.las.tree import Tree
from crannog.las.vouching import Witness
from crannog.levels import Level
from crannog.measure.launcher_directory import directory_digest
from crannog.transport.las_client import LasConnection
from tests.unit.las.genuine import install
from tests.unit.las.test_server import REQUEST, Las


class Node:
    """A node in a directory: a launcher, an engine's records, and a LAS of the same owner."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.launcher = root / "launcher"
        (self.launcher / "lib").mkdir(parents=True)
        for name in ("run", "start.py", "lib/ld.so"):
            (self.launcher / name).write_text(name)
            (self.launcher / name).chmod(0o755)
        self.records = root / "node"
        self.records.mkdir()
        install("podman", self.records)
        for directory in (root, *(path for path in root.rglob("*") if path.is_dir())):
            directory.chmod(0o755)
        for file in root.rglob("*"):
            if file.is_file():
                file.chmod(0o644)
        self.digest = directory_digest(str(self.launcher)).hex()
        (self.launcher / "digest").write_text(f"{self.digest}\n")

    def las(self, **changes: object) -> Las:
        """A LAS that could vouch, but for the changes."""
        settings = {
            "launcher": self.launcher,
            "host_root": self.records,
            "owner": os.getuid(),
            **changes,
        }
        return Las(self.root / "las", **settings)


@pytest.fixture
def node(tmp_path: Path) -> Node:
    """A node."""
    made = tmp_path / "made"
    made.mkdir()
    return Node(made)


def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    # Above the temporary directory somebody else's begin; that is the digest's own test.
    def verify(directory: str, *, owner: int = 0) -> bytes:
        del owner
        return directory_digest(directory)

    monkeypatch.setattr("crannog.las.release.verify_launcher_directory", verify)
    # These tests may run in a container themselves.
    monkeypatch.setattr("crannog.las.vouching.own_namespace", lambda kind: 0xEFFFFFFC)


def test_a_las_with_everything_says_node(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    _own(monkeypatch)
    las = node.las()
    with las.server:
        assert "at trust level node" in las.file.getvalue(), las.file.getvalue()
        assert node.digest in las.file.getvalue()
        with LasConnection(las.unix) as connection:
            assert connection.probe().level is Level.NODE
            # We are in none of its containers.
            statement, _ = open_statement(connection.quote(REQUEST).data)
        assert statement.level is Level.SIMULATION
        assert statement.container is None
        assert statement.reason
        with LasConnection(las.tcp) as connection:
            assert connection.probe().level is Level.SIMULATION


LACKS: dict[str, tuple[Callable[[Node], dict[str, object]], str]] = {
    "no launcher": (lambda node: {"launcher": None}, "no launcher directory of the node is known"),
    "no such launcher": (lambda node: {"launcher": node.root / "none"}, "none"),
    "no records": (lambda node: {"host_root": node.root}, "no container engine's records"),
    "records of another": (
        lambda node: {"owner": os.getuid() + 1},
        "no container engine's records",
    ),
}


@pytest.mark.parametrize("name", LACKS)
def test_a_las_that_lacks_something(node: Node, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    _own(monkeypatch)
    change, reason = LACKS[name]
    las = node.las(**change(node))
    with las.server:
        (line,) = [one for one in las.file.getvalue().splitlines() if "simulation only" in one]
        assert reason in line
        with LasConnection(las.unix) as connection:
            status = connection.probe()
            statement, _ = open_statement(connection.quote(REQUEST).data)
    assert status.level is Level.SIMULATION
    assert reason in status.reason
    assert statement.level is Level.SIMULATION
    assert reason in statement.reason


def test_a_launcher_whose_digest_is_another_is_not_vouched_with(node: Node) -> None:
    (node.launcher / "run").write_text("changed")
    las = node.las()
    with las.server, LasConnection(las.unix) as connection:
        assert connection.probe().level is Level.SIMULATION


def test_a_las_without_a_socket_is_not_ready(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    _own(monkeypatch)
    launcher = OneLauncher(node.launcher, None, owner=os.getuid())
    witness = Witness(launcher, None, Tree(str(node.records), owner=os.getuid()), Places())
    assert "no Unix socket" in witness.unready()


def test_a_las_in_a_container_s_own_pid_namespace_is_not_ready(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    _own(monkeypatch)
    monkeypatch.setattr("crannog.las.vouching.own_namespace", lambda kind: 4026532183)
    monkeypatch.setattr("crannog.las.vouching.mounts_of", lambda pid: ())
    launcher = OneLauncher(node.launcher, node.root, owner=os.getuid())
    socket = Place("254:0", "/las")
    witness = Witness(launcher, socket, Tree(str(node.records), owner=os.getuid()), Places())
    assert "--pid=host" in witness.unready()


@pytest.mark.parametrize("name", ["digest", "run", "start.py", "lib/ld.so"])
def test_a_replaced_file_is_noticed(node: Node, name: str) -> None:
    before = marks(node.launcher)
    file = node.launcher / name
    file.rename(file.with_suffix(".old"))
    file.write_bytes(file.with_suffix(".old").read_bytes())
    assert marks(node.launcher) != before
