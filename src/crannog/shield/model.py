"""What an fspf says: regions, and the files, directories and links inside protected ones.

Decides nothing: these are the values that `fspf.open_fspf` returns. Paths are absolute canonical
bytes (`paths.canonical`), since file names need not be text. Named tuples and not dataclasses: the
launcher imports this module before it has its evidence, and importing costs start-up time.
"""

from __future__ import annotations

import enum
from typing import NamedTuple, TypeAlias

CHUNK_LENGTH = 65536  # bytes of plaintext in a chunk, unless `--chunk-length` says otherwise
MIN_CHUNK_LENGTH = 4096
MAX_CHUNK_LENGTH = 16 * 1024 * 1024
CHUNK_LENGTH_STEP = 4096  # a page: a chunk is what one read or one fault brings in
FILE_KEY = 32  # bytes of an AES-256 key
CHUNK_TAG = 16  # bytes of an AES-GCM tag, per chunk of an encrypted file
CHUNK_DIGEST = 32  # bytes of SHA-256, per chunk of an authenticated file


class Protection(enum.IntEnum):
    """What is done to the files of a region. The numbers are those of the format."""

    NOT_PROTECTED = 1
    AUTHENTICATED = 2
    ENCRYPTED = 3


class Kind(enum.IntEnum):
    """What a name stands for. The numbers are those of the format."""

    FILE = 1
    DIRECTORY = 2
    LINK = 3


class Region(NamedTuple):
    """A part of the name space that is treated alike.

    Attributes:
        path: the embed point, where programs see it.
        protection: what is done to its files.
        kernel_path: the directory on disk that holds its files.
        chunk_length: bytes of plaintext per chunk for files added from now on.
    """

    path: bytes
    protection: Protection
    kernel_path: bytes
    chunk_length: int = CHUNK_LENGTH

    @property
    def protected(self) -> bool:
        """Whether names and contents come from the fspf, and not from the disk."""
        return self.protection is not Protection.NOT_PROTECTED


class FileEntry(NamedTuple):
    """A regular file of a protected region.

    Attributes:
        protection: AUTHENTICATED or ENCRYPTED, as its region's.
        mode: permission bits (0o7777), as the source had them.
        uid: owner at the source, or as `addf --owner` said.
        gid: its group.
        size: bytes, of plaintext and of what is on disk alike.
        mtime_ns: time of the last change, nanoseconds since 1970.
        chunk_length: bytes of every chunk but the last.
        key: AES-256 key of this file alone; 32 zero bytes where authenticated.
        tags: the chunks' tags (16 bytes each) or digests (32 bytes each), in order.
    """

    protection: Protection
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    chunk_length: int
    key: bytes
    tags: bytes

    @property
    def kind(self) -> Kind:
        """FILE."""
        return Kind.FILE

    @property
    def chunks(self) -> int:
        """How many chunks it has; an empty file has none."""
        return -(-self.size // self.chunk_length)

    def __repr__(self) -> str:
        """Everything but the key, which must not get into logs by way of a repr."""
        return f"FileEntry(size={self.size}, mode={self.mode:#o}, chunks={self.chunks})"


class DirectoryEntry(NamedTuple):
    """A directory of a protected region; what it holds is `Fspf.names`."""

    mode: int
    uid: int
    gid: int
    mtime_ns: int

    @property
    def kind(self) -> Kind:
        """DIRECTORY."""
        return Kind.DIRECTORY


class LinkEntry(NamedTuple):
    """A symbolic link of a protected region; `target` is as it was, relative or absolute."""

    target: bytes
    uid: int
    gid: int
    mtime_ns: int

    @property
    def kind(self) -> Kind:
        """LINK."""
        return Kind.LINK


Entry: TypeAlias = FileEntry | DirectoryEntry | LinkEntry
