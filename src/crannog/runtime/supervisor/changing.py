"""Calls that make, remove, move or change something.

Inside a protected region nothing changes: `EROFS`, after the errors that Linux finds first. An
injected file behaves as a mounted file: its content, mode and times change in memory, its name does
not. What leads to a region or an injected file can neither move nor go: `EBUSY`.
"""

from __future__ import annotations

import errno
import os
import struct
import time
from collections.abc import Callable

from crannog.runtime.supervisor import rights
from crannog.runtime.supervisor.call import Call
from crannog.runtime.supervisor.contents import MemoryFile
from crannog.runtime.supervisor.looking import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW
from crannog.runtime.supervisor.loop import AT_FDCWD, Handler
from crannog.runtime.supervisor.resolve import Found, Where

AT_SYMLINK_FOLLOW = 0x400

_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2
_TIMES = struct.Struct("<qqqq")
_OLD_TIMES = struct.Struct("<qq")
_NANO = 1_000_000_000


def _find(
    call: Call, directory: int, address: int, *, follow: bool, empty: bool = False
) -> Found | None:
    """What the path means; None where it is an empty path that stands for the descriptor."""
    if not address:
        return None
    path = call.string(address)
    if not path:
        if empty:
            return None
        raise OSError(errno.ENOENT, "empty path")
    return call.supervisor.resolve(call, directory, path, follow=follow)


def _proceed(call: Call) -> None:
    """Let the kernel change names on disk; what was remembered of them may not hold then."""
    call.supervisor.names_changed()
    call.proceed()


def _proceed_with_mode(call: Call) -> None:
    """Let the kernel change a mode, an owner, times or attributes on disk."""
    call.supervisor.modes_changed()
    call.proceed()


def _refuse_through(found: Found) -> None:
    # The kernel would walk over the disk's idea of a region.
    if found.where is Where.DISK and found.through:
        raise OSError(errno.EACCES, "named through a region")


def making(
    call: Call, directory: int, address: int, go_on: Callable[[Call], None] = Call.proceed
) -> None:
    """A name is made: mkdir, mknod, symlink's second path.

    Args:
        call: the call.
        directory: the descriptor that the path may be relative to.
        address: of the path.
        go_on: what to do on disk. A new directory makes no known path lead elsewhere; a link may.
    """
    found = _find(call, directory, address, follow=False)
    if found is None:
        call.proceed()
        return
    if found.where is Where.DISK and not found.through:
        if call.supervisor.namespace.leads(found.path):
            raise OSError(errno.EEXIST, "file exists")
        go_on(call)
        return
    call.supervisor.granted(call, found)
    if found.where not in (Where.MISSING, Where.DISK):
        raise OSError(errno.EEXIST, "file exists")
    _refuse_through(found)
    raise OSError(errno.EROFS, "read-only file system")


def removing(call: Call, directory: int, address: int, *, is_directory: bool) -> None:
    """A name is removed: unlink, rmdir."""
    supervisor = call.supervisor
    found = _find(call, directory, address, follow=False)
    if found is None:
        call.proceed()
        return
    if found.where is Where.DISK and not found.through:
        if supervisor.namespace.leads(found.path):
            raise OSError(errno.EBUSY, "something virtual lies below")
        _proceed(call)
        return
    supervisor.granted(call, found)
    if _is_mounted(call, found):
        plain = found.where is Where.INJECTED
        raise OSError(errno.ENOTDIR if plain and is_directory else errno.EBUSY, "mounted")
    _refuse_through(found)
    raise OSError(errno.EROFS, "read-only file system")


def _is_mounted(call: Call, found: Found) -> bool:
    namespace = call.supervisor.namespace
    return (
        found.where is Where.INJECTED
        or namespace.point_of(found.path) is not None
        or namespace.leads(found.path)
    )


def moving(call: Call, paths: tuple[tuple[int, int], tuple[int, int]]) -> None:
    """Rename and its kin: two names, (directory, address) each."""
    supervisor = call.supervisor
    found: list[Found] = []
    for directory, address in paths:
        one = _find(call, directory, address, follow=False)
        if one is None:
            raise OSError(errno.EFAULT, "bad address")
        found.append(one)
    outside = [one.where is Where.DISK and not one.through for one in found]
    if all(outside):
        if any(supervisor.namespace.leads(one.path) for one in found):
            raise OSError(errno.EBUSY, "something virtual lies below")
        _proceed(call)
        return
    for one in found:
        supervisor.granted(call, one)
    if any(_is_mounted(call, one) for one in found):
        raise OSError(errno.EBUSY, "mounted")
    for one in found:
        _refuse_through(one)
    if any(outside):
        raise OSError(errno.EXDEV, "across a region's border")
    raise OSError(errno.EROFS, "read-only file system")


