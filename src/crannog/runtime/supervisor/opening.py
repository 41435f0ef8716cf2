"""open, creat, openat, openat2."""

from __future__ import annotations

import errno
import os
import struct

from crannog.linux.procfs import on_procfs
from crannog.runtime.supervisor.call import Call
from crannog.runtime.supervisor.contents import MemoryFile
from crannog.runtime.supervisor.loop import AT_FDCWD
from crannog.runtime.supervisor.resolve import Found, Restrictions, Where
from crannog.runtime.supervisor.rights import READ, WRITE
from crannog.shield.model import DirectoryEntry

_O_PATH = 0o10000000
_O_TMPFILE = 0o20000000  # without O_DIRECTORY, which always comes with it
_NO_FOLLOW = os.O_NOFOLLOW
_EXCLUSIVE = os.O_CREAT | os.O_EXCL
_ACCESS = os.O_ACCMODE
# What a descriptor of a virtual file can take over from the flags it was asked for with.
_KEPT_READING = os.O_NONBLOCK
_KEPT_WRITING = os.O_NONBLOCK | os.O_APPEND | os.O_TRUNC | os.O_SYNC | os.O_DSYNC


_HOW = struct.Struct("<QQQ")
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_BENEATH = 0x08
_RESOLVE_IN_ROOT = 0x10
_RESOLVE_CACHED = 0x20
_KNOWN_RESOLVE = 0x3F
_KNOWN_FLAGS = 0x7FFFC3  # O_ACCMODE and O_CREAT to __O_TMPFILE, the same set on both machines
_PAGE = 4096

_WANTED = {os.O_RDONLY: READ, os.O_WRONLY: WRITE, os.O_RDWR: READ | WRITE, 3: READ | WRITE}


def handle_open(call: Call) -> None:
    """open(path, flags, mode)."""
    address, flags, mode = call.arguments[:3]
    _open(call, AT_FDCWD, address, flags & 0xFFFFFFFF, mode)


def handle_creat(call: Call) -> None:
    """creat(path, mode)."""
    address, mode = call.arguments[:2]
    _open(call, AT_FDCWD, address, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, mode)


def handle_openat(call: Call) -> None:
    """openat(directory, path, flags, mode)."""
    directory, address, flags, mode = call.arguments[:4]
    _open(call, directory, address, flags & 0xFFFFFFFF, mode)


def handle_openat2(call: Call) -> None:
    """openat2(directory, path, how, size); crossing a region under a restriction is EXDEV."""
    directory, address, how, size = call.arguments[:4]
    if size < _HOW.size:
        call.fail(errno.EINVAL)
        return
    if size > _PAGE:
        call.fail(errno.E2BIG)
        return
    given = call.read(how, size)
    flags, mode, resolve = _HOW.unpack_from(given)
    if any(given[_HOW.size :]):
        call.fail(errno.E2BIG)
        return
    if flags & ~_KNOWN_FLAGS or resolve & ~_KNOWN_RESOLVE:
        # A restriction that we do not know must not be passed over.
        call.fail(errno.EINVAL)
        return
    if not resolve:
        _open(call, directory, address, flags, mode)
        return
    path = call.string(address)
    caller = call.supervisor.caller(call)
    start = call.supervisor.base(call, directory)
    if resolve & _RESOLVE_IN_ROOT:
        caller = caller._replace(root=start)
    restrictions = Restrictions(
        no_crossing=bool(resolve & (_RESOLVE_NO_XDEV | _RESOLVE_BENEATH | _RESOLVE_IN_ROOT)),
        no_magic_links=bool(resolve & (_RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS)),
        no_links=bool(resolve & _RESOLVE_NO_SYMLINKS),
        beneath=bool(resolve & _RESOLVE_BENEATH),
    )
    found = call.supervisor.resolver.resolve(
        start if path[:1] != b"/" else caller.root,
        path,
        caller,
        follow=_follows(flags),
        restrictions=restrictions,
    )
    if found.through and resolve & _RESOLVE_CACHED:
        call.fail(errno.EAGAIN)
        return
    _answer(call, found, flags, mode)


def _follows(flags: int) -> bool:
    return not flags & _NO_FOLLOW and flags & _EXCLUSIVE != _EXCLUSIVE


def _open(call: Call, directory: int, address: int, flags: int, mode: int) -> None:
    path = call.string(address)
    found = call.supervisor.resolve(call, directory, path, follow=_follows(flags))
    _answer(call, found, flags, mode)


def _answer(call: Call, found: Found, flags: int, mode: int) -> None:
    where = found.where
    if where is Where.FILE or where is Where.INJECTED:
        _answer_file(call, found, flags)
    elif where is Where.DISK:
        if found.through:
            # A pipe waits for its other end.
            call.supervisor.apart(call, lambda: _open_on_disk(call, found, flags, mode))
        else:
            call.proceed()
    elif where is Where.DIRECTORY:
        _answer_directory(call, found, flags)
    else:
        call.supervisor.granted(call, found)
        raise OSError(_refusal(where, flags), "no such file, or a link")


