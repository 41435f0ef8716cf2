from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from crannog.errors import Error
from crannog.measure.elf import read_elf
from crannog.measure.mrenclave import Entry, ProgramSettings, Role, canonical_list, mrenclave

VECTORS = Path(__file__).resolve().parents[2] / "vectors" / "measurement"
ALL = sorted(VECTORS.glob("*.json"))


@pytest.mark.parametrize(
    "path", [p for p in ALL if not p.name.startswith("elf-")], ids=lambda p: p.stem
)
def test_canonical_list(path: Path) -> None:
    vector = json.loads(path.read_text())
    settings = ProgramSettings(**vector["settings"])
    base = bytes.fromhex(vector["base_fspf"]) if vector["base_fspf"] else None
    entries = [
        Entry(Role(role), name, bytes.fromhex(digest) if digest else None)
        for role, name, digest in vector["entries"]
    ]
    for given in (entries, entries[::-1], entries * 2):
        assert canonical_list(settings, given, base).hex() == vector["canonical"]
        assert mrenclave(settings, given, base) == vector["mrenclave"]


@pytest.mark.parametrize(
    "path", [p for p in ALL if p.name.startswith("elf-")], ids=lambda p: p.stem
)
def test_elf(path: Path, tmp_path: Path) -> None:
    vector = json.loads(path.read_text())
    file = tmp_path / "file"
    file.write_bytes(bytes.fromhex(vector["file"]))
    descriptor = os.open(file, os.O_RDONLY)
    try:
        if isinstance(vector["expected"], str):
            with pytest.raises(Error) as caught:
                read_elf(descriptor, "file")
            assert caught.value.code == vector["expected"]
        else:
            elf = read_elf(descriptor, "file")
            assert elf.interpreter == vector["expected"]["interpreter"]
            assert list(elf.needed) == vector["expected"]["needed"]
            assert list(elf.runpath) == vector["expected"]["runpath"]
    finally:
        os.close(descriptor)


def test_files_are_what_the_generator_writes(tmp_path: Path) -> None:
    copy = tmp_path / "generate.py"
    copy.write_text((VECTORS / "generate.py").read_text())
    import subprocess
    import sys

    subprocess.run([sys.executable, str(copy)], check=True)
    written = {path.name: path.read_text() for path in tmp_path.glob("*.json")}
    assert written == {path.name: path.read_text() for path in ALL}
