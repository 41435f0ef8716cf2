"""Where an image's blobs lie: in a directory, or in a tar archive that is read in place.

A blob has a name: in a layout `blobs/sha256/…`, in an archive of `docker save` whatever its
manifest says. Names come from hostile documents: none leads out of the directory or archive, links
in directories are not followed, and what is no regular file is refused. Digests are checked by who
reads.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from crannog.errors import FormatError, NotFound, StorageFailed, TooLarge, Unsupported
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.names import normal_name, parent
from crannog.oci.streams import GZIP, Source, storage_failed
from crannog.oci.tar import TarReader, Type
from crannog.shield.paths import printable

_MAX_HOPS = 8


class Blobs(Protocol):
    """Something that holds blobs by name."""

    @property
    def what(self) -> str:
        """Its name, for errors."""
        ...

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        ...

    def open(self, name: str) -> tuple[Source, int]:
        """Its content from the start, and how many bytes that is.

        Raises:
            NotFound, FormatError, StorageFailed: there is none, or it cannot be read.
        """
        ...

    def close(self) -> None:
        """Give up what is open."""
        ...


class Directory:
    """A layout in a directory.

    Raises:
        NotFound, StorageFailed: on making: there is none.
    """

    def __init__(self, path: Path) -> None:
        self.what = printable(os.fsencode(path))
        try:
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise NotFound(f"there is no directory {self.what}") from error
        except OSError as error:
            raise storage_failed(error, "read", self.what) from error

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        try:
            source, _ = self.open(name)
        except (NotFound, FormatError):
            return False
        source.close()
        return True

    def open(self, name: str) -> tuple[Source, int]:
        """As `Blobs.open`."""
        parts = normal_name(os.fsencode(name), self.what).split(b"/")
        at = os.dup(self._root)
        try:
            for number, part in enumerate(parts):
                last = number == len(parts) - 1
                kind = 0 if last else os.O_DIRECTORY
                # Never a link; and a FIFO is not waited for.
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | kind
                after = os.open(part, flags, dir_fd=at)
                os.close(at)
                at = after
            status = os.fstat(at)
            if not stat.S_ISREG(status.st_mode):
                raise FormatError(f"{self.what}: {printable(os.fsencode(name))} is no file")
            return os.fdopen(os.dup(at), "rb", buffering=0), status.st_size
        except FileNotFoundError as error:
            raise NotFound(
                f"{self.what} has no file {printable(os.fsencode(name))}",
                hint="the layout is incomplete: copy the image again",
            ) from error
        except OSError as error:
            raise storage_failed(error, "read", f"{self.what}/{name}") from error
        finally:
            os.close(at)

    def close(self) -> None:
        """Give up the directory."""
        os.close(self._root)


class Archive:
    """A layout, or what `docker save` wrote, in an uncompressed tar archive.

    Raises:
        NotFound, StorageFailed, Unsupported, FormatError, TooLarge: on making: the archive is read
            once from end to end, to know what lies where.
    """

    def __init__(self, path: Path, limits: Limits = DEFAULT) -> None:
        self.what = printable(os.fsencode(path))
        self._files: dict[bytes, tuple[int, int]] = {}
        self._links: dict[bytes, bytes] = {}
        try:
            self._file = path.open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"there is no file {self.what}") from error
        except OSError as error:
            raise storage_failed(error, "read", self.what) from error
        try:
            self._look(limits)
        except BaseException:
            self._file.close()
            raise

    def has(self, name: str) -> bool:
        """Whether there is a file of that name."""
        return self._find(name) is not None

    def open(self, name: str) -> tuple[Source, int]:
        """As `Blobs.open`."""
        place = self._find(name)
        if place is None:
            raise NotFound(
                f"{self.what} has no member {printable(os.fsencode(name))}",
                hint="the archive is incomplete: save the image again",
            )
        return _Window(self._file.fileno(), *place), place[1]

    def close(self) -> None:
        """Give up the file."""
        self._file.close()

    def _look(self, limits: Limits) -> None:
        if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
            raise FormatError(f"{self.what} is no regular file")
        if self._file.read(2) == GZIP:
            raise Unsupported(
                f"{self.what} is compressed as a whole", hint="decompress it first, by gunzip"
            )
        size = os.fstat(self._file.fileno()).st_size
        reader = TarReader(_Skipping(self._file.fileno(), size), self.what, limits)
        for count, member in enumerate(reader):
            if count >= limits.outer_members:
                raise TooLarge(f"{self.what} has more than {limits.outer_members} members")
            if member.type is Type.FILE and not member.sparse:
                if member.name in self._files or member.name in self._links:
                    raise FormatError(f"{self.what}: {printable(member.name)} is there twice")
                self._files[member.name] = (reader.offset, member.size)
                reader.skip_by_seeking()
            elif member.type in (Type.LINK, Type.HARD_LINK):
                target = member.target
                if member.type is Type.LINK:
                    target = _resolved(parent(member.name), member.target, self.what)
                self._links[member.name] = target

    def _find(self, name: str) -> tuple[int, int] | None:
        found = normal_name(os.fsencode(name), self.what)
        for _ in range(_MAX_HOPS):
            if found in self._files:
                return self._files[found]
            if found not in self._links:
                return None
            found = self._links[found]
        return None


class _Window:
    """A part of a file; several at once do not disturb one another."""

    def __init__(self, descriptor: int, start: int, size: int) -> None:
        self._descriptor = descriptor
        self._position = start
        self._end = start + size

    def read(self, size: int, /) -> bytes:
        """The next bytes; raises StorageFailed where the file became shorter."""
        size = min(size, self._end - self._position)
        if not size:
            return b""
        data = os.pread(self._descriptor, size, self._position)
        if not data:
            raise StorageFailed("the archive became shorter while it was read")
        self._position += len(data)
        return data

    def close(self) -> None:
        """Nothing: the file is the archive's."""


class _Skipping(_Window):
    """A whole file of which long parts can be passed over."""

    def __init__(self, descriptor: int, size: int) -> None:
        super().__init__(descriptor, 0, size)

    def skip(self, size: int) -> bool:
        """Move on by `size` bytes; False where there are fewer."""
        if size > self._end - self._position:
            return False
        self._position += size
        return True


def _resolved(directory: bytes, target: bytes, what: str) -> bytes:
    """A relative link's target inside the archive."""
    if target.startswith(b"/"):
        raise FormatError(f"{what}: a link leads to {printable(target)}, which is absolute")
    parts = directory.split(b"/") if directory else []
    for part in target.split(b"/"):
        if part == b"..":
            if not parts:
                raise FormatError(f"{what}: a link leads out of the archive")
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
