"""Files read through a handle on a root directory, so that no link leads out of it.

Decides how a path of the measured system becomes bytes: resolved as if the root handle were `/`,
regular files only, opened without side effects. Leaves to its callers which paths matter.

The kernel resolves with `openat2(RESOLVE_IN_ROOT)` where it can. Where it cannot (a seccomp profile
older than the call answers EPERM, an older kernel ENOSYS) every component is opened by itself
without following links, and links are resolved here against the root: slower, not weaker.

*Absent* means that nothing is there for anybody. A link that leads nowhere for us may lead
somewhere for the program that is measured (`/proc/self/root/...`, `/proc/7/cwd/...`), and a FIFO
holds what somebody puts in; such a path is refused, or it would count as absent and yet be read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterable
from typing import NamedTuple

from crannog.errors import Error, Misconfigured, TooLarge, Unavailable

_SYS_OPENAT2 = 437  # the same number on every architecture (asm-generic/unistd.h)
_RESOLVE_NO_XDEV = 0x01
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_NO_SYMLINKS = 0x04
_RESOLVE_IN_ROOT = 0x10
_SMALL = 1 << 16
_RENAMES = 16  # beside us, before we give up
_MAX_LINKS = 40  # MAXSYMLINKS of the kernel
_HANDLE = os.O_PATH | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK

_NULL_DEVICE = os.makedev(1, 3)  # on every Linux

# What a missing component makes of a lookup; everything else is an error.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


class _OpenHow(ctypes.Structure):
    """`struct open_how` of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


