"""Whether a caller may do something with an object, as Linux decides it.

The supervisor opens files for the program, often with more rights than the program has left. So
the mode bits that the fspf or the injection names are compared with the caller here. Access lists
(ACLs) and security modules are not: a protected file has only a mode.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from crannog.linux.procfs import (
    CAP_DAC_OVERRIDE,
    CAP_DAC_READ_SEARCH,
    CAP_FOWNER,
    Credentials,
)
from crannog.runtime.supervisor.namespace import Place
from crannog.runtime.supervisor.resolve import Found, Where
from crannog.shield.model import DirectoryEntry, FileEntry

if TYPE_CHECKING:
    from crannog.runtime.supervisor.loop import Supervisor

READ = 4
WRITE = 2
EXECUTE = 1


def granted(
    credentials: Credentials, *, mode: int, uid: int, gid: int, directory: bool = False
) -> int:
    """The rights that the caller has: a sum of READ, WRITE and EXECUTE (search, of a directory).

    Only one class of mode bits counts: the owner's for the owner, even where the group has more.
    """
    if credentials.uid == uid:
        bits = mode >> 6
    elif credentials.gid == gid or gid in credentials.groups:
        bits = mode >> 3
    else:
        bits = mode
    bits &= 7
    capabilities = credentials.capabilities
    if capabilities & CAP_DAC_OVERRIDE:
        # Executing a file takes an x bit somewhere, even for root.
        bits |= READ | WRITE
        if directory or mode & 0o111:
            bits |= EXECUTE
    if capabilities & CAP_DAC_READ_SEARCH:
        bits |= READ | EXECUTE if directory else READ
    return bits


def owns(credentials: Credentials, uid: int) -> bool:
    """Whether the caller may do what only the owner may: change mode and times."""
    return credentials.uid == uid or bool(credentials.capabilities & CAP_FOWNER)


def of(supervisor: Supervisor, found: Found, credentials: Credentials) -> int:
    """The caller's rights to what was found: a sum of READ, WRITE and EXECUTE.

    Raises:
        OSError: EACCES where a directory on the way may not be searched.
    """
    for directory in found.passed:
        if not _of_directory(supervisor, directory, credentials) & EXECUTE:
            raise OSError(errno.EACCES, "permission denied")
    if found.where is Where.INJECTED:
        status = supervisor.contents.status(found)
        return granted(credentials, mode=status.st_mode, uid=status.st_uid, gid=status.st_gid)
    entry = found.entry
    if isinstance(entry, FileEntry):
        return granted(credentials, mode=entry.mode, uid=entry.uid, gid=entry.gid)
    if isinstance(entry, DirectoryEntry):
        return granted(credentials, mode=entry.mode, uid=entry.uid, gid=entry.gid, directory=True)
    return READ | WRITE | EXECUTE


def _of_directory(supervisor: Supervisor, path: bytes, credentials: Credentials) -> int:
    namespace = supervisor.namespace
    if namespace.place(path) is Place.PROTECTED:
        entry = namespace.entry(path)
        if not isinstance(entry, DirectoryEntry):
            return 0
    else:
        try:
            status = os.stat(path)
        except OSError:
            entry = namespace.leading_directory()
            if not namespace.leads(path):
                return 0
        else:
            return granted(
                credentials,
                mode=status.st_mode,
                uid=status.st_uid,
                gid=status.st_gid,
                directory=True,
            )
    return granted(credentials, mode=entry.mode, uid=entry.uid, gid=entry.gid, directory=True)
