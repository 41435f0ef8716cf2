"""What the image builder says when it cannot go on; the engine is a script that plays one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from images.build import main, source_date_epoch
from images.build_engine import find_engine

DIGEST = "5a" * 32


def _engine(path: Path, *, version: str = "Docker version 28", info: int = 0, rest: str) -> None:
    path.mkdir(exist_ok=True)
    program = path / "docker"
    program.write_text(
        "#!/bin/sh\n"
        f'case "$1" in --version) echo "{version}"; exit;; info) echo refused >&2; exit {info};;'
        f" esac\n{rest}\n"
    )
    program.chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only directory in PATH besides the shell's."""
    path = tmp_path / "programs"
    path.mkdir()
    monkeypatch.setenv("PATH", f"{path}:/usr/bin:/bin")
    return path


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    path = tmp_path / "artifacts"
    (path / "launcher").mkdir(parents=True)
    (path / "services").mkdir()
    (path / "kubernetes").mkdir()
    (path / "front").write_bytes(b"elf")
    (path / "launcher" / "digest").write_text(f"{DIGEST}\n")
    return path


def _inspected(**labels: str) -> str:
    found = {"Id": "ab", "Size": 1, "RootFS": {"Layers": []}, "Config": {"Labels": labels}}
    return f"echo '{json.dumps([found])}'"


def test_no_such_program(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--engine", "no-such-engine"]) == 75
    assert "there is no program no-such-engine in PATH" in capsys.readouterr().err


def test_an_engine_that_does_not_answer(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _engine(programs, info=1, rest="exit 0")
    assert main([]) == 75
    assert "docker does not answer: refused" in capsys.readouterr().err


def test_a_base_that_nobody_has(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _engine(programs, rest='echo "no such image" >&2; exit 1')
    assert main(["--base", "nobody/has"]) != 0
    said = capsys.readouterr().err
    assert "base image nobody/has is not here and cannot be pulled: no such image" in said


def test_artifacts_that_are_not_complete(
    programs: Path, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _engine(programs, rest=_inspected())
    (artifacts / "front").unlink()
    assert main(["--artifacts", str(artifacts)]) != 0
    assert "there is no front" in capsys.readouterr().err


def test_a_build_that_fails_shows_its_end(
    programs: Path, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _engine(programs, rest="cat > /dev/null; seq 1000; echo the reason >&2; exit 1")
    assert main(["--artifacts", str(artifacts), "--only", "launcher"]) != 0
    said = capsys.readouterr().err
    assert "crannog/launcher cannot be built" in said
    assert "the reason" in said
    assert "\n1\n" not in said


def test_an_engine_that_gives_up_while_it_is_written_to(
    programs: Path, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (artifacts / "launcher" / "large").write_bytes(bytes(1 << 20))
    _engine(programs, rest="echo no space >&2; exit 1")
    assert main(["--artifacts", str(artifacts), "--only", "launcher"]) != 0
    assert "no space" in capsys.readouterr().err


def test_a_launcher_image_of_other_artifacts(
    programs: Path, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _engine(programs, rest=_inspected(**{"crannog.launcher-digest": "00" * 32}))
    assert main(["--artifacts", str(artifacts), "--only", "cas"]) == 78
    assert f"is of launcher {'00' * 32}, expected {DIGEST}" in capsys.readouterr().err


def test_an_image_that_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "launcher,casx"]) == 78
    assert "--only names 'casx'" in capsys.readouterr().err


def test_a_docker_that_is_podman(programs: Path) -> None:
    _engine(programs, version="podman version 4.3.1", rest="exit 0")
    assert find_engine("docker").is_podman


def test_a_time_that_is_none(
    programs: Path,
    artifacts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    _engine(programs, rest=_inspected())
    assert main(["--artifacts", str(artifacts)]) == 78
    assert "SOURCE_DATE_EPOCH is 'yesterday'" in capsys.readouterr().err
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    assert source_date_epoch() == 1_700_000_000
