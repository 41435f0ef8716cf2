"""Calls that look at an object without opening it: stat, access, readlink, getcwd, attributes."""

from __future__ import annotations

import errno
import os
import stat
from _blake2 import blake2b  # as in dents
from collections.abc import Callable

from crannog.linux.layouts import pack_stat, pack_statfs, pack_statx
from crannog.runtime.supervisor import rights
from crannog.runtime.supervisor.call import Call
from crannog.runtime.supervisor.loop import AT_FDCWD, Supervisor
from crannog.runtime.supervisor.resolve import Found, Where, is_magic_link
from crannog.shield.model import DirectoryEntry, LinkEntry

AT_SYMLINK_NOFOLLOW = 0x100
AT_EACCESS = 0x200
AT_EMPTY_PATH = 0x1000


def virtual(
    call: Call, directory: int, address: int, *, follow: bool, empty: bool = False
) -> Found | None:
    """What the path means where we have to answer; None where the kernel has to.

    Args:
        call: whose path it is.
        directory: the descriptor that it may be relative to.
        address: of the path; 0 stands for the descriptor itself and is the kernel's.
        follow: whether a link at the end is followed.
        empty: whether an empty path stands for the descriptor (`AT_EMPTY_PATH`), which then is the
            kernel's too: what we have given out answers for itself.
    """
    if not address:
        return None
    path = call.string(address)
    if not path and empty:
        return None
    found = call.supervisor.resolve(call, directory, path, follow=follow)
    return found if found.through else None


def status_of(supervisor: Supervisor, found: Found) -> os.stat_result:
    """What stat says of it.

    Raises:
        OSError: ENOENT where it is missing; what the disk says of what lies there.
    """
    where = found.where
    if where is Where.FILE or where is Where.INJECTED:
        return supervisor.contents.status(found)
    if isinstance(found.entry, DirectoryEntry):
        return os.fstat(supervisor.directories.stand_in(found.path, found.entry))
    if isinstance(found.entry, LinkEntry):
        return _status_of_link(found.path, found.entry)
    if where is Where.MISSING:
        raise OSError(errno.ENOENT, "no such file or directory")
    return os.lstat(found.path)


def _status_of_link(path: bytes, entry: LinkEntry) -> os.stat_result:
    # A link cannot be opened, so nothing has to agree with the number but itself.
    inode = int.from_bytes(blake2b(path, digest_size=8).digest(), "little") >> 1
    seconds, _ = divmod(entry.mtime_ns, 1_000_000_000)
    return os.stat_result(
        (
            *(stat.S_IFLNK | 0o777, inode, os.makedev(0, 0), 1, entry.uid, entry.gid),
            *(len(entry.target), seconds, seconds, seconds),
        ),
        {
            "st_atime_ns": entry.mtime_ns,
            "st_mtime_ns": entry.mtime_ns,
            "st_ctime_ns": entry.mtime_ns,
            "st_blocks": 0,
            "st_rdev": 0,
        },
    )


def _answer_stat(call: Call, found: Found | None, address: int) -> None:
    if found is None:
        call.proceed()
        return
    supervisor = call.supervisor
    supervisor.granted(call, found)
    status = status_of(supervisor, found)
    call.write(address, pack_stat(status, supervisor.machine.name))
    call.value(0)


def handle_stat(call: Call) -> None:
    """stat(path, buffer)."""
    found = virtual(call, AT_FDCWD, call.arguments[0], follow=True)
    _answer_stat(call, found, call.arguments[1])


def handle_lstat(call: Call) -> None:
    """lstat(path, buffer)."""
    found = virtual(call, AT_FDCWD, call.arguments[0], follow=False)
    _answer_stat(call, found, call.arguments[1])


def handle_newfstatat(call: Call) -> None:
    """newfstatat(directory, path, buffer, flags)."""
    directory, path, buffer, flags = call.arguments[:4]
    follow = not flags & AT_SYMLINK_NOFOLLOW
    found = virtual(call, directory, path, follow=follow, empty=bool(flags & AT_EMPTY_PATH))
    _answer_stat(call, found, buffer)


def handle_statx(call: Call) -> None:
    """statx(directory, path, flags, mask, buffer)."""
    directory, path, flags, _, buffer = call.arguments[:5]
    follow = not flags & AT_SYMLINK_NOFOLLOW
    found = virtual(call, directory, path, follow=follow, empty=bool(flags & AT_EMPTY_PATH))
    if found is None:
        call.proceed()
        return
    call.supervisor.granted(call, found)
    call.write(buffer, pack_statx(status_of(call.supervisor, found)))
    call.value(0)


def handle_statfs(call: Call) -> None:
    """statfs(path, buffer): a region is a file system in memory."""
    found = virtual(call, AT_FDCWD, call.arguments[0], follow=True)
    if found is None:
        call.proceed()
        return
    call.supervisor.granted(call, found)
    if found.where is Where.MISSING:
        raise OSError(errno.ENOENT, "no such file or directory")
    if found.where is Where.DISK:
        raise OSError(errno.EACCES, "named through a region")
    call.write(call.arguments[1], pack_statfs())
    call.value(0)


