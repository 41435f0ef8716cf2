from __future__ import annotations

from pathlib import Path

import pytest
from images import artifacts_entries
from images.artifacts import main, make_artifacts
from images.artifacts_tree import DIRECTORY, EPOCH, PLAIN, link, put, settle, size

from crannog.errors import Misconfigured


@pytest.mark.parametrize("name", ["launcher", "services"])
def test_a_directory_that_was_not_made_here_is_kept(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "mine").touch()
    with pytest.raises(Misconfigured, match="was not made by this"):
        make_artifacts(Path("/"), tmp_path)
    assert (tmp_path / name / "mine").exists()


def test_without_a_compiler_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(Misconfigured, match="no C compiler"):
        artifacts_entries.compile_entries(tmp_path)


def test_a_failed_build_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "root").mkdir()
    assert main(["--root", str(tmp_path / "root"), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("artifacts: error: no Python 3 in the root")
    assert list((tmp_path / "out").iterdir()) == []


def test_modes_and_times_are_set_whatever_the_umask(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    put(tree / "a" / "b", b"12")
    put(tree / "run", b"345", 0o711)
    link(tree / "c", "a/b")
    (tree / "a").chmod(0o700)
    settle(tree)
    modes = {path.name: path.lstat().st_mode & 0o7777 for path in tree.rglob("*")}
    assert {**modes, "c": 0} == {"a": DIRECTORY, "b": PLAIN, "run": 0o711, "c": 0}
    assert {path.lstat().st_mtime for path in (tree, *tree.rglob("*"))} == {EPOCH}
    assert size(tree) == 5 + len("a/b")


def test_nothing_is_written_twice(tmp_path: Path) -> None:
    put(tmp_path / "a", b"1")
    with pytest.raises(FileExistsError):
        put(tmp_path / "a", b"2")
