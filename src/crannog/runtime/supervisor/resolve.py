"""From the path that a program gives to what it means, component by component.

The walk goes over the disk where nothing covers it and over the namespace where something does.
Once inside a region, names, types and link targets come only from the fspf: the disk is not looked
at there, so neither a link in a directory's place nor a missing or an added name counts.

What the walk decides about the disk outside is only whether the path leads into something virtual.
If not, the kernel walks again by itself (`Found.through` is False), and somebody who changes the
disk in between gets what he could have put there anyway.
"""

from __future__ import annotations

import enum
import errno
import os
import re
import time
from collections.abc import Callable
from typing import NamedTuple, Protocol

from crannog.runtime.supervisor.namespace import Namespace, Place
from crannog.shield.model import Entry, FileEntry, LinkEntry
from crannog.shield.paths import NAME_MAX, join

MAX_LINKS = 40  # the kernel's MAXSYMLINKS
_MAX_REMEMBERED = 65536
SETTLING_SECONDS = 0.05

_MAGIC_LINK = rb"/proc/[0-9]+(?:/task/[0-9]+)?/(?:cwd|root|exe|fd/[0-9]+|map_files/[^/]+|ns/[^/]+)"


def is_magic_link(path: bytes) -> bool:
    """Whether a canonical path below /proc stands for an object, whatever its text says."""
    return re.fullmatch(_MAGIC_LINK, path) is not None


class Where(enum.Enum):
    """What a path was found to be."""

    DISK = 0
    FILE = 1
    DIRECTORY = 2
    LINK = 3
    INJECTED = 4
    MISSING = 5


class Found:
    """The end of a walk. Compared by identity: what is remembered about one is kept beside it.

    Attributes:
        where: the kind of object. MISSING: its directory is virtual and it is not there.
        path: canonical; on DISK as far as the walk had to go, which may not be to the end.
        entry: what the fspf says, for FILE, DIRECTORY and LINK.
        through: whether something virtual was passed, so that the kernel must not walk by itself.
        passed: directories that the caller must be allowed to search, first to last.
    """

    __slots__ = ("entry", "passed", "path", "through", "where")

    def __init__(
        self,
        where: Where,
        path: bytes,
        entry: Entry | None = None,
        through: bool = True,
        passed: tuple[bytes, ...] = (),
    ) -> None:
        self.where = where
        self.path = path
        self.entry = entry
        self.through = through
        self.passed = passed

    def __repr__(self) -> str:
        """For tests and debugging."""
        return f"Found({self.where.name}, {self.path!r}, through={self.through})"


class Disk(Protocol):
    """What the walk asks the disk; paths are absolute."""

    def read_link(self, path: bytes) -> bytes:
        """The target; OSError(EINVAL) where it is no link."""

    def is_directory(self, path: bytes) -> bool:
        """Whether it is one, links followed; False where it is not there."""

    def virtual_directory(self, path: bytes) -> bytes | None:
        """The virtual path of what a magic link stands for, where it was given out by us."""

    def virtual_file(self, path: bytes) -> bytes | None:
        """Likewise, of a protected file."""


