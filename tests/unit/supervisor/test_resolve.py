"""Paths as mounts, without a disk and without a kernel."""

from __future__ import annotations

import errno
from typing import ClassVar

import pytest

from crannog.runtime.supervisor.resolve import Caller, Found, Resolver, Restrictions, Where
from crannog.shield.model import Protection, Region
from crannog.testing.protection import protect
from tests.unit.supervisor.trees import DIRECTORY, FILE, FakeDisk, fspf, namespace

CALLER = Caller(process=41, tid=42)
APP = fspf(
    {b"/app/main.py": b"1", b"/app/lib/util.py": b"2"},
    links={b"/app/up": b"../etc/passwd", b"/app/latest": b"lib", b"/app/loop": b"loop"},
)
DISK = {
    b"/app": DIRECTORY,
    b"/app/main.py": FILE,
    b"/app/planted.py": FILE,
    b"/etc": DIRECTORY,
    b"/etc/passwd": FILE,
    b"/etc/to-app": b"/app/lib",
    b"/etc/relative": b"../app",
    b"/lib": b"usr/lib",
    b"/usr": DIRECTORY,
    b"/usr/lib": DIRECTORY,
    b"/proc": DIRECTORY,
    b"/proc/41": DIRECTORY,
    b"/proc/41/root": b"/",
    b"/proc/41/cwd": b"/etc",
}


def resolve(
    path: bytes,
    start: bytes = b"/",
    *,
    follow: bool = True,
    disk: FakeDisk | None = None,
    restrictions: Restrictions | None = None,
    caller: Caller = CALLER,
) -> Found:
    resolver = Resolver(
        namespace(APP, (b"/app/key.pem", b"/etc/ssl/cert.pem")), disk or FakeDisk(DISK)
    )
    if restrictions is not None:
        return resolver.resolve(start, path, caller, follow=follow, restrictions=restrictions)
    return resolver.resolve(start, path, caller, follow=follow)


@pytest.mark.parametrize(
    ("path", "where", "at"),
    [
        (b"/app/main.py", Where.FILE, b"/app/main.py"),
        (b"//app/./main.py", Where.FILE, b"/app/main.py"),
        (b"/app/lib/../main.py", Where.FILE, b"/app/main.py"),
        (b"/etc/../app/main.py", Where.FILE, b"/app/main.py"),
        (b"/app", Where.DIRECTORY, b"/app"),
        (b"/app/", Where.DIRECTORY, b"/app"),
        (b"/app/latest/util.py", Where.FILE, b"/app/lib/util.py"),
        (b"/app/key.pem", Where.INJECTED, b"/app/key.pem"),
        (b"/etc/ssl/cert.pem", Where.INJECTED, b"/etc/ssl/cert.pem"),
        (b"/etc/ssl", Where.DIRECTORY, b"/etc/ssl"),
        (b"/etc/to-app/util.py", Where.FILE, b"/app/lib/util.py"),
        (b"/etc/relative/main.py", Where.FILE, b"/app/main.py"),
        (b"/app/nothing", Where.MISSING, b"/app/nothing"),
        (b"/app/planted.py", Where.MISSING, b"/app/planted.py"),
        (b"/proc/self/root/app/main.py", Where.FILE, b"/app/main.py"),
        (b"/proc/41/cwd/../app/main.py", Where.FILE, b"/app/main.py"),
        (b"/proc/self/cwd/to-app/util.py", Where.FILE, b"/app/lib/util.py"),
    ],
)
def test_what_lies_in_regions(path: bytes, where: Where, at: bytes) -> None:
    found = resolve(path)
    assert (found.where, found.path, found.through) == (where, at, True)


@pytest.mark.parametrize(
    "path", [b"/etc/passwd", b"/etc", b"/", b"/lib/x", b"/nothing/at/all", b"/appendix", b"/etc/."]
)
def test_what_the_kernel_does_by_itself(path: bytes) -> None:
    found = resolve(path)
    assert found.where is Where.DISK
    assert not found.through


def test_a_link_out_of_a_region_is_not_the_kernels_to_follow() -> None:
    found = resolve(b"/app/up")
    assert (found.where, found.path, found.through) == (Where.DISK, b"/etc/passwd", True)


def test_a_way_through_a_region_is_not_the_kernels() -> None:
    found = resolve(b"/app/../etc/passwd")
    assert (found.where, found.path, found.through) == (Where.DISK, b"/etc/passwd", True)


def test_a_link_at_the_end_is_followed_only_if_asked() -> None:
    assert resolve(b"/app/latest", follow=False).where is Where.LINK
    assert resolve(b"/app/latest", follow=True).where is Where.DIRECTORY
    assert resolve(b"/app/latest/", follow=False).where is Where.DIRECTORY