def handle_access(call: Call) -> None:
    """access(path, mode)."""
    address, mode = call.arguments[:2]
    _answer_access(call, virtual(call, AT_FDCWD, address, follow=True), mode, effective=False)


def handle_faccessat(call: Call) -> None:
    """faccessat(directory, path, mode)."""
    directory, address, mode = call.arguments[:3]
    _answer_access(call, virtual(call, directory, address, follow=True), mode, effective=False)


def handle_faccessat2(call: Call) -> None:
    """faccessat2(directory, path, mode, flags)."""
    directory, address, mode, flags = call.arguments[:4]
    follow = not flags & AT_SYMLINK_NOFOLLOW
    found = virtual(call, directory, address, follow=follow, empty=bool(flags & AT_EMPTY_PATH))
    _answer_access(call, found, mode, effective=bool(flags & AT_EACCESS))


def _answer_access(call: Call, found: Found | None, mode: int, *, effective: bool) -> None:
    if found is None:
        call.proceed()
        return
    mode &= 0xFFFFFFFF
    if mode & ~7:
        raise OSError(errno.EINVAL, "mode of access")
    supervisor = call.supervisor
    status = supervisor.fresh(call).status()
    who = status.credentials if effective else status.real
    granted = rights.of(supervisor, found, who)
    if found.where is Where.MISSING:
        raise OSError(errno.ENOENT, "no such file or directory")
    if found.where is Where.DISK:
        on_disk = os.lstat(found.path)
        granted = rights.granted(
            who,
            mode=on_disk.st_mode,
            uid=on_disk.st_uid,
            gid=on_disk.st_gid,
            directory=stat.S_ISDIR(on_disk.st_mode),
        )
    elif found.where is not Where.INJECTED and mode & rights.WRITE:
        raise OSError(errno.EROFS, "read-only file system")
    if mode & ~granted:
        raise OSError(errno.EACCES, "permission denied")
    call.value(0)


def handle_readlink(call: Call) -> None:
    """readlink(path, buffer, size)."""
    address, buffer, size = call.arguments[:3]
    _answer_readlink(call, AT_FDCWD, address, buffer, size)


def handle_readlinkat(call: Call) -> None:
    """readlinkat(directory, path, buffer, size)."""
    directory, address, buffer, size = call.arguments[:4]
    _answer_readlink(call, directory, address, buffer, size)


def _answer_readlink(call: Call, directory: int, address: int, buffer: int, size: int) -> None:
    path = call.string(address)
    size &= 0xFFFFFFFF
    if not path or not 0 < size < 1 << 31:
        call.proceed()
        return
    supervisor = call.supervisor
    found = supervisor.resolve(call, directory, path, follow=False)
    if found.where is Where.DISK:
        target = _name_of_magic_link(supervisor, found.path)
        if target is None and found.through:
            supervisor.granted(call, found)
            target = os.readlink(found.path)
        if target is None:
            call.proceed()
            return
    else:
        supervisor.granted(call, found)
        if found.where is Where.MISSING:
            raise OSError(errno.ENOENT, "no such file or directory")
        if not isinstance(found.entry, LinkEntry):
            raise OSError(errno.EINVAL, "not a link")
        target = found.entry.target
    target = target[:size]
    call.write(buffer, target)
    call.value(len(target))


def _name_of_magic_link(supervisor: Supervisor, path: bytes) -> bytes | None:
    """What `/proc/PID/exe`, `cwd` or `fd/N` is called where it is a virtual object of ours."""
    if not path.startswith(b"/proc/") or not is_magic_link(path):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    name = supervisor.directories.path_of(found.st_dev, found.st_ino)
    if name is not None:
        return name
    file = supervisor.contents.by_identity(found.st_dev, found.st_ino)
    if file is not None:
        return file.path
    if supervisor.executables is None:
        return None
    return supervisor.executables.name_of(found.st_dev, found.st_ino)


def handle_getcwd(call: Call) -> None:
    """getcwd(buffer, size): our stand-ins have no name of their own."""
    buffer, size = call.arguments[:2]
    supervisor = call.supervisor
    directory = supervisor.fresh(call).directory
    try:
        found = os.stat("cwd", dir_fd=directory)
    except OSError:
        call.proceed()
        return
    supervisor.listener.check(call.id)
    name = supervisor.directories.path_of(found.st_dev, found.st_ino)
    if name is None:
        call.proceed()
        return
    if len(name) + 1 > size:
        raise OSError(errno.ERANGE, "buffer too small")
    call.write(buffer, name + b"\0")
    call.value(len(name) + 1)


Answer = Callable[[Call, Found], None]


def _no_attribute(number: int) -> Answer:
    def answer(call: Call, found: Found) -> None:
        call.supervisor.granted(call, found)
        if found.where is Where.MISSING:
            raise OSError(errno.ENOENT, "no such file or directory")
        if number:
            raise OSError(number, os.strerror(number))
        call.value(0)

    return answer


no_such_attribute = _no_attribute(errno.ENODATA)
empty_list = _no_attribute(0)
not_supported = _no_attribute(errno.EOPNOTSUPP)
not_permitted = _no_attribute(errno.EACCES)
