"""What virtual files hold: in-memory files, filled and verified whole before anybody gets one.

One memfd per file, shared by all who open it. A protected file is decrypted once; while the program
has it open or mapped it stays, so that its inode does not change under the program. What nobody
uses any more is dropped, the longest unused first, when the bound on memory or descriptors asks for
it. Rights are not looked at here.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable

from crannog.errors import IntegrityError
from crannog.runtime.supervisor.namespace import Namespace
from crannog.runtime.supervisor.resolve import Found, Where
from crannog.shield.chunks import ChunkReader, chunk_ranges
from crannog.shield.model import CHUNK_TAG, FileEntry
from crannog.shield.paths import is_below, printable

_MFD_EXEC = 0x10  # Linux 6.3; without it the kernel logs a warning
_BLOCK = 256 * 1024  # bytes that are decrypted at a time
_PARALLEL_FROM = 8 * 1024 * 1024  # smaller files are not worth a second thread

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class MemoryFile:
    """One virtual file.

    Attributes:
        path: its canonical path.
        entry: what the fspf says of it; None for an injected file.
        descriptor: ours; to be reopened for the program through `/proc/self/fd`.
        name: that path, ready for `os.open`.
        identity: device and inode.
        status: what fstat said before the content was there.
        ready: whether its content is there, verified and sealed.
        dropped: whether `descriptor` is closed and not its any more.
    """

    __slots__ = ("descriptor", "dropped", "entry", "identity", "name", "path", "ready", "status")

    def __init__(self, path: bytes, entry: FileEntry | None, descriptor: int) -> None:
        self.path = path
        self.entry = entry
        self.ready = False
        self.dropped = False
        self.keep(descriptor)

    def keep(self, descriptor: int) -> None:
        """Go on with another descriptor of the same file."""
        self.descriptor = descriptor
        self.name = b"/proc/self/fd/%d" % descriptor
        self.status = os.fstat(descriptor)
        self.identity = (self.status.st_dev, self.status.st_ino)


class Contents:
    """All virtual files of one program. Safe to use from several threads.

    Args:
        namespace: what they are.
        memory_limit: bytes that decrypted files may take together.
        descriptor_limit: how many of them may be kept at once.
        threads: how many threads a large file is decrypted with.
        say: takes a line for the user.
    """

    def __init__(
        self,
        namespace: Namespace,
        *,
        memory_limit: int,
        descriptor_limit: int,
        threads: int,
        say: Callable[[str], None],
    ) -> None:
        self._namespace = namespace
        self._memory_limit = memory_limit
        self._descriptor_limit = descriptor_limit
        self._threads = threads
        self._say = say
        self._lock = threading.Lock()
        self._loading: dict[bytes, threading.Lock] = {}
        self._files: OrderedDict[bytes, MemoryFile] = OrderedDict()
        self._injected: dict[bytes, MemoryFile] = {}
        self._by_identity: dict[tuple[int, int], MemoryFile] = {}
        self._loaded = 0
        for path in namespace.injected:
            self._inject(path)

    def _inject(self, path: bytes) -> None:
        injected = self._namespace.injected[path]
        descriptor = new_memory_file(path)
        os.fchmod(descriptor, injected.mode & 0o7777)
        _write_all(descriptor, injected.content)
        file = MemoryFile(path, None, descriptor)
        file.ready = True
        self._injected[path] = file
        self._by_identity[file.identity] = file

    def known(self, found: Found) -> MemoryFile | None:
        """The file if its content is there; does not wait for anything."""
        if found.where is Where.INJECTED:
            return self._injected[found.path]
        file = self._files.get(found.path)
        return file if file is not None and file.ready else None

    def is_quick(self, found: Found) -> bool:
        """Whether the file is had in less time than it takes to have another thread do it.

        Only what lies in the image, so that nobody who is asked for a path waits for another: a
        volume may be served by the program itself.
        """
        entry = found.entry
        return (
            isinstance(entry, FileEntry)
            and entry.size <= _BLOCK
            and self._namespace.is_base(found.path)
        )

    def by_identity(self, device: int, inode: int) -> MemoryFile | None:
        """The virtual file of that identity, which a program may hold open."""
        return self._by_identity.get((device, inode))

    def protected_path(self, device: int, inode: int) -> bytes | None:
        """The path of the protected file of that identity, or None."""
        file = self._by_identity.get((device, inode))
        return file.path if file is not None and file.entry is not None else None

    def status(self, found: Found) -> os.stat_result:
        """What fstat says on the file, once opened. Its content is not needed for that."""
        if found.where is Where.INJECTED:
            return os.fstat(self._injected[found.path].descriptor)
        with self._lock:
            file = self._shell(found)
            # While it is filled in the file system shows times that are not the file's.
            return os.fstat(file.descriptor) if file.ready else file.status

    def open_file(self, found: Found) -> MemoryFile:
        """The file with its content; reads and verifies it where that was not done yet.

        Raises:
            IntegrityError: it is missing on disk, or is not what the fspf says.
            OSError: ENOMEM where it cannot be held.
        """
        file = self.known(found)
        if file is not None:
            return file
        with self._lock:
            own = self._loading.setdefault(found.path, threading.Lock())
        with own:
            file = self.known(found)
            if file is None:
                file = self._load(found)
        return file

    def _shell(self, found: Found) -> MemoryFile:
        """A file of the right size, mode and times without content; the lock is held."""
        file = self._files.get(found.path)
        if file is not None:
            return file
        entry = found.entry
        assert isinstance(entry, FileEntry)
        if len(self._files) >= self._descriptor_limit:
            self._drop(lambda: len(self._files) < self._descriptor_limit)
        descriptor = new_memory_file(found.path)
        os.ftruncate(descriptor, entry.size)
        _dress(descriptor, entry)
        file = MemoryFile(found.path, entry, descriptor)
        self._files[found.path] = file
        self._by_identity[file.identity] = file
        return file

    def _load(self, found: Found) -> MemoryFile:
        entry = found.entry
        assert isinstance(entry, FileEntry)
        self._make_room(found.path, entry.size)
        try:
            with self._lock:
                file = self._shell(found)
            fill(file.descriptor, entry, self._disk_path(found.path), found.path, self._threads)
            _dress(file.descriptor, entry)
            fcntl.fcntl(file.descriptor, fcntl.F_ADD_SEALS, _SEALS)
            with self._lock:
                # Without a writable descriptor of ours a lease tells whether others have it open.
                writable = file.descriptor
                file.keep(reopen(file, os.O_RDONLY))
                os.close(writable)
                file.ready = True
        except BaseException:
            with self._lock:
                self._loaded -= entry.size
            raise
        return file

    def _make_room(self, path: bytes, size: int) -> None:
        with self._lock:
            if size > self._memory_limit:
                self._say(_too_large(path, size, self._memory_limit))
                raise OSError(errno.ENOMEM, "file too large to be decrypted into memory")
            if self._loaded + size > self._memory_limit:
                self._drop(lambda: self._loaded + size <= self._memory_limit)
            if self._loaded + size > self._memory_limit:
                self._say(_too_large(path, size, self._memory_limit - self._loaded))
                raise OSError(errno.ENOMEM, "no memory left for decrypted files")
            self._loaded += size

    def _drop(self, enough: Callable[[], bool]) -> None:
        """Drop files that nobody has open, the longest unused first; the lock is held."""
        for path, file in list(self._files.items()):
            if enough():
                return
            if not file.ready:
                loading = self._loading.get(path)
                if loading is not None and loading.locked():
                    continue
            elif in_use(file):
                continue
            del self._files[path]
            file.dropped = True
            self._by_identity.pop(file.identity, None)
            if file.ready and file.entry is not None:
                self._loaded -= file.entry.size
            os.close(file.descriptor)

    def open_for(self, file: MemoryFile, flags: int) -> int:
        """A new open file description of the file: an offset of its own, the flags asked for.

        Raises:
            IntegrityError, OSError: as `open_file`, where the file had been dropped meanwhile.
        """
        while True:
            with self._lock:
                if not file.dropped:
                    if file.entry is not None:
                        self._files.move_to_end(file.path)
                    return reopen(file, flags)
            # Its descriptor's number may be another file's by now.
            file = self.open_file(Found(Where.FILE, file.path, file.entry))

    def _disk_path(self, path: bytes) -> bytes:
        region = self._namespace.region(path)
        assert region is not None
        if region.kernel_path == region.path or not is_below(path, region.path):
            return path
        rest = path[len(region.path) :].lstrip(b"/")
        return region.kernel_path.rstrip(b"/") + b"/" + rest


def new_memory_file(path: bytes) -> int:
    """An empty, executable, sealable memfd named for `path`'s last component."""
    name = os.fsdecode(path.rpartition(b"/")[2][:200]) or "file"
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(name, flags | _MFD_EXEC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)