class FileIdentity(NamedTuple):
    """Which file it was, and in which state: any write to it changes the last two or three."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int


class FileDigest(NamedTuple):
    """SHA-256 of a file, and which file that was."""

    digest: bytes
    identity: FileIdentity


_syscall = ctypes.CDLL(None, use_errno=True).syscall


class Root:
    """A root directory held open. Paths are absolute, as seen from inside it.

    Args:
        directory: where the root is; `/` for the system the launcher itself runs in.
        resolve_here: do not ask the kernel, resolve component by component (tests compare both).
    """

    def __init__(self, directory: str = "/", *, resolve_here: bool = False) -> None:
        try:
            self._root = os.open(directory, _HANDLE | os.O_DIRECTORY)
        except OSError as error:
            raise Misconfigured(
                f"root directory {directory!r} cannot be opened: {error.strerror}"
            ) from error
        self._here = resolve_here
        self._digests: dict[FileIdentity, bytes] = {}

    def close(self) -> None:
        """Let the handle go."""
        os.close(self._root)

    def __enter__(self) -> Root:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def handle(self, path: str) -> int | None:
        """An O_PATH descriptor of what `path` leads to, links followed; None where it is absent.

        Raises:
            Misconfigured: a link on the way leads nowhere, in a circle or through `/proc`'s links;
                or the path may not be looked at.
        """
        try:
            return self._resolve(path)
        except OSError as error:
            self._check_absent(path, error)
            return None

    def open_regular(self, path: str) -> int | None:
        """A readable, close-on-exec descriptor of the regular file at `path`.

        None where nothing is there, and for a directory and `/dev/null`, which hold nothing that a
        loader would take.

        Raises:
            Misconfigured: it may not be read, since what cannot be read cannot be measured; or it
                is a FIFO, a socket or a device, whose content is not the image's.
        """
        handle = self.handle(path)
        if handle is None:
            return None
        try:
            status = os.fstat(handle)
            if stat.S_ISDIR(status.st_mode) or status.st_rdev == _NULL_DEVICE:
                return None
            if not stat.S_ISREG(status.st_mode):
                raise Misconfigured(
                    f"{path}: is neither a file nor a directory, so it cannot be measured",
                    hint="remove it from the image",
                )
            # Only now for reading: opening a device or a FIFO by mistake would have effects.
            return os.open(f"/proc/self/fd/{handle}", _READ)
        except FileNotFoundError as error:
            raise Unavailable(
                f"{path}: cannot be opened for reading, since /proc is not mounted"
            ) from error
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(handle)

    def is_regular(self, path: str) -> bool:
        """Whether a regular file is at `path`, links followed."""
        handle = self.handle(path)
        if handle is None:
            return False
        try:
            return stat.S_ISREG(os.fstat(handle).st_mode)
        finally:
            os.close(handle)

    def is_directory(self, path: str) -> bool:
        """Whether a directory is at `path`, links followed."""
        handle = self.handle(path)
        if handle is None:
            return False
        try:
            return stat.S_ISDIR(os.fstat(handle).st_mode)
        finally:
            os.close(handle)

    def canonical(self, path: str) -> str | None:
        """The path without links of what `path` leads to, as seen from inside; None where absent.

        Found by resolving, not by asking the kernel for a name, so that it is inside the root.
        """
        try:
            handle, names = self._walk(path)
        except OSError as error:
            self._check_absent(path, error)
            return None
        os.close(handle)
        return "/" + "/".join(names)

    def leaves_mount(self, path: str) -> bool:
        """Whether the way to `path`, links included, leaves the mount that the root lies on.

        A path where nothing is counts by the way to where it ends. True also where that cannot be
        known: the kernel's answer is the only one, since a device number does not tell mounts of
        one file system apart. A relative path, a name that led nowhere, does not.
        """
        if not path.startswith("/"):
            return False
        how = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV
        for _ in range(_RENAMES):
            found, code = self._openat2(path, how)
            if found >= 0:
                os.close(found)
                return False
            if code != errno.EAGAIN:
                return code not in _ABSENT
        return True

    def names(self, path: str) -> tuple[str, ...]:
        """The sorted names in the directory at `path`; empty where there is none."""
        handle = self.handle(path)
        if handle is None:
            return ()
        try:
            if not stat.S_ISDIR(os.fstat(handle).st_mode):
                return ()
            return tuple(sorted(os.listdir(f"/proc/self/fd/{handle}")))
        except OSError as error:
            raise _unreadable(path, error) from error
        finally:
            os.close(handle)

    def read(self, path: str, *, limit: int) -> bytes | None:
        """The bytes of the regular file at `path`; `TooLarge` for more than `limit`."""
        descriptor = self.open_regular(path)
        if descriptor is None:
            return None
        try:
            return _read_open(descriptor, path, limit)
        finally:
            os.close(descriptor)

    def read_digested(self, path: str, *, limit: int) -> bytes | None:
        """As `read`; the digest of these same bytes is what `digest` then knows of the file."""
        descriptor = self.open_regular(path)
        if descriptor is None:
            return None
        try:
            from hashlib import sha256

            before = identify(descriptor)
            data = _read_open(descriptor, path, limit)
            if identify(descriptor) == before and len(data) == before.size:
                self._digests[before] = sha256(data).digest()
            return data
        finally:
            os.close(descriptor)

    def digest(self, path: str) -> FileDigest | None:
        """SHA-256 of the regular file at `path`, None where there is none; each inode read once."""
        if not path.startswith("/"):
            return None  # a name that led nowhere, kept as such in the list
        descriptor = self.open_regular(path)
        if descriptor is None:
            return None
        try:
            return self.digest_open(descriptor, path)
        finally:
            os.close(descriptor)

    def digests(self, paths: Iterable[str]) -> dict[str, FileDigest | None]:
        """As `digest` for each of `paths`, on as many processors as there are for us, up to four.

        Raises:
            Misconfigured: as `digest`, for the first in order that fails.
        """
        import hashlib  # noqa: F401 (here, and not at once in every thread)
        import threading

        queue = list(dict.fromkeys(paths))
        found: dict[str, FileDigest | None] = {}
        failed: dict[int, Error] = {}
        turn = iter(range(len(queue)))

        def work() -> None:
            for position in turn:  # next() of one iterator is atomic under the interpreter's lock
                try:
                    found[queue[position]] = self.digest(queue[position])
                except Error as error:
                    failed[position] = error

        helpers = min(4, len(os.sched_getaffinity(0)), len(queue)) - 1
        threads: list[threading.Thread] = []
        for _ in range(helpers):
            thread = threading.Thread(target=work)
            try:
                thread.start()
            except RuntimeError:  # the system allows no further one: without it then
                break
            threads.append(thread)
        work()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[min(failed)]
        return {path: found[path] for path in queue}

    def digest_open(self, descriptor: int, path: str) -> FileDigest:
        """SHA-256 of an open file, from its start; `path` names it in errors.

        Raises:
            Misconfigured: the file changed while it was read.
        """
        identity = identify(descriptor)
        found = self._digests.get(identity)
        if found is None:
            try:
                found = _sha256(descriptor, identity.size)
            except OSError as error:
                raise _unreadable(path, error) from error
            if identify(descriptor) != identity:
                raise Misconfigured(f"{path}: changed while it was measured")
            self._digests[identity] = found
        return FileDigest(found, identity)

    def _check_absent(self, path: str, error: OSError) -> None:
        """Return where nothing is at `path` for anybody; refuse otherwise."""
        if error.errno == errno.ELOOP:
            raise _leads_astray(path, "in a circle, or through the links of /proc") from error
        if error.errno not in _ABSENT:
            raise _unreadable(path, error) from error
        if error.errno != errno.ENAMETOOLONG and not self._is_plainly_absent(path):
            try:
                os.close(self._walk(path)[0])
            except _Dangling as dangling:
                raise _leads_astray(path, "nowhere") from dangling
            except OSError:
                return  # the missing part is the path's own
            # It has come into being meanwhile.
            raise Misconfigured(f"{path}: changed while it was measured")

    def _is_plainly_absent(self, path: str) -> bool:
        """Whether no link was met before something was missing; False where that is not known."""
        if self._here:
            return False
        found, code = self._openat2(path, _RESOLVE_IN_ROOT | _RESOLVE_NO_SYMLINKS)
        if found >= 0:
            os.close(found)
        return code in _ABSENT

    def _resolve(self, path: str) -> int:
        if not self._here:
            found, code = self._openat2(path, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
            if found >= 0:
                return found
            if code == errno.EAGAIN:  # a rename beside us made the kernel give up; walk instead
                return self._walk(path)[0]
            if code not in (errno.ENOSYS, errno.EPERM, errno.EINVAL):
                raise OSError(code, os.strerror(code))
            self._here = True
        return self._walk(path)[0]

    def _openat2(self, path: str, resolve: int) -> tuple[int, int]:
        """An O_PATH handle, or -1 and the error's number."""
        how = _OpenHow(_HANDLE, 0, resolve)
        found = _syscall(
            _SYS_OPENAT2,
            ctypes.c_int(self._root),
            os.fsencode(path),
            ctypes.byref(how),
            ctypes.c_size_t(ctypes.sizeof(how)),
        )
        return int(found), ctypes.get_errno() if found < 0 else 0

    def _walk(self, path: str) -> tuple[int, list[str]]:
        """Resolve component by component; returns an O_PATH handle and the canonical names.

        `..` goes to the directory that was really passed through, which is held open, and stays at
        the root there, as with RESOLVE_IN_ROOT. A link is its text, resolved inside the root; the
        magic ones, which lead elsewhere for another process, are refused as the kernel does.

        Raises:
            OSError: as the kernel would; `_Dangling` where what is missing was named by a link.
        """
        if "\0" in path:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        left = path.split("/")[::-1]
        own = len(left)  # how many of them are the path's own, and not a link's
        held: list[tuple[str, int]] = []
        links = 0
        try:
            while left:
                name = left.pop()
                linked = len(left) >= own
                own = min(own, len(left))
                if name in ("", "."):
                    continue
                if name == "..":
                    if held:
                        os.close(held.pop()[1])
                    continue
                above = held[-1][1] if held else self._root
                try:
                    found = os.open(name, _HANDLE | os.O_NOFOLLOW, dir_fd=above)
                except FileNotFoundError as error:
                    if linked:
                        raise _Dangling(errno.ENOENT, os.strerror(errno.ENOENT)) from error
                    raise
                try:
                    is_link = stat.S_ISLNK(os.fstat(found).st_mode)
                    target = os.readlink("", dir_fd=found) if is_link else ""
                except BaseException:
                    os.close(found)
                    raise
                if not is_link:
                    held.append((name, found))
                    continue
                os.close(found)
                links += 1
                if links > _MAX_LINKS or _is_magic(held):
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                if target.startswith("/"):
                    while held:
                        os.close(held.pop()[1])
                left.extend(target.split("/")[::-1])
            names = [name for name, _ in held]
            if path.endswith("/") and held:  # a trailing slash asks for a directory
                status = os.fstat(held[-1][1])
                if not stat.S_ISDIR(status.st_mode):
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            result = held.pop()[1] if held else os.dup(self._root)
            os.set_inheritable(result, False)
            return result, names
        finally:
            for _, descriptor in held:
                os.close(descriptor)


