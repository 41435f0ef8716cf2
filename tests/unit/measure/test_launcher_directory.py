from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crannog.errors import Misconfigured
from crannog.measure.launcher import claimed_digest
from crannog.measure.launcher_directory import directory_digest, verify_launcher_directory

OWNER = os.getuid()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A small directory in the form of a launcher's, with its digest; ours alone to write."""
    made = tmp_path / "launcher"
    (made / "lib").mkdir(parents=True)
    (made / "run").write_bytes(b"entry")
    (made / "run").chmod(0o755)
    (made / "lib" / "ld.so").write_bytes(b"loader")
    (made / "lib" / "ld.so").chmod(0o711)
    (made / "lib" / "ld-linux.so").symlink_to("ld.so")
    for each in (made, made / "lib"):
        each.chmod(0o755)
    write_digest(made)
    return made


def write_digest(directory: Path) -> None:
    path = directory / "digest"
    path.write_text(directory_digest(str(directory)).hex() + "\n")
    path.chmod(0o644)


def verify(directory: Path) -> bytes:
    return verify_launcher_directory(str(directory), owner=OWNER)


def refusal(directory: Path) -> str:
    with pytest.raises(Misconfigured) as caught:
        verify(directory)
    return caught.value.message


def test_digest_is_the_one_claimed(directory: Path) -> None:
    assert verify(directory) == directory_digest(str(directory)) == claimed_digest(str(directory))


def test_place_time_and_hard_links_do_not_count(directory: Path, tmp_path: Path) -> None:
    before = verify(directory)
    moved = tmp_path / "elsewhere"
    shutil.copytree(directory, moved, symlinks=True)
    os.utime(moved / "run", (1, 1))
    os.link(moved / "run", tmp_path / "other-name")
    assert verify(moved) == before


def _changed(path: Path) -> None:
    (path / "run").write_bytes(b"other")


def _added(path: Path) -> None:
    (path / "lib" / "libevil.so").touch(mode=0o644)


def _added_directory(path: Path) -> None:
    (path / "lib" / "glibc-hwcaps").mkdir(mode=0o755)


def _removed(path: Path) -> None:
    (path / "run").unlink()


def _mode(path: Path) -> None:
    (path / "lib" / "ld.so").chmod(0o755)


def _link(path: Path) -> None:
    (path / "lib" / "ld-linux.so").unlink()
    (path / "lib" / "ld-linux.so").symlink_to("/lib/ld.so")


def _file_for_link(path: Path) -> None:
    (path / "lib" / "ld-linux.so").unlink()
    (path / "lib" / "ld-linux.so").write_bytes(b"loader")


@pytest.mark.parametrize(
    "change",
    [_changed, _added, _added_directory, _removed, _mode, _link, _file_for_link],
    ids=lambda each: each.__name__[1:],
)
def test_a_change_is_refused(directory: Path, change: Callable[[Path], None]) -> None:
    change(directory)
    assert "its own file says" in refusal(directory)


@pytest.mark.parametrize("name", ["run", "lib", "digest", "."])
def test_what_others_may_write_is_refused(directory: Path, name: str) -> None:
    (directory / name).chmod(0o777)
    assert "may be written by others" in refusal(directory)


def test_what_the_group_may_write_is_refused(directory: Path) -> None:
    (directory / "run").chmod(0o775)
    write_digest(directory)
    assert "may be written by others" in refusal(directory)


def test_a_directory_above_that_others_may_write_is_refused(directory: Path) -> None:
    directory.parent.chmod(0o777)
    try:
        assert "may be written by others" in refusal(directory)
        directory.parent.chmod(0o1777)
        assert verify(directory)
    finally:
        directory.parent.chmod(0o755)


@pytest.mark.skipif(OWNER != 0, reason="needs root, to give a file away")
def test_what_belongs_to_another_user_is_refused(directory: Path) -> None:
    os.lchown(directory / "lib" / "ld-linux.so", 12345, 0)
    assert "belongs to user 12345" in refusal(directory)


def test_a_pipe_is_refused_and_not_waited_for(directory: Path) -> None:
    os.mkfifo(directory / "lib" / "pipe", 0o644)
    assert "is no file, directory or link" in refusal(directory)


def test_a_directory_that_is_a_link_is_refused_below(directory: Path, tmp_path: Path) -> None:
    os.rename(directory / "lib", tmp_path / "lib")
    (directory / "lib").symlink_to(tmp_path / "lib")
    assert "its own file says" in refusal(directory)


def test_a_relative_path_is_refused() -> None:
    with pytest.raises(Misconfigured, match="not an absolute path"):
        verify_launcher_directory("launcher", owner=OWNER)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="cannot be read"):
        verify_launcher_directory(str(tmp_path / "none"), owner=OWNER)


@pytest.mark.parametrize(
    "text", ["", "0" * 64, "0" * 65, "0" * 63 + "\n", "A" * 64 + "\n", "0" * 64 + "\n\n"]
)
def test_a_digest_file_of_another_form_is_refused(directory: Path, text: str) -> None:
    (directory / "digest").write_text(text)
    assert "holds no digest" in refusal(directory)


def test_a_missing_digest_file_is_refused(directory: Path) -> None:
    (directory / "digest").unlink()
    assert "cannot be read" in refusal(directory)
