"""Every vector of vectors/launcher against the code, and against its own generator."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from vectors.launcher import generate

from crannog.errors import Error
from crannog.measure.launcher_directory import directory_digest

DIRECTORY = Path(generate.__file__).parent
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.json"))


def load(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((DIRECTORY / f"{name}.json").read_text())
    return value


def test_generating_again_gives_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "HERE", tmp_path)
    generate.main()
    made = {path.name: path.read_text() for path in tmp_path.glob("*.json")}
    assert made == {f"{name}.json": (DIRECTORY / f"{name}.json").read_text() for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_vector(name: str, tmp_path: Path) -> None:
    vector = load(name)
    for entry in vector["entries"]:
        path = tmp_path / entry["path"]
        match entry["kind"]:
            case "directory":
                path.mkdir()
            case "file":
                path.write_bytes(bytes.fromhex(entry["content"]))
            case "link":
                path.symlink_to(bytes.fromhex(entry["target"]).decode())
            case "pipe":
                os.mkfifo(path)
        if "mode" in entry:
            path.chmod(int(entry["mode"], 8))
    if "error" in vector:
        with pytest.raises(Error) as caught:
            directory_digest(str(tmp_path))
        assert caught.value.code == vector["error"]
    else:
        assert directory_digest(str(tmp_path)).hex() == vector["digest"]
