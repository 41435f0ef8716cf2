"""The walk against a plain model of mounts, on random trees."""

from __future__ import annotations

import contextlib
import errno

from hypothesis import given, settings
from hypothesis import strategies as st

from crannog.errors import Error
from crannog.linux.procfs import parse_status
from crannog.runtime.supervisor.resolve import Caller, Found, Resolver, Where
from tests.unit.supervisor.trees import DIRECTORY, FILE, FakeDisk, fspf, namespace

CALLER = Caller(process=41, tid=42)
NAMES = [b"a", b"b", b"c", b"app"]
paths = st.lists(st.sampled_from([*NAMES, b"..", b".", b""]), min_size=1, max_size=6).map(
    lambda parts: b"/".join(parts)
)
targets = st.one_of(paths.map(lambda path: b"/" + path), paths.filter(bool))
# One of three: a directory, a file, a link.
disks = st.dictionaries(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map(lambda p: b"/" + b"/".join(p)),
    st.one_of(st.just(DIRECTORY), st.just(FILE), targets),
    max_size=12,
)
FILES = {b"/app/a": b"1", b"/app/b/a": b"2", b"/app/b/c": b"3"}


def whole(disk: dict[bytes, bytes | None]) -> dict[bytes, bytes | None]:
    """Only what has a directory above it."""
    kept: dict[bytes, bytes | None] = {b"/app": DIRECTORY}
    for path in sorted(disk):
        above = path.rpartition(b"/")[0] or b"/"
        if above == b"/" or kept.get(above, FILE) is DIRECTORY:
            kept[path] = disk[path]
    return kept


def model(
    disk: dict[bytes, bytes | None], region: dict[bytes, bytes | None], path: bytes
) -> tuple[bytes, str] | int:
    """Where a path leads when `region` is mounted over `disk` at /app: a path and whose it is."""
    tree = {place: kind for place, kind in disk.items() if not (place + b"/").startswith(b"/app/")}
    tree |= region
    tree[b"/"] = DIRECTORY
    here, links = b"/", 0
    pending = list(reversed(path.split(b"/")))
    while pending:
        name = pending.pop()
        if tree[here] is not DIRECTORY:
            return errno.ENOTDIR
        if name in (b"", b"."):
            continue
        if name == b"..":
            here = here.rpartition(b"/")[0] or b"/"
            continue
        new = here.rstrip(b"/") + b"/" + name
        if new not in tree:
            return errno.ENOENT
        target = tree[new]
        if target:
            links += 1
            if links > 40:
                return errno.ELOOP
            if target.startswith(b"/"):
                here = b"/"
            pending += reversed(target.split(b"/"))
        else:
            here = new
    return here, "region" if (here + b"/").startswith(b"/app/") else "disk"


@settings(max_examples=400, deadline=None)
@given(
    disk=disks, links=st.dictionaries(st.sampled_from(NAMES[2:]), targets, max_size=2), path=paths
)
def test_the_walk_ends_where_mounts_would(
    disk: dict[bytes, bytes | None], links: dict[bytes, bytes], path: bytes
) -> None:
    in_region = {b"/app/" + name: target for name, target in links.items()}
    opened = fspf(FILES, links=in_region)
    region: dict[bytes, bytes | None] = {
        b"/app": DIRECTORY,
        b"/app/b": DIRECTORY,
        **dict.fromkeys(FILES, FILE),
        **in_region,
    }
    tree = whole(disk)
    expected = model(tree, region, b"/" + path)
    resolver = Resolver(namespace(opened), FakeDisk(tree))
    found: Found | int
    try:
        found = resolver.resolve(b"/", b"/" + path, CALLER)
    except OSError as error:
        found = error.errno or 0
    if isinstance(found, int):
        assert found == expected
        return
    if isinstance(expected, int):
        # The kernel, or the handler, says so: but never is anything virtual found there.
        assert found.where in (Where.DISK, Where.MISSING)
        return
    place, whose = expected
    assert (found.where is not Where.DISK) == (whose == "region"), (found, expected)
    assert found.path == place


@settings(max_examples=200, deadline=None)
@given(path=st.binary(min_size=1, max_size=60).filter(lambda raw: b"\0" not in raw))
def test_any_bytes_lead_somewhere_or_to_an_errno(path: bytes) -> None:
    resolver = Resolver(namespace(fspf(FILES)), FakeDisk({b"/app": DIRECTORY}))
    with contextlib.suppress(OSError):
        resolver.resolve(b"/app", path, CALLER)


@given(data=st.binary(max_size=400))
def test_any_status_is_read_or_refused(data: bytes) -> None:
    with contextlib.suppress(Error):
        parse_status(data)