def test_the_disk_is_never_looked_at_inside_a_region() -> None:
    disk = FakeDisk({**DISK, b"/app": b"/evil", b"/evil": DIRECTORY, b"/evil/main.py": FILE})
    for path in (b"/app/main.py", b"/app/lib/util.py", b"/app/planted.py", b"/app"):
        assert resolve(path, disk=disk).where is not Where.DISK
    assert not [path for path in disk.looked_at if path.startswith((b"/app", b"/evil"))]


def test_a_region_below_a_link_is_found_by_both_names() -> None:
    opened = fspf({b"/lib/app/x": b"1"}, region=b"/lib/app")
    names = namespace(opened, real={b"/lib": b"/usr/lib"})
    resolver = Resolver(names, FakeDisk(DISK))
    for path in (b"/lib/app/x", b"/usr/lib/app/x", b"/etc/../lib/app/x"):
        assert resolver.resolve(b"/", path, CALLER).path == b"/lib/app/x"
    assert resolver.resolve(b"/", b"/usr/lib/app/../other", CALLER).path == b"/usr/lib/other"


def test_a_region_keeps_its_literal_path_when_the_way_there_leads_elsewhere() -> None:
    opened = fspf({b"/srv/app/x": b"1"}, region=b"/srv/app")
    disk = FakeDisk({b"/srv": b"/evil", b"/evil": DIRECTORY, b"/evil/app": DIRECTORY})
    resolver = Resolver(namespace(opened), disk)
    assert resolver.resolve(b"/", b"/srv/app/x", CALLER).where is Where.FILE


class TestProtectedRoot:
    """The region `/` with unprotected ones below it."""

    REGIONS = (
        Region(b"/", Protection.AUTHENTICATED, b"/"),
        Region(b"/tmp", Protection.NOT_PROTECTED, b"/tmp", 0),
        Region(b"/var/log", Protection.NOT_PROTECTED, b"/var/log", 0),
    )
    DISK: ClassVar = {
        b"/usr": DIRECTORY,
        b"/usr/planted": FILE,
        b"/tmp": DIRECTORY,
        b"/tmp/x": FILE,
        b"/tmp/back": b"/usr/tool",
        b"/var": DIRECTORY,
        b"/var/log": DIRECTORY,
    }

    def resolve(self, path: bytes, start: bytes = b"/") -> Found:
        opened = protect(
            {b"/usr/tool": b"1"}, links={b"/out": b"tmp/x"}, regions=self.REGIONS
        ).open()
        return Resolver(namespace(opened), FakeDisk(self.DISK)).resolve(start, path, CALLER)

    def test_what_the_fspf_knows_is_there_and_nothing_else(self) -> None:
        assert self.resolve(b"/usr/tool").where is Where.FILE
        assert self.resolve(b"/usr/planted").where is Where.MISSING
        assert self.resolve(b"/").where is Where.DIRECTORY
        assert self.resolve(b"/var").where is Where.DIRECTORY

    def test_unprotected_regions_are_the_disks(self) -> None:
        for path in (b"/tmp/x", b"/tmp/new", b"/var/log/x"):
            found = self.resolve(path)
            assert (found.where, found.path) == (Where.DISK, path)

    def test_ways_between_them(self) -> None:
        assert self.resolve(b"/tmp/back").where is Where.FILE
        assert self.resolve(b"/tmp/../usr/tool").where is Where.FILE
        found = self.resolve(b"/out")
        assert (found.where, found.path, found.through) == (Where.DISK, b"/tmp/x", True)
        assert self.resolve(b"tmp/x").through


@pytest.mark.parametrize(
    ("path", "number"),
    [
        (b"", errno.ENOENT),
        (b"/app/main.py/x", errno.ENOTDIR),
        (b"/app/main.py/", errno.ENOTDIR),
        (b"/app/main.py/..", errno.ENOTDIR),
        (b"/app/nothing/x", errno.ENOENT),
        (b"/app/nothing/../main.py", errno.ENOENT),
        (b"/app/loop", errno.ELOOP),
        (b"/app/loop/x", errno.ELOOP),
        (b"/app/" + b"x" * 256, errno.ENAMETOOLONG),
        (b"/app/key.pem/x", errno.ENOTDIR),
        # What somebody might put there meanwhile has its parent where he likes.
        (b"/etc/nothing/../../app/main.py", errno.ENOENT),
        (b"/etc/passwd/../../app/main.py", errno.ENOTDIR),
        (b"/nothing/at/all/../../../app/main.py", errno.ENOENT),
    ],
)
def test_errors_are_linuxs(path: bytes, number: int) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the number counts
        resolve(path)
    assert raised.value.errno == number


def test_relative_paths_begin_where_the_caller_stands() -> None:
    assert resolve(b"main.py", b"/app").where is Where.FILE
    assert resolve(b"../etc/passwd", b"/app").through
    assert not resolve(b"passwd", b"/etc").through
    assert resolve(b"../app/main.py", b"/etc").where is Where.FILE