def _refusal(where: Where, flags: int) -> int:
    if where is Where.LINK:
        return errno.EEXIST if flags & _EXCLUSIVE == _EXCLUSIVE else errno.ELOOP
    # Nothing is created in a region whose files are fixed: no plaintext beside the ciphertext.
    return errno.EROFS if flags & os.O_CREAT else errno.ENOENT


def _answer_file(call: Call, found: Found, flags: int) -> None:
    supervisor = call.supervisor
    rights = supervisor.granted(call, found)
    if flags & _EXCLUSIVE == _EXCLUSIVE:
        raise OSError(errno.EEXIST, "file exists")
    if flags & os.O_DIRECTORY:
        raise OSError(errno.ENOTDIR, "not a directory")
    wanted = READ if flags & _O_PATH else _WANTED[flags & _ACCESS]
    if flags & os.O_TRUNC and not flags & _O_PATH:
        wanted |= WRITE
    injected = found.where is Where.INJECTED
    if wanted & WRITE and not injected:
        raise OSError(errno.EROFS, "read-only file system")
    if wanted & ~rights:
        raise OSError(errno.EACCES, "permission denied")
    kept = _KEPT_READING
    if injected and not flags & _O_PATH:
        kept = _KEPT_WRITING | _ACCESS
    # O_PATH descriptors cannot be injected; one for reading does all that they do.
    kept &= flags
    cloexec = bool(flags & os.O_CLOEXEC)
    file = supervisor.contents.known(found)
    if file is None and supervisor.contents.is_quick(found):
        file = supervisor.contents.open_file(found)
    if file is not None:
        _inject(call, file, kept, cloexec)
    else:
        call.later(lambda: _inject(call, supervisor.contents.open_file(found), kept, cloexec))


def _inject(call: Call, file: MemoryFile, flags: int, cloexec: bool) -> None:
    descriptor = call.supervisor.contents.open_for(file, flags)
    call.inject(descriptor, cloexec=cloexec)


def _answer_directory(call: Call, found: Found, flags: int) -> None:
    supervisor = call.supervisor
    rights = supervisor.granted(call, found)
    if flags & _EXCLUSIVE == _EXCLUSIVE:
        raise OSError(errno.EEXIST, "file exists")
    if flags & _O_TMPFILE:
        raise OSError(errno.EROFS, "read-only file system")
    if flags & os.O_CREAT or (flags & _ACCESS and not flags & _O_PATH):
        raise OSError(errno.EISDIR, "is a directory")
    # Also with O_PATH: the stand-in can be listed.
    if not rights & READ:
        raise OSError(errno.EACCES, "permission denied")
    entry = found.entry
    assert isinstance(entry, DirectoryEntry)
    descriptor = supervisor.directories.open_for(found.path, entry)
    call.inject(descriptor, cloexec=bool(flags & os.O_CLOEXEC))


def _open_on_disk(call: Call, found: Found, flags: int, mode: int) -> None:
    """Open outside what was named through a region: the kernel would take the disk's links."""
    supervisor = call.supervisor
    supervisor.granted(call, found)
    if supervisor.credentials(call) != supervisor.own_credentials:
        supervisor.say(
            "a file outside a protected region was named through one by a process of another"
            " user than the launcher's: refused"
        )
        raise OSError(errno.EACCES, "permission denied")
    if flags & _O_PATH:
        flags &= os.O_DIRECTORY | _NO_FOLLOW | os.O_CLOEXEC
    mode &= 0o7777 & ~call.task.status().umask
    descriptor = os.open(found.path, flags | os.O_CLOEXEC | os.O_NOCTTY | _nofollow(found), mode)
    if _is_anothers(descriptor, call):
        os.close(descriptor)
        raise OSError(errno.EACCES, "another process's entry in /proc")
    call.inject(descriptor, cloexec=bool(flags & os.O_CLOEXEC))


def _is_anothers(descriptor: int, call: Call) -> bool:
    """Whether it is open on something in `/proc` that belongs to another process than the caller's.

    The kernel lets us open what is our own, our memory included, which the caller may not see. The
    open file is asked and not the path: on the way there a directory may have become a link.
    """
    if not on_procfs(descriptor):
        return False
    name = os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")
    owners = [part for part in name.split("/") if part.isdigit()]
    return bool(owners) and owners[0] not in (str(call.task.process), str(call.tid))


def _nofollow(found: Found) -> int:
    # All links were followed in the walk; only magic ones, whose path it keeps, still are.
    return 0 if found.path.startswith(b"/proc/") else _NO_FOLLOW