def reopen(file: MemoryFile, flags: int) -> int:
    """Open the memfd once more, whatever its mode says about ourselves."""
    try:
        return os.open(file.name, flags | os.O_CLOEXEC)
    except PermissionError:
        # The mode is for the program. Where ours is not root's power, it stands in our way for a
        # moment; the program could not have come here if it had no right itself.
        mode = stat.S_IMODE(os.fstat(file.descriptor).st_mode)
        os.fchmod(file.descriptor, mode | 0o600)
        try:
            return os.open(file.name, flags | os.O_CLOEXEC)
        finally:
            os.fchmod(file.descriptor, mode)


def in_use(file: MemoryFile) -> bool:
    """Whether anyone but us has the file open or mapped: then no write lease is to be had."""
    try:
        fcntl.fcntl(file.descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError:
        return True
    fcntl.fcntl(file.descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _dress(descriptor: int, entry: FileEntry) -> None:
    """Give the memfd the owner, mode and times that the fspf names."""
    with contextlib.suppress(PermissionError, OSError):
        os.fchown(descriptor, entry.uid, entry.gid)
    os.fchmod(descriptor, entry.mode & 0o7777)
    os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))


def fill(descriptor: int, entry: FileEntry, disk: bytes, path: bytes, threads: int) -> None:
    """Read a file from disk, verify and decrypt it into `descriptor`, which has its size.

    The disk is read and not mapped: a mapping of a file that somebody truncates kills us.

    Raises:
        IntegrityError: missing, no regular file, of another length, or not authentic.
    """
    source = _open_source(disk, path)
    try:
        if os.fstat(source).st_size != entry.size:
            raise _refused(
                path, f"has {os.fstat(source).st_size} bytes on disk, expected {entry.size}"
            )
        if not entry.size:
            return
        _fill_parallel(source, descriptor, entry, path, threads)
    finally:
        os.close(source)


