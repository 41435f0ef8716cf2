"""Argument files."""

from __future__ import annotations

from pathlib import Path

import pytest

from crannog.cli.arguments import expand_argument_files
from crannog.errors import Misconfigured


def test_one_argument_a_line_recursively(tmp_path: Path) -> None:
    (tmp_path / "inner").write_text("c d\n\n")
    (tmp_path / "outer").write_text(f"b\n@{tmp_path}/inner\n")
    assert expand_argument_files(["a", f"@{tmp_path}/outer", "e"]) == ["a", "b", "c d", "e"]


def test_a_lone_at_is_an_argument() -> None:
    assert expand_argument_files(["@"]) == ["@"]


def test_a_file_that_includes_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").write_text(f"@{tmp_path}/loop\n")
    with pytest.raises(Misconfigured, match="nested deeper"):
        expand_argument_files([f"@{tmp_path}/loop"])


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No such file"):
        expand_argument_files([f"@{tmp_path}/none"])


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\n")
    with pytest.raises(Misconfigured, match="not UTF-8"):
        expand_argument_files([f"@{tmp_path}/binary"])
