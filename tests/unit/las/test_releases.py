"""Releases side by side: each recomputed once, new ones noticed, altered ones refused."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from crannog.errors import Denied, Misconfigured
from crannog.las import release as release_module
from crannog.las.release import Releases
from crannog.measure.launcher import claimed_digest
from crannog.measure.launcher_directory import directory_digest


class Side:
    """A directory of releases that can be added to, and what the LAS said about them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.said: list[str] = []
        self.releases = Releases(root, None, owner=os.getuid(), tell=self.said.append)

    def install(self, content: str) -> bytes:
        """A release whose entry is `content`; its digest."""
        made = self.root / ".new"
        (made / "lib").mkdir(parents=True)
        for name in ("run", "lib/ld.so"):
            (made / name).write_text(content)
            (made / name).chmod(0o644)
        for directory in (made, made / "lib"):
            directory.chmod(0o755)
        digest = directory_digest(str(made))
        (made / "digest").write_text(f"{digest.hex()}\n")
        (made / "digest").chmod(0o644)
        made.rename(self.path(digest))
        return digest

    def path(self, digest: bytes) -> Path:
        """Where it lies."""
        return self.root / digest.hex()


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Side:
    """An empty one."""

    # Above the temporary directory somebody else's begin; that is the digest's own test.
    def verify(directory: str, *, owner: int = 0) -> bytes:
        del owner
        digest = directory_digest(directory)
        if claimed_digest(directory) != digest:
            raise Misconfigured("its own file holds another digest")
        return digest

    monkeypatch.setattr(release_module, "verify_launcher_directory", verify)
    root = tmp_path / "launchers"
    root.mkdir(mode=0o755)
    return Side(root)


def test_each_of_several_is_found_by_its_digest(side: Side) -> None:
    digests = [side.install("one"), side.install("two")]
    found = [side.releases.find(digest) for digest in digests]
    assert [one.digest for one in found] == digests
    assert found[0].loader != found[1].loader
    assert found[0].launcher.path.endswith(digests[0].hex())
    assert side.releases.digests() == tuple(sorted(digests))


def test_one_that_is_installed_later_is_noticed(side: Side) -> None:
    assert "no whole launcher" in side.releases.unready()
    digest = side.install("late")
    assert side.releases.find(digest).digest == digest
    assert side.releases.unready() == ""


def test_one_that_is_not_there_is_refused_by_name(side: Side) -> None:
    side.install("one")
    with pytest.raises(Denied, match=f"the node has no launcher {'ab' * 32}"):
        side.releases.find(b"\xab" * 32)


def test_it_is_recomputed_once(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = side.install("one")
    side.releases.find(digest)
    monkeypatch.setattr(release_module, "verify_launcher_directory", None)
    side.releases.find(digest)


@pytest.mark.parametrize("name", ["run", "lib/ld.so", "lib/more", "digest"])
def test_one_that_was_altered_is_refused(side: Side, name: str) -> None:
    digest = side.install("one")
    side.releases.find(digest)
    with (side.path(digest) / name).open("a") as file:
        file.write("changed")
    with pytest.raises(Denied, match="digest"):
        side.releases.find(digest)
    assert side.releases.digests() == ()
    assert "not vouched for" in side.said[-1]


def test_a_file_whose_mode_was_changed_is_refused(side: Side) -> None:
    digest = side.install("one")
    side.releases.find(digest)
    (side.path(digest) / "run").chmod(0o755)
    with pytest.raises(Denied, match="digest"):
        side.releases.find(digest)


def test_an_altered_one_does_not_cost_a_recomputation_each_time(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = side.install("one")
    (side.path(digest) / "run").write_text("changed")
    with pytest.raises(Denied):
        side.releases.find(digest)
    monkeypatch.setattr(release_module, "verify_launcher_directory", None)
    with pytest.raises(Denied, match="digest"):
        side.releases.find(digest)
    assert len(side.said) == 1


def test_one_that_was_repaired_is_taken_again(side: Side) -> None:
    digest = side.install("one")
    file = side.path(digest) / "run"
    file.write_text("changed")
    with pytest.raises(Denied):
        side.releases.find(digest)
    file.write_text("one")
    assert side.releases.find(digest).digest == digest


def test_a_release_under_another_s_name_is_refused(side: Side) -> None:
    digest, other = side.install("one"), side.install("two")
    shutil.rmtree(side.path(digest))
    side.path(other).rename(side.path(digest))
    with pytest.raises(Denied, match=f"has the digest {other.hex()}"):
        side.releases.find(digest)


def test_one_that_was_taken_away_is_refused(side: Side) -> None:
    digest = side.install("one")
    side.releases.find(digest)
    shutil.rmtree(side.path(digest))
    with pytest.raises(Denied, match="has no launcher"):
        side.releases.find(digest)


def test_other_names_are_not_looked_at(side: Side) -> None:
    digest = side.install("one")
    side.path(digest).rename(side.root / ".installing")
    (side.root / "README").write_text("x")
    (side.root / ("c" * 64)).symlink_to(".installing")
    assert side.releases.digests() == ()


def test_one_that_is_taken_away_while_it_is_looked_at_is_refused(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = side.install("one")

    def verify(directory: str, *, owner: int = 0) -> bytes:
        raise FileNotFoundError(2, "No such file or directory", directory)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(release_module, "verify_launcher_directory", verify)
        with pytest.raises(Denied, match="no such file"):
            side.releases.find(digest)


@pytest.mark.parametrize("ours", [False, True])
def test_one_that_could_not_be_read_for_a_moment_is_read_again(
    side: Side, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    digest = side.install("one")

    def verify(directory: str, *, owner: int = 0) -> bytes:
        reason = OSError(errno.EMFILE, "Too many open files")
        if ours:
            raise Misconfigured("it cannot be read: Too many open files") from reason
        raise reason

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(release_module, "verify_launcher_directory", verify)
        for _ in range(3):
            with pytest.raises(Denied, match=r"(?i)too many open files"):
                side.releases.find(digest)
        assert len(side.said) == 1
    assert side.releases.find(digest).digest == digest


@pytest.mark.parametrize("name", ["n" * 300, "file/below"])
def test_a_directory_that_cannot_be_looked_at_is_a_reason(side: Side, name: str) -> None:
    (side.root / "file").touch()
    releases = Releases(side.root / name, None, owner=os.getuid(), tell=side.said.append)
    assert name in releases.unready()
    with pytest.raises(Denied, match="has no launcher"):
        releases.find(b"x" * 32)


def test_a_missing_directory_is_a_reason(side: Side) -> None:
    side.root.rmdir()
    assert str(side.root) in side.releases.unready()
