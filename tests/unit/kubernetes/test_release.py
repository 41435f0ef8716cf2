"""Launcher releases on a node: whole or not at all, verified, never changed."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crannog.errors import Misconfigured, StorageFailed
from crannog.kubernetes.release import Installed, carried_release, find_release, install_launcher
from crannog.measure.launcher_directory import directory_digest

ME = os.geteuid()


@pytest.fixture
def launcher(tmp_path: Path) -> Path:
    """A directory in the form of a launcher directory."""
    return _launcher(tmp_path / "crannog", "one")


def _launcher(path: Path, content: str) -> Path:
    (path / "lib").mkdir(parents=True)
    path.chmod(0o755)
    (path / "run").write_text(content)
    (path / "run").chmod(0o755)
    (path / "lib/ld.so").write_text("loader")
    (path / "lib/ld.so").chmod(0o711)
    (path / "lib").chmod(0o755)
    (path / "lib/ld-linux.so").symlink_to("ld.so")
    (path / "digest").write_text(directory_digest(str(path)).hex() + "\n")
    return path


def _names(path: Path) -> list[str]:
    return sorted(each.name for each in path.iterdir())


def test_a_release_is_installed_under_its_digest_with_its_modes(
    launcher: Path, tmp_path: Path
) -> None:
    digest, new, aside, _ = install_launcher(launcher, tmp_path / "node/launcher", owner=ME)
    assert (new, aside) == (True, None)
    assert _names(tmp_path / "node/launcher") == [digest]
    installed = tmp_path / "node/launcher" / digest
    assert directory_digest(str(installed)).hex() == digest
    assert (installed / "lib/ld.so").stat().st_mode & 0o7777 == 0o711
    assert find_release(tmp_path / "node/launcher", digest, owner=ME) == installed


def test_what_is_there_already_is_left_as_it_is(launcher: Path, tmp_path: Path) -> None:
    digest = install_launcher(launcher, tmp_path / "to", owner=ME).digest
    before = (tmp_path / "to" / digest).stat()
    assert install_launcher(launcher, tmp_path / "to", owner=ME) == Installed(digest, new=False)
    assert (tmp_path / "to" / digest).stat().st_ctime_ns == before.st_ctime_ns


def test_several_releases_lie_side_by_side(launcher: Path, tmp_path: Path) -> None:
    other = _launcher(tmp_path / "other", "two")
    first = install_launcher(launcher, tmp_path / "to", owner=ME).digest
    second = install_launcher(other, tmp_path / "to", owner=ME).digest
    assert _names(tmp_path / "to") == sorted([first, second])


def test_many_at_once_make_one(launcher: Path, tmp_path: Path) -> None:
    results: list[Installed] = []
    threads = [
        threading.Thread(
            target=lambda: results.append(install_launcher(launcher, tmp_path / "to", owner=ME))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [done.new for done in results].count(True) == 1
    assert len({done.digest for done in results}) == 1


def test_what_a_killed_installation_left_is_taken_away(launcher: Path, tmp_path: Path) -> None:
    (tmp_path / "to/.installing-dead/lib").mkdir(parents=True)
    (tmp_path / "to").chmod(0o755)
    digest = install_launcher(launcher, tmp_path / "to", owner=ME).digest
    assert _names(tmp_path / "to") == [digest]


def _damage_content(release: Path) -> None:
    (release / "run").write_text("mine")


def _damage_mode(release: Path) -> None:
    (release / "lib").chmod(0o777)


def _damage_missing(release: Path) -> None:
    (release / "digest").unlink()


def _damage_empty(release: Path) -> None:
    shutil.rmtree(release)
    release.mkdir()


def _damage_file(release: Path) -> None:
    shutil.rmtree(release)
    release.write_text("a file")


def _damage_link(release: Path) -> None:
    release.rename(release.parent / "elsewhere")
    release.symlink_to("elsewhere")


def _damage_dangling(release: Path) -> None:
    shutil.rmtree(release)
    release.symlink_to("nowhere")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_damage_content, "its own file says"),
        (_damage_mode, "may be written by others"),
        (_damage_missing, "digest cannot be read"),
        (_damage_empty, "digest cannot be read"),
        (_damage_file, "there is no"),
        (_damage_link, "is a link"),
        (_damage_dangling, "is a link"),
    ],
)
def test_a_release_that_was_changed_on_the_node_is_set_aside_and_made_anew(
    launcher: Path, tmp_path: Path, damage: Callable[[Path], None], said: str
) -> None:
    digest = install_launcher(launcher, tmp_path / "to", owner=ME).digest
    release = tmp_path / "to" / digest
    damage(release)
    was = release.lstat().st_ino
    mended = install_launcher(launcher, tmp_path / "to", owner=ME)
    assert (mended.digest, mended.new) == (digest, True)
    assert said in mended.because
    assert find_release(tmp_path / "to", digest, owner=ME) == release
    # A container has the very directory that it was given, whatever its name is now.
    assert mended.set_aside is not None
    assert mended.set_aside.name == f".changed-{digest}-0"
    assert mended.set_aside.lstat().st_ino == was
    assert not list((tmp_path / "to").glob(".installing-*"))


def test_a_second_change_is_set_aside_beside_the_first(launcher: Path, tmp_path: Path) -> None:
    for _ in range(2):
        digest = install_launcher(launcher, tmp_path / "to", owner=ME).digest
        _damage_content(tmp_path / "to" / digest)
    aside = install_launcher(launcher, tmp_path / "to", owner=ME).set_aside
    assert aside == tmp_path / "to" / f".changed-{digest}-1"


def test_a_changed_release_is_not_found(launcher: Path, tmp_path: Path) -> None:
    digest = install_launcher(launcher, tmp_path / "to", owner=ME).digest
    _damage_content(tmp_path / "to" / digest)
    with pytest.raises(Misconfigured, match="its own file says"):
        find_release(tmp_path / "to", digest, owner=ME)


def test_a_file_system_that_cannot_exchange_keeps_what_it_has(
    launcher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = install_launcher(launcher, tmp_path / "to", owner=ME).digest
    _damage_content(tmp_path / "to" / digest)
    monkeypatch.setattr("crannog.kubernetes.release._RENAME_EXCHANGE", 1 << 20)
    with pytest.raises(StorageFailed, match="invalid argument"):
        install_launcher(launcher, tmp_path / "to", owner=ME)
    assert _names(tmp_path / "to") == [digest]


def test_a_whole_release_under_another_one_s_name(launcher: Path, tmp_path: Path) -> None:
    digest = install_launcher(launcher, tmp_path / "to", owner=ME).digest
    (tmp_path / "to" / digest).rename(tmp_path / "to" / ("0" * 64))
    with pytest.raises(Misconfigured, match="expected its name"):
        find_release(tmp_path / "to", "0" * 64, owner=ME)


def test_a_source_that_was_changed(launcher: Path, tmp_path: Path) -> None:
    (launcher / "run").write_text("mine")
    with pytest.raises(Misconfigured, match="its own file says"):
        install_launcher(launcher, tmp_path / "to", owner=ME)
    assert not (tmp_path / "to").exists()


def test_a_source_that_is_no_launcher(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Misconfigured, match="digest cannot be read"):
        install_launcher(tmp_path / "empty", tmp_path / "to", owner=ME)
    with pytest.raises(Misconfigured, match="is no launcher directory"):
        carried_release(tmp_path / "empty")


def test_a_node_s_directory_that_others_may_write(launcher: Path, tmp_path: Path) -> None:
    (tmp_path / "to").mkdir()
    (tmp_path / "to").chmod(0o777)
    with pytest.raises(Misconfigured, match="may be written by others"):
        install_launcher(launcher, tmp_path / "to", owner=ME)
    assert _names(tmp_path / "to") == []


def test_a_release_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="is not on this node"):
        find_release(tmp_path, "0" * 64, owner=ME)


def test_a_full_disk_leaves_nothing(
    launcher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(StorageFailed, match="no space left on device; it needs 0 MB"):
        install_launcher(launcher, tmp_path / "to", owner=ME)
    assert _names(tmp_path / "to") == []


@pytest.mark.skipif(ME != 0, reason="mounting needs root")
@pytest.mark.parametrize(
    ("option", "error", "said"),
    [("noexec", Misconfigured, "mounted noexec"), ("ro", StorageFailed, "read-only file system")],
)
def test_a_file_system_that_cannot_hold_it(
    launcher: Path, tmp_path: Path, option: str, error: type[Exception], said: str
) -> None:
    (tmp_path / "to").mkdir(mode=0o755)
    subprocess.run(["mount", "-t", "tmpfs", "-o", option, "tmpfs", tmp_path / "to"], check=True)
    try:
        with pytest.raises(error, match=said):
            install_launcher(launcher, tmp_path / "to", owner=ME)
    finally:
        subprocess.run(["umount", tmp_path / "to"], check=True)
