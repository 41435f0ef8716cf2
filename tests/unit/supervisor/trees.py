"""A disk and a namespace in memory, for tests of the walk."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from crannog.runtime.supervisor.namespace import Namespace, Owner
from crannog.runtime.supervisor.world import InjectedFile, World
from crannog.shield.fspf import Fspf
from crannog.shield.model import Protection, Region
from crannog.testing.protection import protect

DIRECTORY = None
FILE = b""


class FakeDisk:
    """Paths to None (a directory), b"" (a file) or a link's target."""

    def __init__(
        self,
        entries: Mapping[bytes, bytes | None],
        handed_out: Mapping[bytes, bytes] | None = None,
        handed_out_files: Mapping[bytes, bytes] | None = None,
    ) -> None:
        self.entries: dict[bytes, bytes | None] = {b"/": DIRECTORY, **entries}
        self.handed_out = dict(handed_out or {})
        self.handed_out_files = dict(handed_out_files or {})
        self.looked_at: list[bytes] = []

    def read_link(self, path: bytes) -> bytes:
        self.looked_at.append(path)
        real, rest = self._real(path)
        if rest is not None:
            raise OSError(rest, "fake")
        target = self.entries[real]
        if not target:
            raise OSError(errno.EINVAL, "fake")
        return target

    def is_directory(self, path: bytes) -> bool:
        real, error = self._real(path, follow=True)
        return error is None and self.entries[real] is DIRECTORY

    def virtual_directory(self, path: bytes) -> bytes | None:
        return self.handed_out.get(path)

    def virtual_file(self, path: bytes) -> bytes | None:
        return self.handed_out_files.get(path)

    def _real(self, path: bytes, follow: bool = False, depth: int = 0) -> tuple[bytes, int | None]:
        if depth > 40:
            return path, errno.ELOOP
        here = b"/"
        parts = [part for part in path.split(b"/") if part]
        for index, part in enumerate(parts):
            if part == b"..":
                here = here.rpartition(b"/")[0] or b"/"
                continue
            if self.entries.get(here, FILE) is not DIRECTORY:
                return here, errno.ENOTDIR
            new = here.rstrip(b"/") + b"/" + part
            if new not in self.entries:
                return new, errno.ENOENT
            target = self.entries[new]
            last = index == len(parts) - 1
            if target and (not last or follow):
                rest = b"/".join(parts[index + 1 :])
                base = target if target.startswith(b"/") else here + b"/" + target
                return self._real(base + b"/" + rest, follow, depth + 1)
            here = new
        return here, None


def fspf(
    files: Mapping[bytes, bytes],
    *,
    links: Mapping[bytes, bytes] | None = None,
    region: bytes = b"/app",
    kernel: bytes | None = None,
) -> Fspf:
    regions = (
        Region(b"/", Protection.NOT_PROTECTED, b"/", 0),
        Region(region, Protection.ENCRYPTED, kernel or region),
    )
    return protect(files, links=links, regions=regions).open()


def namespace(
    opened: Fspf | None = None,
    injected: tuple[bytes, ...] = (),
    real: Mapping[bytes, bytes] | None = None,
) -> Namespace:
    files = tuple(InjectedFile(path, b"content") for path in injected)
    places = dict(real or {})
    return Namespace(
        World(fspf=opened, files=files), Owner(0, 0, 0), lambda path: places.get(path, path)
    )