def test_a_directory_that_was_given_out_is_known_by_what_it_is() -> None:
    disk = FakeDisk({**DISK, b"/proc/41/fd": DIRECTORY}, {b"/proc/41/fd/7": b"/app/lib"})
    found = resolve(b"/proc/self/fd/7/util.py", disk=disk)
    assert (found.where, found.path) == (Where.FILE, b"/app/lib/util.py")


def test_a_file_that_was_given_out_is_no_other_by_its_descriptor() -> None:
    disk = FakeDisk(
        {**DISK, b"/proc/41/fd": DIRECTORY, b"/proc/41/fd/7": b"/memfd:x (deleted)"},
        handed_out_files={b"/proc/41/fd/7": b"/app/main.py"},
    )
    found = resolve(b"/proc/self/fd/7", disk=disk)
    assert (found.where, found.path, found.passed) == (Where.FILE, b"/app/main.py", ())


def test_up_from_the_root_stays_there() -> None:
    assert resolve(b"/../../app/main.py").where is Where.FILE


def test_a_changed_root_is_where_paths_begin() -> None:
    jail = Caller(process=41, tid=42, root=b"/etc")
    assert resolve(b"/app/main.py", b"/etc", caller=jail).where is Where.DISK
    assert resolve(b"/../../app/main.py", b"/etc", caller=jail).path == b"/etc/app/main.py"
    assert resolve(b"/ssl/cert.pem", b"/etc", caller=jail).where is Where.INJECTED


class TestRestrictions:
    @pytest.mark.parametrize("path", [b"/app/main.py", b"/etc/to-app", b"/etc/ssl/cert.pem"])
    def test_crossing_a_border_is_exdev(self, path: bytes) -> None:
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the number counts
            resolve(path, restrictions=Restrictions(no_crossing=True))
        assert raised.value.errno == errno.EXDEV

    def test_leaving_a_region_is_crossing_too(self) -> None:
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the number counts
            resolve(b"../etc/passwd", b"/app", restrictions=Restrictions(no_crossing=True))
        assert raised.value.errno == errno.EXDEV

    def test_inside_a_region_nothing_is_crossed(self) -> None:
        found = resolve(b"lib/util.py", b"/app", restrictions=Restrictions(no_crossing=True))
        assert found.where is Where.FILE

    @pytest.mark.parametrize("path", [b"/app/main.py", b"../main.py", b"latest/../../x"])
    def test_beneath_is_not_left(self, path: bytes) -> None:
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the number counts
            resolve(path, b"/app/lib", restrictions=Restrictions(beneath=True))
        assert raised.value.errno in (errno.EXDEV, errno.ENOENT)

    def test_no_links(self) -> None:
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the number counts
            resolve(b"/app/latest/util.py", restrictions=Restrictions(no_links=True))
        assert raised.value.errno == errno.ELOOP

    def test_no_magic_links(self) -> None:
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the number counts
            resolve(b"/proc/self/root/app", restrictions=Restrictions(no_magic_links=True))
        assert raised.value.errno == errno.ELOOP


class TestMemory:
    def test_a_link_that_the_program_made_is_seen(self) -> None:
        disk = FakeDisk(DISK)
        resolver = Resolver(namespace(APP), disk)
        assert resolver.resolve(b"/", b"/etc/new/util.py", CALLER).where is Where.DISK
        disk.entries[b"/etc/new"] = b"/app/lib"
        resolver.forget(-1000.0)
        assert resolver.resolve(b"/", b"/etc/new/util.py", CALLER).where is Where.FILE

    def test_nothing_is_remembered_right_after_a_change(self) -> None:
        resolver = Resolver(namespace(APP), FakeDisk(DISK))
        resolver.forget(1e12)
        resolver.resolve(b"/", b"/etc/passwd", CALLER)
        assert resolver.known(b"/etc/passwd", True) is None

    def test_virtual_names_hold(self) -> None:
        resolver = Resolver(namespace(APP), FakeDisk(DISK))
        found = resolver.resolve(b"/", b"/app/main.py", CALLER)
        resolver.forget(1e12)
        assert resolver.known(b"/app/main.py", True) is found

    def test_what_depends_on_who_asks_is_not_remembered(self) -> None:
        resolver = Resolver(namespace(APP), FakeDisk(DISK))
        resolver.resolve(b"/", b"/proc/self/root/app/main.py", CALLER)
        assert resolver.known(b"/proc/self/root/app/main.py", True) is None


def test_directories_on_the_way_are_listed_for_the_rights() -> None:
    assert resolve(b"/app/lib/util.py").passed == (b"/", b"/app", b"/app/lib")
    found = Resolver(namespace(fspf({b"/srv/a/x": b""}, region=b"/srv/a")), FakeDisk({})).resolve(
        b"/", b"/srv/a/x", CALLER
    )
    assert found.passed == (b"/", b"/srv", b"/srv/a")