def linking(
    call: Call, paths: tuple[tuple[int, int], tuple[int, int]], *, follow: bool, empty: bool
) -> None:
    """link, linkat: a second name for what the first path means."""
    (old_directory, old_address), (new_directory, new_address) = paths
    old = _find(call, old_directory, old_address, follow=follow, empty=empty)
    new = _find(call, new_directory, new_address, follow=False)
    if new is None:
        call.proceed()
        return
    if old is None:
        device, inode = call.supervisor.identity(call, old_directory)
        if call.supervisor.contents.by_identity(device, inode) is not None:
            raise OSError(errno.EXDEV, "across a region's border")
    virtual_old = old is not None and old.through
    if not virtual_old and not new.through:
        _proceed(call)
        return
    for one in (old, new):
        if one is not None:
            call.supervisor.granted(call, one)
            _refuse_through(one)
    if old is not None and old.where is Where.MISSING:
        raise OSError(errno.ENOENT, "no such file or directory")
    if new.where not in (Where.MISSING, Where.DISK):
        raise OSError(errno.EEXIST, "file exists")
    if virtual_old != new.through or (old is not None and old.where is Where.INJECTED):
        raise OSError(errno.EXDEV, "across a region's border")
    raise OSError(errno.EROFS, "read-only file system")


Change = Callable[[Call, MemoryFile], None]


def changing(
    call: Call, directory: int, address: int, change: Change, *, follow: bool, empty: bool = False
) -> None:
    """An existing object changes: mode, owner, times, size, attributes.

    Args:
        call: the call.
        directory: the descriptor that the path may be relative to.
        address: of the path.
        change: makes the change to an injected file, or raises OSError.
        follow: whether a link at the end is followed.
        empty: whether an empty path stands for the descriptor.
    """
    found = _find(call, directory, address, follow=follow, empty=empty)
    if found is None:
        changing_open(call, directory)
        return
    if found.where is Where.DISK and not found.through:
        _proceed_with_mode(call)
        return
    supervisor = call.supervisor
    supervisor.granted(call, found)
    if found.where is Where.MISSING:
        raise OSError(errno.ENOENT, "no such file or directory")
    _refuse_through(found)
    file = supervisor.contents.known(found) if found.where is Where.INJECTED else None
    if file is None:
        raise OSError(errno.EROFS, "read-only file system")
    change(call, file)
    call.value(0)


def changing_open(call: Call, descriptor: int) -> None:
    """The same through a descriptor: what we gave out of a region does not change."""
    supervisor = call.supervisor
    if descriptor & 0xFFFFFFFF == AT_FDCWD:
        call.proceed()
        return
    device, inode = supervisor.identity(call, descriptor)
    file = supervisor.contents.by_identity(device, inode)
    fixed = supervisor.directories.path_of(device, inode) is not None
    if fixed or (file is not None and file.entry is not None):
        raise OSError(errno.EROFS, "read-only file system")
    _proceed_with_mode(call)


def _require_owner(call: Call, file: MemoryFile) -> None:
    owner = os.fstat(file.descriptor).st_uid
    if not rights.owns(call.supervisor.credentials(call), owner):
        raise OSError(errno.EPERM, "not the owner")


def _mode(mode: int) -> Change:
    def change(call: Call, file: MemoryFile) -> None:
        _require_owner(call, file)
        os.fchmod(file.descriptor, mode & 0o7777)

    return change


def _owner(uid: int, gid: int) -> Change:
    def change(call: Call, file: MemoryFile) -> None:
        credentials = call.supervisor.credentials(call)
        if credentials != call.supervisor.own_credentials:
            raise OSError(errno.EPERM, "not the owner")
        os.fchown(file.descriptor, _signed(uid), _signed(gid))

    return change


def _signed(number: int) -> int:
    number &= 0xFFFFFFFF
    return number - (1 << 32) if number >> 31 else number


