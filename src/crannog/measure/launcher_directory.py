"""A launcher directory's digest: recomputed from its files, or claimed by the launcher that runs.

Decides what of a directory tree counts and in which order, and which trees a LAS may vouch for:
those that root alone can have written. Leaves to the LAS which directory is its own.

Format: docs/formats/launcher.md.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterable
from typing import NamedTuple

from crannog.errors import Misconfigured
from crannog.measure.launcher import DIGEST, claimed_digest

LABEL = b"crannog launcher directory v1\n"
DIRECTORY = 1
FILE = 2
LINK = 3

_MAX_ENTRIES = 100_000
_MAX_DEPTH = 64
_PIECE = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def directory_digest(directory: str) -> bytes:
    """SHA-256 over the canonical list of everything below `directory` but its file `digest`.

    Raises:
        Misconfigured: something cannot be read, or is neither file nor directory nor link.
    """
    return _Walk(None).digest(directory)


def verify_launcher_directory(directory: str, *, owner: int = 0) -> bytes:
    """The digest of a launcher directory that `owner` alone can have written; 32 bytes.

    Looked at: every entry, the directory itself and those above it. Above, a directory that
    others may write is allowed where it is sticky, as /tmp, since nobody renames there what is
    not his.

    Args:
        directory: an absolute path.
        owner: the user whose files are trusted, root.

    Raises:
        Misconfigured: something belongs to another user or may be written by others, is no file,
            directory or link, or the digest is not the one that the directory's own file holds.
    """
    if not directory.startswith("/"):
        raise Misconfigured(f"launcher directory {directory!r} is not an absolute path")
    real = above = os.path.realpath(directory)
    while above != "/":
        above = os.path.dirname(above)
        _check_owner(os.lstat(above), above, owner, sticky=True)
    found = _Walk(owner).digest(real)
    claimed = claimed_digest(real)
    if found != claimed:
        raise Misconfigured(
            f"launcher directory {directory} has the digest {found.hex()}, its own file says "
            f"{claimed.hex()}",
            hint="it was changed after it was made: install it again",
        )
    return found


class Entry(NamedTuple):
    """One entry of the canonical list.

    Attributes:
        path: below the directory, without a slash at either end.
        kind: 1 directory, 2 file, 3 link.
        mode: the lower 12 bits; 0 for a link.
        size: of a file's content; 0 for others.
        content: a file's SHA-256, a link's target; empty for a directory.
    """

    path: bytes
    kind: int
    mode: int
    size: int
    content: bytes


def canonical_list(entries: Iterable[Entry]) -> bytes:
    """What is hashed: the entries in the order of their paths."""
    ordered = sorted(entries)
    parts = [LABEL, struct.pack(">I", len(ordered))]
    for entry in ordered:
        parts.append(struct.pack(">BHI", entry.kind, entry.mode, len(entry.path)) + entry.path)
        if entry.kind == FILE:
            parts.append(struct.pack(">Q", entry.size) + entry.content)
        elif entry.kind == LINK:
            parts.append(struct.pack(">I", len(entry.content)) + entry.content)
    return b"".join(parts)


class _Walk:
    """One walk over a tree; with an owner, whose files alone are taken."""

    def __init__(self, owner: int | None) -> None:
        self._owner = owner
        self._entries: list[Entry] = []

    def digest(self, directory: str) -> bytes:
        name = directory
        try:
            top = os.open(directory, _READ | os.O_DIRECTORY)
            try:
                self._check(os.fstat(top), directory)
                self._below(top, b"", 0)
            finally:
                os.close(top)
        except OSError as error:
            shown = error.filename or name
            raise Misconfigured(
                f"launcher directory {directory}: {os.fsdecode(shown)!r} cannot be read: "
                f"{error.strerror}"
            ) from error
        return hashlib.sha256(canonical_list(self._entries)).digest()

    def _below(self, directory: int, prefix: bytes, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise Misconfigured(f"launcher directory: {os.fsdecode(prefix)} lies too deep")
        for text in os.listdir(directory):
            name = os.fsencode(text)
            path = prefix + name
            if path == DIGEST.encode():
                self._check(os.stat(name, dir_fd=directory, follow_symlinks=False), DIGEST)
                continue
            if len(self._entries) >= _MAX_ENTRIES:
                raise Misconfigured(f"launcher directory: more than {_MAX_ENTRIES} entries")
            self._entry(directory, name, path, depth)

    def _entry(self, directory: int, name: bytes, path: bytes, depth: int) -> None:
        shown = os.fsdecode(path)
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
        self._check(status, shown)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(name, dir_fd=directory)
            self._entries.append(Entry(path, LINK, 0, 0, target))
            return
        if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
            raise Misconfigured(f"launcher directory: {shown!r} is no file, directory or link")
        descriptor = os.open(name, _READ, dir_fd=directory)
        try:
            status = os.fstat(descriptor)  # of what is read, whatever was there before
            self._check(status, shown)
            mode = stat.S_IMODE(status.st_mode)
            if stat.S_ISDIR(status.st_mode):
                self._entries.append(Entry(path, DIRECTORY, mode, 0, b""))
                self._below(descriptor, path + b"/", depth + 1)
            elif stat.S_ISREG(status.st_mode):
                self._entries.append(Entry(path, FILE, mode, *_content(descriptor)))
            else:
                raise Misconfigured(f"launcher directory: {shown!r} is no file, directory or link")
        finally:
            os.close(descriptor)

    def _check(self, status: os.stat_result, shown: str) -> None:
        if self._owner is not None:
            _check_owner(status, shown, self._owner, sticky=False)


def _content(descriptor: int) -> tuple[int, bytes]:
    digest = hashlib.sha256()
    size = 0
    while piece := os.read(descriptor, _PIECE):
        digest.update(piece)
        size += len(piece)
    return size, digest.digest()


def _check_owner(status: os.stat_result, shown: str, owner: int, *, sticky: bool) -> None:
    if status.st_uid not in {owner, 0}:
        raise Misconfigured(
            f"launcher directory: {shown!r} belongs to user {status.st_uid}, expected {owner}"
        )
    if stat.S_ISLNK(status.st_mode):
        return  # its mode means nothing
    if status.st_mode & 0o022 and not (sticky and status.st_mode & stat.S_ISVTX):
        raise Misconfigured(
            f"launcher directory: {shown!r} may be written by others "
            f"(mode {stat.S_IMODE(status.st_mode):o})"
        )
