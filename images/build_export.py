"""An exported image as a directory: regular files, directories and links, nothing else.

The archive is an image's, so that its names are whatever somebody wrote: every file is created
before the first symbolic link is, and no name may lie below a link. So nothing is written outside
the directory. Devices, sockets, owners and set-user-id bits are left out.
"""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path
from typing import IO

from crannog.errors import FormatError, StorageFailed

_ROOT = ()
Name = tuple[str, ...]


def extract(stream: IO[bytes], target: Path) -> None:
    """Write what the archive holds into `target`, an empty directory.

    Raises:
        FormatError: not an archive, or a name that leaves the directory, lies below a link or
            stands for two things.
        StorageFailed: the disk refused.
    """
    links: dict[Name, str] = {}
    hard: list[tuple[Name, Name]] = []
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                name = _name(member.name)
                if member.isdir():
                    _directory(target, name)
                elif member.issym() and name != _ROOT:
                    links[name] = member.linkname
                elif member.islnk():
                    hard.append((name, _name(member.linkname)))
                elif member.isreg():
                    _file(archive, member, target, name)
        for name, original in hard:
            if original in links:
                links[name] = links[original]
            else:
                _hard_link(target, name, original)
        for name, destination in links.items():
            _symbolic_link(target, name, destination, links)
    except tarfile.TarError as error:
        raise FormatError("exported image: not a complete tar archive") from error
    except FileExistsError as error:
        raise FormatError(f"exported image: {error.filename} stands for two things") from error
    except OSError as error:
        raise StorageFailed(
            f"exported image cannot be written to {target}: {error.strerror}"
        ) from error


def _name(text: str) -> Name:
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in text:
        raise FormatError(f"exported image: name {text!r} leaves the image")
    return parts


def _directory(target: Path, name: Name) -> Path:
    """The directory `name`, made with its parents; nothing on the way is a link yet."""
    path = target.joinpath(*name)
    path.mkdir(mode=0o755, parents=True, exist_ok=True)
    return path


def _file(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path, name: Name) -> None:
    if name == _ROOT:
        raise FormatError("exported image: its root is a file")
    path = _directory(target, name[:-1]) / name[-1]
    content = archive.extractfile(member)
    assert content is not None  # it is a regular file
    mode = 0o600 | member.mode & 0o755
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(path, flags, mode), "wb") as file:
        shutil.copyfileobj(content, file, 1 << 20)


def _hard_link(target: Path, name: Name, original: Name) -> None:
    if name == _ROOT:
        raise FormatError("exported image: its root is a link")
    source = target.joinpath(*original)
    if source.is_file():
        os.link(source, _directory(target, name[:-1]) / name[-1], follow_symlinks=False)


def _symbolic_link(target: Path, name: Name, destination: str, links: dict[Name, str]) -> None:
    for length in range(1, len(name)):
        if name[:length] in links:
            raise FormatError(f"exported image: {'/'.join(name)} lies below a link")
    (_directory(target, name[:-1]) / name[-1]).symlink_to(destination)