def _size(length: int) -> Change:
    def change(call: Call, file: MemoryFile) -> None:
        supervisor = call.supervisor
        status = os.fstat(file.descriptor)
        granted = rights.granted(
            supervisor.credentials(call),
            mode=status.st_mode,
            uid=status.st_uid,
            gid=status.st_gid,
        )
        if not granted & rights.WRITE:
            raise OSError(errno.EACCES, "permission denied")
        if length >> 63:
            raise OSError(errno.EINVAL, "negative length")
        os.ftruncate(file.descriptor, length)

    return change


def _times(stamps: tuple[int, int, int, int] | None) -> Change:
    """Access and modification time, (seconds, nanoseconds) each; None for now."""

    def change(call: Call, file: MemoryFile) -> None:
        status = os.fstat(file.descriptor)
        credentials = call.supervisor.credentials(call)
        granted = rights.granted(
            credentials, mode=status.st_mode, uid=status.st_uid, gid=status.st_gid
        )
        own = rights.owns(credentials, status.st_uid)
        if not own and not (stamps is None and granted & rights.WRITE):
            raise OSError(errno.EPERM if stamps else errno.EACCES, "not the owner")
        now = time.time_ns()
        result = [now, now]
        if stamps is not None:
            kept = (status.st_atime_ns, status.st_mtime_ns)
            for index in (0, 1):
                seconds, part = stamps[2 * index : 2 * index + 2]
                if part == _UTIME_OMIT:
                    result[index] = kept[index]
                elif part != _UTIME_NOW:
                    if not 0 <= part < _NANO:
                        raise OSError(errno.EINVAL, "nanoseconds")
                    result[index] = seconds * _NANO + part
        os.utime(file.descriptor, ns=(result[0], result[1]))

    return change


def _no_attributes(call: Call, file: MemoryFile) -> None:
    del call, file
    raise OSError(errno.EOPNOTSUPP, "no extended attributes")


# One small function per call: which argument is what.


def handle_mkdir(call: Call) -> None:
    """mkdir(path, mode), mknod(path, mode, device)."""
    making(call, AT_FDCWD, call.arguments[0])


def handle_mkdirat(call: Call) -> None:
    """mkdirat(directory, path, mode), mknodat(directory, path, mode, device)."""
    making(call, call.arguments[0], call.arguments[1])


def handle_symlink(call: Call) -> None:
    """symlink(target, path)."""
    making(call, AT_FDCWD, call.arguments[1], _proceed)


def handle_symlinkat(call: Call) -> None:
    """symlinkat(target, directory, path)."""
    making(call, call.arguments[1], call.arguments[2], _proceed)


def handle_unlink(call: Call) -> None:
    """unlink(path)."""
    removing(call, AT_FDCWD, call.arguments[0], is_directory=False)


def handle_rmdir(call: Call) -> None:
    """rmdir(path)."""
    removing(call, AT_FDCWD, call.arguments[0], is_directory=True)


def handle_unlinkat(call: Call) -> None:
    """unlinkat(directory, path, flags); AT_REMOVEDIR is 0x200."""
    directory, address, flags = call.arguments[:3]
    removing(call, directory, address, is_directory=bool(flags & 0x200))


def handle_rename(call: Call) -> None:
    """rename(old, new)."""
    old, new = call.arguments[:2]
    moving(call, ((AT_FDCWD, old), (AT_FDCWD, new)))


def handle_renameat(call: Call) -> None:
    """renameat(old directory, old, new directory, new), renameat2(…, flags)."""
    old_directory, old, new_directory, new = call.arguments[:4]
    moving(call, ((old_directory, old), (new_directory, new)))


def handle_link(call: Call) -> None:
    """link(old, new)."""
    old, new = call.arguments[:2]
    linking(call, ((AT_FDCWD, old), (AT_FDCWD, new)), follow=False, empty=False)


def handle_linkat(call: Call) -> None:
    """linkat(old directory, old, new directory, new, flags)."""
    old_directory, old, new_directory, new, flags = call.arguments[:5]
    linking(
        call,
        ((old_directory, old), (new_directory, new)),
        follow=bool(flags & AT_SYMLINK_FOLLOW),
        empty=bool(flags & AT_EMPTY_PATH),
    )


def handle_chmod(call: Call) -> None:
    """chmod(path, mode)."""
    address, mode = call.arguments[:2]
    changing(call, AT_FDCWD, address, _mode(mode), follow=True)


def handle_fchmodat(call: Call) -> None:
    """fchmodat(directory, path, mode)."""
    directory, address, mode = call.arguments[:3]
    changing(call, directory, address, _mode(mode), follow=True)


