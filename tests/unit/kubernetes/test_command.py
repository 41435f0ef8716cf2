"""`crannog kubernetes`: one line on what is wrong, and the exit status."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crannog.cli.main import run_cli
from crannog.kubernetes.kubelet import DirectoryLock
from tests.unit.kubernetes.test_release import _launcher

DIGEST = "0" * 64


def _plugin(*arguments: str) -> int:
    return run_cli(["kubernetes", "device-plugin", *arguments], program="crannog")


def test_a_release_that_is_not_installed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _plugin("--launchers", str(tmp_path), "--release", DIGEST) == 78
    said = capsys.readouterr().err
    assert f"there is no {tmp_path}/{DIGEST}" in said
    assert "install-launcher" in said


def test_a_release_that_is_no_digest(capsys: pytest.CaptureFixture[str]) -> None:
    assert _plugin("--release", "../../etc") == 1
    assert "--release has 9 characters, expected 64 hex digits" in capsys.readouterr().err


@pytest.mark.parametrize("count", ["0", "-1", "many", "10001"])
def test_a_number_of_pods_that_is_none(count: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _plugin("--max-sgx-pods", count) == 2
    assert "--max-sgx-pods" in capsys.readouterr().err


@pytest.mark.skipif(os.geteuid() != 0, reason="a release is root's")
def test_two_plugins_by_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    launcher = _launcher(tmp_path / "crannog", "one")
    run_cli(
        ["kubernetes", "install-launcher", "--from", str(launcher), "--to", str(tmp_path / "to")],
        program="crannog",
    )
    (digest,) = capsys.readouterr().out.split()
    (tmp_path / "plugins").mkdir()
    lock = DirectoryLock(tmp_path / "plugins", "pod kube-system/first, in hardware")
    with lock:
        lock.sign()
        status = _plugin(
            *("--launchers", str(tmp_path / "to"), "--release", digest, "--simulation"),
            *("--plugin-directory", str(tmp_path / "plugins"), "--listen", "127.0.0.1:0"),
        )
    assert status == 1
    said = capsys.readouterr().err
    assert "another device plugin of Crannog serves this node: pod kube-system/first" in said
    assert "Traceback" not in said