def _open_source(disk: bytes, path: bytes) -> int:
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        source = os.open(disk, flags)
    except OSError as error:
        raise _refused(
            path, f"cannot be read from {printable(disk)}: {os.strerror(error.errno or 0)}"
        ) from error
    if not stat.S_ISREG(os.fstat(source).st_mode):
        os.close(source)
        raise _refused(path, "is not a regular file on disk")
    return source


def _fill_parallel(source: int, target: int, entry: FileEntry, path: bytes, threads: int) -> None:
    parts = threads if entry.size >= _PARALLEL_FROM else 1
    ranges = list(chunk_ranges(entry, parts))
    failures: list[BaseException] = []

    def work(first: int, end: int) -> None:
        try:
            _fill_range(source, target, entry, first, end)
        except IntegrityError as error:
            failures.append(_refused(path, error.message))
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
            error.__context__ = error.__cause__ = None
            failures.append(error.with_traceback(None))

    helpers = [threading.Thread(target=work, args=part, daemon=True) for part in ranges[1:]]
    for helper in helpers:
        helper.start()
    work(*ranges[0])
    for helper in helpers:
        helper.join()
    if failures:
        raise failures[0]


def _fill_range(source: int, target: int, entry: FileEntry, first: int, end: int) -> None:
    # Through a buffer that stays in the processor's cache: written and not mapped, since a page
    # fault per page costs more than the copy.
    reader = ChunkReader(entry)
    length = entry.chunk_length
    per_block = max(1, _BLOCK // length)
    room = min(entry.size, per_block * length)
    with memoryview(bytearray(room + CHUNK_TAG)) as block, memoryview(bytearray(room)) as out:
        for start in range(first, end, per_block):
            offset = start * length
            wanted = min(entry.size, min(end, start + per_block) * length) - offset
            if os.preadv(source, [block[:wanted]], offset) != wanted:
                raise IntegrityError("the file became shorter while it was read")
            reader.read_block_into(start, block[: wanted + CHUNK_TAG], out[:wanted])
            _write_all(target, out[:wanted], offset)


def _refused(path: bytes, what: str) -> IntegrityError:
    return IntegrityError(
        f"file {printable(path)} of a protected region: {what}",
        hint="the volume or image was changed after 'fspf addf', or belongs to another fspf",
    )


def _too_large(path: bytes, size: int, room: int) -> str:
    return (
        f"file {printable(path)} has {size} bytes, but only {room} bytes of memory are"
        " there for decrypted files: raise the container's memory limit"
    )


def _write_all(descriptor: int, content: bytes | memoryview, offset: int = 0) -> None:
    with memoryview(content) as left:
        done = 0
        while done < len(left):
            done += os.pwrite(descriptor, left[done:], offset + done)


def memory_bound(limit: bytes, available: bytes) -> int:
    """Bytes for decrypted files: three quarters of the cgroup's bound, or of what is available.

    Args:
        limit: the text of the cgroup's `memory.max`; empty where there is none.
        available: the text of `/proc/meminfo`.
    """
    bounds: list[int] = []
    with contextlib.suppress(ValueError):
        bounds.append(int(limit))
    for line in available.split(b"\n"):
        if line.startswith(b"MemAvailable:"):
            with contextlib.suppress(ValueError, IndexError):
                bounds.append(int(line.split()[1]) * 1024)
    return min(bounds, default=1 << 30) * 3 // 4