def identify(descriptor: int) -> FileIdentity:
    """Which file an open descriptor is of, and its state now."""
    status = os.fstat(descriptor)
    return FileIdentity(
        status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    )


def _sha256(descriptor: int, size: int) -> bytes:
    import hashlib

    os.lseek(descriptor, 0, os.SEEK_SET)
    if size <= _SMALL:
        # Until the end and not until `size`: /proc and a growing file say less than they hold.
        digest = hashlib.sha256()
        while data := os.read(descriptor, _SMALL + 1):
            digest.update(data)
        return digest.digest()
    with os.fdopen(descriptor, "rb", buffering=0, closefd=False) as file:
        return hashlib.file_digest(file, "sha256").digest()


def _read_open(descriptor: int, path: str, limit: int) -> bytes:
    try:
        size = os.fstat(descriptor).st_size
        if size > limit:
            raise TooLarge(f"{path} has {size} bytes, expected at most {limit}")
        # In one piece where it is what it says; /proc and a growing file are not.
        parts = [os.read(descriptor, size + 1)]
        length = len(parts[0])
        while parts[-1] and length <= limit:
            parts.append(os.read(descriptor, min(_SMALL, limit + 1 - length)))
            length += len(parts[-1])
    except OSError as error:
        raise _unreadable(path, error) from error
    if length > limit:
        raise TooLarge(f"{path} has more than {limit} bytes")
    return parts[0] if len(parts[0]) == length else b"".join(parts)


def _is_magic(held: list[tuple[str, int]]) -> bool:
    """Whether a link in the directory passed last is one of a process's entry in `/proc`."""
    return len(held) > 1 and held[0][0] == "proc" and held[1][0].isdecimal()


class _Dangling(FileNotFoundError):
    """A link's target is missing. Never leaves this module."""


def _leads_astray(path: str, where: str) -> Misconfigured:
    return Misconfigured(
        f"{path}: a link on the way leads {where}, so what the program would find there cannot be"
        " measured",
        hint="remove the link from the image, or let it lead to a file",
    )


def _unreadable(path: str, error: OSError) -> Misconfigured:
    return Misconfigured(
        f"{path}: {(error.strerror or 'unreadable').lower()}",
        hint="what cannot be read cannot be measured; see the file's mode and owner",
    )
