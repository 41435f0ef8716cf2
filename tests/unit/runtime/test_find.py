from __future__ import annotations

from pathlib import Path

import pytest

from crannog.runtime.find import NotExecutable, NotFound, executed, find_program


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


def test_first_on_the_path(tmp_path: Path) -> None:
    program(tmp_path / "a" / "tool", 0o644)
    expected = program(tmp_path / "b" / "tool")
    program(tmp_path / "c" / "tool")
    path = ":".join(str(tmp_path / name) for name in ("none", "a", "b", "c"))
    assert find_program("tool", {"PATH": path}) == str(expected)


def test_links_of_the_directory_are_resolved_and_its_own_is_kept(tmp_path: Path) -> None:
    program(tmp_path / "real" / "python3.11")
    (tmp_path / "real" / "python3").symlink_to("python3.11")
    (tmp_path / "bin").symlink_to("real")
    for name in ("python3", str(tmp_path / "bin" / "python3")):
        found = find_program(name, {"PATH": str(tmp_path / "bin")})
        assert found == str(tmp_path / "real" / "python3")


def test_relative_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = program(tmp_path / "tool")
    monkeypatch.chdir(tmp_path)
    assert find_program("./tool", {}) == str(expected)
    assert find_program("tool", {"PATH": "."}) == str(expected)


def test_not_there(tmp_path: Path) -> None:
    for name in ("tool", "", str(tmp_path / "tool"), str(tmp_path / "x" / "tool")):
        with pytest.raises(NotFound):
            find_program(name, {"PATH": str(tmp_path)})


def test_there_and_not_executable(tmp_path: Path) -> None:
    program(tmp_path / "tool", 0o644)
    (tmp_path / "directory").mkdir()
    for name in ("tool", str(tmp_path / "directory")):
        with pytest.raises(NotExecutable, match="not an executable"):
            find_program(name, {"PATH": str(tmp_path)})


def test_interpreter_behind_a_front_is_what_is_executed(tmp_path: Path) -> None:
    front = program(tmp_path / "usr" / "bin" / "python3.11")
    (tmp_path / "usr" / "bin" / "python3").symlink_to("python3.11")
    (tmp_path / "bin").symlink_to("usr/bin")
    assert executed(str(front)) == str(front)
    real = program(tmp_path / "usr" / "libexec" / "crannog" / "python3.11")
    for name in ("usr/bin/python3", "usr/bin/python3.11", "bin/python3"):
        assert executed(str(tmp_path / name)) == str(real)
    assert executed(str(real)) == str(real)


def test_name_of_a_front_stays_for_argv0(tmp_path: Path) -> None:
    program(tmp_path / "bin" / "python3.11")
    program(tmp_path / "libexec" / "crannog" / "python3.11")
    found = find_program("python3.11", {"PATH": str(tmp_path / "bin")})
    assert found == str(tmp_path / "bin" / "python3.11")
