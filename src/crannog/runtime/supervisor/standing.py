"""Calls that change where or who a process is: chdir, chroot, set*id and their kin."""

from __future__ import annotations

import errno
import os

from crannog.errors import Unavailable
from crannog.linux.ptrace import Seized, native_layout
from crannog.runtime.supervisor import rights
from crannog.runtime.supervisor.call import Call
from crannog.runtime.supervisor.loop import AT_FDCWD
from crannog.runtime.supervisor.resolve import Found, Where
from crannog.shield.model import DirectoryEntry


def handle_chdir(call: Call) -> None:
    """chdir(path): into a region, by an fchdir of the thread itself to our stand-in."""
    supervisor = call.supervisor
    path = call.string(call.arguments[0])
    found = supervisor.resolve(call, AT_FDCWD, path)
    if found.where is Where.DISK and not found.through:
        call.proceed()
        return
    granted = supervisor.granted(call, found)
    if found.where is Where.MISSING:
        raise OSError(errno.ENOENT, "no such file or directory")
    if found.where not in (Where.DIRECTORY, Where.DISK):
        raise OSError(errno.ENOTDIR, "not a directory")
    if not granted & rights.EXECUTE:
        raise OSError(errno.EACCES, "permission denied")
    call.later(lambda: _enter(call, found))


def _enter(call: Call, found: Found) -> None:
    supervisor = call.supervisor
    entry = found.entry
    if isinstance(entry, DirectoryEntry):
        descriptor = supervisor.directories.open_for(found.path, entry)
    else:
        if supervisor.credentials(call) != supervisor.own_credentials:
            raise OSError(errno.EACCES, "permission denied")
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        descriptor = os.open(found.path, flags)
    try:
        _stand_on(call, descriptor)
    finally:
        os.close(descriptor)


def _stand_on(call: Call, descriptor: int) -> None:
    supervisor = call.supervisor
    numbers = supervisor.machine.numbers
    try:
        seized = Seized(call.tid, native_layout())
    except Unavailable as error:
        supervisor.say(f"chdir into a region: {error.message}; refused")
        raise OSError(errno.EACCES, "cannot be moved") from error
    with seized as thread:
        try:
            theirs = supervisor.listener.add(call.id, descriptor, os.O_CLOEXEC)
        except OSError as error:
            # Answered here: only then does the thread come to where it can be let go.
            call.fail(error.errno or errno.EIO)
            return
        call.fail(errno.EINTR)
        registers = thread.wait()
        result, after = thread.run_call(registers, numbers["fchdir"], (theirs,))
        _, after = thread.run_call(after, numbers["close"], (theirs,))
        thread.finish_with(after, result)


def handle_chroot(call: Call) -> None:
    """chroot(path): outside regions only; from then on every root is asked for."""
    supervisor = call.supervisor
    found = supervisor.resolve(call, AT_FDCWD, call.string(call.arguments[0]))
    if found.where is not Where.DISK or found.through:
        supervisor.granted(call, found)
        if found.where is Where.MISSING:
            raise OSError(errno.ENOENT, "no such file or directory")
        raise OSError(errno.EPERM, "a region cannot become the root")
    supervisor.rooted = True
    call.proceed()


def handle_identity(call: Call) -> None:
    """set*id, setgroups, capset: the loop has forgotten who the caller was."""
    call.proceed()
