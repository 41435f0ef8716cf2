"""An exported image becomes a directory, and nothing outside it."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest
from images.build_export import extract

from crannog.errors import FormatError

Member = tuple[str, bytes, str, int]  # name, type, content or link target, mode


def _file(name: str, content: str = "content", mode: int = 0o644) -> Member:
    return name, tarfile.REGTYPE, content, mode


def _link(name: str, target: str) -> Member:
    return name, tarfile.SYMTYPE, target, 0o777


def _hard(name: str, target: str) -> Member:
    return name, tarfile.LNKTYPE, target, 0o644


def _extract(target: Path, *members: Member) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, kind, text, mode in members:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, mode
            if kind == tarfile.REGTYPE:
                entry.size = len(text)
                archive.addfile(entry, io.BytesIO(text.encode()))
                continue
            entry.linkname = text
            archive.addfile(entry)
    stream.seek(0)
    target.mkdir()
    extract(stream, target)


def test_files_and_links_arrive(tmp_path: Path) -> None:
    root = tmp_path / "root"
    _extract(
        root,
        _link("bin", "usr/bin"),
        ("usr/bin", tarfile.DIRTYPE, "", 0o755),
        _file("usr/bin/python3.11", "elf", 0o755),
        _link("usr/bin/python3", "python3.11"),
        _hard("usr/bin/again", "usr/bin/python3.11"),
        _link("etc/absolute", "/usr/bin"),
    )
    assert (root / "bin" / "python3").read_text() == "elf"
    assert (root / "usr/bin/again").read_text() == "elf"
    assert (root / "etc/absolute").readlink() == Path("/usr/bin")
    assert (root / "usr/bin/python3.11").stat().st_mode & 0o777 == 0o755


def test_devices_and_set_user_id_bits_are_left_out(tmp_path: Path) -> None:
    root = tmp_path / "root"
    _extract(root, ("dev/null", tarfile.CHRTYPE, "", 0o666), _file("su", mode=0o4755))
    assert not (root / "dev").exists()
    assert (root / "su").stat().st_mode & 0o7000 == 0


@pytest.mark.parametrize(
    "members",
    [
        pytest.param((_file("../out"),), id="a name that leaves it"),
        pytest.param((_file("a/../../out"),), id="a name that leaves it half way"),
        pytest.param((_link("a", ".."), _link("a/out", "x")), id="a link below a link"),
        pytest.param((_link("a", ".."), _file("a/out")), id="a file below a link"),
        pytest.param((_hard("a", "../out"),), id="a hard link to what is outside"),
        pytest.param((_file("a"), _file("a")), id="one name twice"),
        pytest.param((_file("a"), _link("a", "b")), id="a file that is a link as well"),
    ],
)
def test_refused(tmp_path: Path, members: tuple[Member, ...]) -> None:
    (tmp_path / "secret").write_text("outside")
    with pytest.raises(FormatError):
        _extract(tmp_path / "root", *members)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "secret"]


def test_an_absolute_name_lies_inside(tmp_path: Path) -> None:
    _extract(tmp_path / "root", _file("/etc/passwd"))
    assert (tmp_path / "root/etc/passwd").read_text() == "content"


def test_half_an_archive_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        entry = tarfile.TarInfo("file")
        entry.size = 4096
        archive.addfile(entry, io.BytesIO(bytes(4096)))
    with pytest.raises(FormatError):
        extract(io.BytesIO(stream.getvalue()[:2000]), tmp_path)