def handle_fchmodat2(call: Call) -> None:
    """fchmodat2(directory, path, mode, flags)."""
    directory, address, mode, flags = call.arguments[:4]
    follow = not flags & AT_SYMLINK_NOFOLLOW
    empty = bool(flags & AT_EMPTY_PATH)
    changing(call, directory, address, _mode(mode), follow=follow, empty=empty)


def handle_fd_change(call: Call) -> None:
    """fchmod(fd, …), fchown(fd, …), fsetxattr(fd, …), fremovexattr(fd, …)."""
    changing_open(call, call.arguments[0])


def handle_chown(call: Call) -> None:
    """chown(path, uid, gid)."""
    address, uid, gid = call.arguments[:3]
    changing(call, AT_FDCWD, address, _owner(uid, gid), follow=True)


def handle_lchown(call: Call) -> None:
    """lchown(path, uid, gid)."""
    address, uid, gid = call.arguments[:3]
    changing(call, AT_FDCWD, address, _owner(uid, gid), follow=False)


def handle_fchownat(call: Call) -> None:
    """fchownat(directory, path, uid, gid, flags)."""
    directory, address, uid, gid, flags = call.arguments[:5]
    follow = not flags & AT_SYMLINK_NOFOLLOW
    empty = bool(flags & AT_EMPTY_PATH)
    changing(call, directory, address, _owner(uid, gid), follow=follow, empty=empty)


def handle_truncate(call: Call) -> None:
    """truncate(path, length)."""
    address, length = call.arguments[:2]
    changing(call, AT_FDCWD, address, _size(length), follow=True)


def handle_utime(call: Call) -> None:
    """utime(path, {access, modification} in seconds)."""
    address, buffer = call.arguments[:2]
    stamps = None
    if buffer:
        access, modification = _OLD_TIMES.unpack(call.read(buffer, _OLD_TIMES.size))
        stamps = (access, 0, modification, 0)
    changing(call, AT_FDCWD, address, _times(stamps), follow=True)


def handle_utimes(call: Call) -> None:
    """utimes(path, two of {seconds, microseconds})."""
    address, buffer = call.arguments[:2]
    changing(call, AT_FDCWD, address, _times(_microseconds(call, buffer)), follow=True)


def handle_futimesat(call: Call) -> None:
    """futimesat(directory, path, two of {seconds, microseconds})."""
    directory, address, buffer = call.arguments[:3]
    stamps = _microseconds(call, buffer)
    changing(call, directory, address, _times(stamps), follow=True)


def _microseconds(call: Call, buffer: int) -> tuple[int, int, int, int] | None:
    if not buffer:
        return None
    seconds_a, micro_a, seconds_m, micro_m = _TIMES.unpack(call.read(buffer, _TIMES.size))
    if not (0 <= micro_a < 1_000_000 and 0 <= micro_m < 1_000_000):
        raise OSError(errno.EINVAL, "microseconds")
    return seconds_a, micro_a * 1000, seconds_m, micro_m * 1000


def handle_utimensat(call: Call) -> None:
    """utimensat(directory, path, two of {seconds, nanoseconds}, flags)."""
    directory, address, buffer, flags = call.arguments[:4]
    stamps = None
    if buffer:
        access, access_part, change, change_part = _TIMES.unpack(call.read(buffer, _TIMES.size))
        stamps = (access, access_part, change, change_part)
    follow = not flags & AT_SYMLINK_NOFOLLOW
    empty = bool(flags & AT_EMPTY_PATH)
    changing(call, directory, address, _times(stamps), follow=follow, empty=empty)


def attribute_change(*, at: bool, follow: bool = True) -> Handler:
    """setxattr, removexattr and their kin; with `at` they begin with a descriptor, flags third."""

    def handle(call: Call) -> None:
        if not at:
            changing(call, AT_FDCWD, call.arguments[0], _no_attributes, follow=follow)
            return
        directory, address, flags = call.arguments[:3]
        changing(
            call,
            directory,
            address,
            _no_attributes,
            follow=not flags & AT_SYMLINK_NOFOLLOW,
            empty=bool(flags & AT_EMPTY_PATH),
        )

    return handle


def file_attributes(call: Call) -> None:
    """file_setattr(directory, path, buffer, size, flags)."""
    directory, address, _, _, flags = call.arguments[:5]
    changing(
        call,
        directory,
        address,
        _no_attributes,
        follow=not flags & AT_SYMLINK_NOFOLLOW,
        empty=bool(flags & AT_EMPTY_PATH),
    )