class RealDisk:
    """The disk itself.

    Args:
        directories: the identities of directories that were given out.
        file: finds the path of a protected file by device and inode.
    """

    __slots__ = ("_directories", "_file")

    def __init__(
        self,
        directories: dict[tuple[int, int], bytes],
        file: Callable[[int, int], bytes | None],
    ) -> None:
        self._directories = directories
        self._file = file

    def read_link(self, path: bytes) -> bytes:
        """See `Disk`."""
        return os.readlink(path)

    def is_directory(self, path: bytes) -> bool:
        """See `Disk`."""
        return os.path.isdir(path)

    def virtual_directory(self, path: bytes) -> bytes | None:
        """See `Disk`."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return self._directories.get((found.st_dev, found.st_ino))

    def virtual_file(self, path: bytes) -> bytes | None:
        """See `Disk`."""
        try:
            found = os.stat(path)
        except OSError:
            return None
        return self._file(found.st_dev, found.st_ino)


class Caller(NamedTuple):
    """What a walk has to know about who asks: what `/proc/self` is, and where `/` is."""

    process: int
    tid: int
    root: bytes = b"/"


class Restrictions(NamedTuple):
    """The `resolve` flags of openat2(2), as far as the walk itself enforces them."""

    no_crossing: bool = False
    no_magic_links: bool = False
    no_links: bool = False
    beneath: bool = False


UNRESTRICTED = Restrictions()


class Resolver:
    """Walks paths; remembers where absolute ones led. Safe from several threads.

    Args:
        namespace: what covers the disk.
        disk: the rest.
    """

    __slots__ = ("_disk", "_fixed", "_passing", "_plain", "_settled", "namespace")

    def __init__(self, namespace: Namespace, disk: Disk) -> None:
        self.namespace = namespace
        self._disk = disk
        # Led through nothing but virtual names: true for ever. Led over the disk: until the
        # program makes or moves a name (`forget`). What others do to the disk meanwhile cannot
        # make a virtual object of a path that was not, nor the other way round to any gain.
        self._fixed: dict[tuple[bytes, bool], Found] = {}
        self._passing: dict[tuple[bytes, bool], Found] = {}
        self._settled = 0.0
        self._plain: set[bytes] = set()  # directories on disk that are no links

    def forget(self, now: float) -> None:
        """Names on the disk are about to change: forget what depended on them.

        The change itself comes after the notification; so for a moment nothing is remembered.

        Args:
            now: seconds of the monotonic clock.
        """
        self._settled = now + SETTLING_SECONDS
        self._passing.clear()
        self._plain.clear()

    def known(self, path: bytes, follow: bool) -> Found | None:
        """Where an absolute path of a caller whose root is `/` led before."""
        key = (path, follow)
        return self._fixed.get(key) or self._passing.get(key)

    def resolve(
        self,
        start: bytes,
        path: bytes,
        caller: Caller,
        *,
        follow: bool = True,
        restrictions: Restrictions = UNRESTRICTED,
    ) -> Found:
        """Walk `path` from the canonical directory `start`.

        Args:
            start: where a relative path begins.
            path: as the program gave it.
            caller: who asks.
            follow: whether a link at the end is followed.
            restrictions: of openat2.

        Raises:
            OSError: ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG or EXDEV, where that is certain. Where it
                is the disk's to say the result is DISK, and the kernel says it.
        """
        if not path:
            raise OSError(errno.ENOENT, "empty path")
        walk = _Walk(self.namespace, self._disk, self._plain, start, caller, restrictions)
        found = walk.run(path, follow)
        if (
            path[0] == 0x2F
            and caller.root == b"/"
            and restrictions is UNRESTRICTED
            and not walk.personal
        ):
            self._remember((path, follow), found, walk.on_disk)
        return found

    def _remember(self, key: tuple[bytes, bool], found: Found, on_disk: bool) -> None:
        memory = self._fixed
        if on_disk or found.where is Where.DISK:
            if time.monotonic() < self._settled:
                self._plain.clear()
                return
            memory = self._passing
        if len(memory) >= _MAX_REMEMBERED:
            memory.clear()
        memory[key] = found


class _Walk:
    """One walk. `here` is the canonical directory reached; `covered` whether it is virtual."""

    __slots__ = (
        "_caller",
        "_disk",
        "_links",
        "_namespace",
        "_passed",
        "_pending",
        "_plain",
        "_restrictions",
        "_start",
        "covered",
        "here",
        "on_disk",
        "personal",
        "through",
    )

    def __init__(
        self,
        namespace: Namespace,
        disk: Disk,
        plain: set[bytes],
        start: bytes,
        caller: Caller,
        restrictions: Restrictions,
    ) -> None:
        self._namespace = namespace
        self._disk = disk
        self._caller = caller
        self._restrictions = restrictions
        self._start = start
        self._links = 0
        self._passed: list[bytes] = []
        self._pending: list[bytes] = []
        self._plain = plain
        self.here = start
        self.covered = self._is_covered(start)
        self.through = False
        self.on_disk = False
        self.personal = False

    def _is_covered(self, path: bytes) -> bool:
        if self._namespace.place(path) is not Place.DISK:
            return True
        return self._namespace.leads(path) and not self._disk.is_directory(path)

    def run(self, path: bytes, follow: bool) -> Found:
        # The kernel's own walk would begin at our stand-in for the directory.
        self.through = self.covered and path[0] != 0x2F
        self._push(path)
        pending = self._pending
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                self._up()
                continue
            if len(name) > NAME_MAX:
                raise OSError(errno.ENAMETOOLONG, "name too long")
            # A trailing slash leaves an empty component: a link is followed then, and what is
            # there has to be a directory.
            found = self._enter(name, last=not pending, follow=follow)
            if found is not None:
                return found
        return self._directory()

    def _directory(self) -> Found:
        if self.covered:
            entry = self._namespace.entry(self.here)
            return self._found(Where.DIRECTORY, self.here, entry)
        return self._found(Where.DISK, self.here)

    def _found(self, where: Where, path: bytes, entry: Entry | None = None) -> Found:
        through = self.through or where is not Where.DISK
        return Found(where, path, entry, through, tuple(self._passed))

    def _push(self, path: bytes) -> None:
        """Put the components of a path, or of a link's target, before what is left."""
        if path[0] == 0x2F:
            if self._restrictions.beneath:
                raise OSError(errno.EXDEV, "path leaves its directory")
            self._move(self._caller.root)
            path = self._skip_to_point(path)
        self._pending += reversed(path.split(b"/"))

    def _skip_to_point(self, path: bytes) -> bytes:
        """Regions and injected files are found by their literal path whatever is on disk."""
        if self._caller.root != b"/" or self._restrictions.no_crossing:
            return path
        names: list[bytes] = []
        for name in path.split(b"/"):
            if name == b"..":
                break
            if name not in (b"", b"."):
                names.append(name)
        point = self._namespace.longest_point(b"/" + b"/".join(names))
        if point is None or point == b"/":
            return path
        depth = point.count(b"/")
        for index in range(depth - 1):
            self._passed.append(b"/" + b"/".join(names[:index]))
        above = b"/" + b"/".join(names[: depth - 1])
        self.here = above
        self.covered = True  # what lies beside the point is not asked for
        rest = path
        for _ in range(depth - 1):
            rest = rest.lstrip(b"/")
            while rest.startswith(b"./"):
                rest = rest[2:].lstrip(b"/")
            rest = rest.partition(b"/")[2]
        return rest.lstrip(b"/")

    def _move(self, directory: bytes) -> None:
        covered = self._is_covered(directory)
        if self._restrictions.no_crossing and covered != self.covered:
            raise OSError(errno.EXDEV, "path crosses a region's border")
        self.here = directory
        self.covered = covered

    def _up(self) -> None:
        if self._restrictions.beneath and self.here == self._start:
            raise OSError(errno.EXDEV, "path leaves its directory")
        if self.here == self._caller.root:
            return
        if not self.covered and not self._disk.is_directory(self.here):
            # Not left to the kernel: by then something may be there whose parent is elsewhere.
            try:
                self._disk.read_link(self.here)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            raise OSError(errno.ENOTDIR, "not a directory")
        self._passed.append(self.here)
        above = self._namespace.parent(self.here)
        if self.covered:
            self.through = True
        self._move(above)

    def _enter(self, name: bytes, *, last: bool, follow: bool) -> Found | None:
        """Step into `name`; returns the end of the walk, or None to go on from `here`."""
        namespace = self._namespace
        self._passed.append(self.here)
        path = join(self.here, name)
        point = namespace.point_of(path)
        if point is not None:
            path = point
        place = namespace.place(path)
        if place is not Place.DISK:
            if self._restrictions.no_crossing and not self.covered:
                raise OSError(errno.EXDEV, "path crosses a region's border")
            self.through = True
            if place is Place.INJECTED:
                return self._end(Where.INJECTED, path, None, last)
            return self._enter_protected(path, last=last, follow=follow)
        if self.covered and self._restrictions.no_crossing:
            raise OSError(errno.EXDEV, "path crosses a region's border")
        return self._enter_disk(path, last=last, follow=follow)

    def _end(self, where: Where, path: bytes, entry: Entry | None, last: bool) -> Found:
        if not last:
            raise OSError(errno.ENOTDIR, "not a directory")
        return self._found(where, path, entry)

    def _enter_protected(self, path: bytes, *, last: bool, follow: bool) -> Found | None:
        entry = self._namespace.entry(path)
        if entry is None:
            if any(name not in (b"", b".") for name in self._pending):
                raise OSError(errno.ENOENT, "no such file or directory")
            self._pending.clear()
            return self._found(Where.MISSING, path)
        if isinstance(entry, FileEntry):
            return self._end(Where.FILE, path, entry, last)
        if isinstance(entry, LinkEntry):
            if last and not follow:
                return self._found(Where.LINK, path, entry)
            self._follow(entry.target)
            return None
        self.here = path
        self.covered = True
        return None

    def _enter_disk(self, path: bytes, *, last: bool, follow: bool) -> Found | None:
        if path.startswith(b"/proc/"):
            handled, found = self._enter_proc(path, last=last, follow=follow)
            if handled:
                return found
        self.on_disk = True
        if not last and path in self._plain:
            self.here = path
            self.covered = False
            return None
        try:
            target = self._disk.read_link(path)
        except OSError as error:
            return self._not_a_link(path, error.errno or 0)
        if last and not follow:
            return self._found(Where.DISK, path)
        self.covered = False
        self._follow(target)
        return None

    def _not_a_link(self, path: bytes, number: int) -> Found | None:
        if number == errno.EINVAL:
            if self._pending:
                self._plain.add(path)
            self.here = path
            self.covered = False
            return None
        if number == errno.ENOENT and self._namespace.leads(path):
            if self._restrictions.no_crossing and not self.covered:
                raise OSError(errno.EXDEV, "path crosses a border")
            self.here = path
            self.covered = True
            self.through = True
            return None
        if number in (errno.ENAMETOOLONG, errno.ELOOP):
            raise OSError(number, os.strerror(number))
        if b".." in self._pending:
            raise OSError(number, os.strerror(number))
        # Not there, or not ours to look at: what the kernel will say is what counts.
        rest = b"/".join(reversed(self._pending))
        self._pending.clear()
        return self._found(Where.DISK, join(path, rest) if rest else path)

    def _follow(self, target: bytes) -> None:
        self._links += 1
        if self._restrictions.no_links or self._links > MAX_LINKS:
            raise OSError(errno.ELOOP, "too many symbolic links")
        if not target:
            raise OSError(errno.ENOENT, "empty link")
        self._push(target)

    def _enter_proc(self, path: bytes, *, last: bool, follow: bool) -> tuple[bool, Found | None]:
        """Names in `/proc` that stand for something else, depending on who asks."""
        self.personal = True
        caller = self._caller
        if path in (b"/proc/self", b"/proc/thread-self"):
            if last and not follow:
                return True, self._found(Where.DISK, path)
            own = b"%d" % caller.process
            if path == b"/proc/thread-self":
                own += b"/task/%d" % caller.tid
            self._follow(own)
            return True, None
        if (last and not follow) or not is_magic_link(path):
            return False, None
        self._links += 1
        if self._restrictions.no_links or self._restrictions.no_magic_links:
            raise OSError(errno.ELOOP, "magic link")
        is_own = path.split(b"/", 3)[2] in (b"%d" % caller.process, b"%d" % caller.tid)
        virtual = self._disk.virtual_directory(path)
        if virtual is not None:
            self.through = True
            if is_own:
                self._move(virtual)
            else:
                self._push_from_root(virtual)
            return True, None
        file = self._disk.virtual_file(path)
        if file is not None and not is_own:
            # What another process has open, ourselves included, gives no right to this one.
            self.through = True
            self._push_from_root(file)
            return True, None
        if file is not None:
            # The kernel would open it by its descriptor, even for writing.
            self._passed.clear()
            entry = self._namespace.entry(file)
            return True, self._end(Where.FILE, file, entry, last)
        return True, self._enter_magic(path, last=last)

    def _enter_magic(self, path: bytes, *, last: bool) -> Found | None:
        try:
            target = self._disk.read_link(path)
        except OSError as error:
            return self._not_a_link(path, error.errno or 0)
        if not target.startswith(b"/") or target.endswith(b" (deleted)"):
            # A pipe, a socket, a file without a name: it is what it is.
            return self._found(Where.DISK, path)
        # The kernel's name of an object: absolute in our root, without links.
        self._push_from_root(target)
        return None

    def _push_from_root(self, target: bytes) -> None:
        root, caller = self._caller.root, self._caller
        self._caller = caller._replace(root=b"/")
        try:
            self._push(target)
        finally:
            self._caller = caller._replace(root=root)
