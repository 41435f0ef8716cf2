from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crannog.errors import Misconfigured, TooLarge
from crannog.measure.root import Root
from tests.unit.measure.elves import Tree


def test_absolute_link_stays_inside(tree: Tree, root: Root) -> None:
    tree.put("/inside/file", "inside")
    tree.link("/link", "/inside/file")
    assert root.read("/link", limit=100) == b"inside"
    assert root.canonical("/link") == "/inside/file"


@pytest.mark.parametrize("path", ["/../../../../etc/hostname", "/up/etc/hostname"])
def test_no_path_leads_out(tree: Tree, root: Root, path: str) -> None:
    tree.link("/up", "../../../../../../../..")
    assert root.read(path, limit=100) is None


def test_absolute_link_does_not_lead_out(tree: Tree, root: Root) -> None:
    tree.link("/abs", "/etc/hostname")
    with pytest.raises(Misconfigured, match="leads nowhere"):
        root.read("/abs", limit=100)


def test_dotdot_goes_where_the_link_led(tree: Tree, root: Root) -> None:
    tree.put("/a/b/file", "deep")
    tree.put("/file", "shallow")
    tree.link("/link", "a/b")
    assert root.read("/link/../../file", limit=100) == b"shallow"
    assert root.read("/link/file", limit=100) == b"deep"


# A path that is absent for us and not for the program would be read and not measured.

MAGIC = ["/proc/self/root/evil", "/proc/thread-self/cwd/evil", "/dev/stdin"]


@pytest.mark.parametrize("target", [*MAGIC, "/proc/4999999/root/evil", "missing", "/a/missing/b"])
@pytest.mark.parametrize("path", ["/dir/link", "/dir/link/below", "/dir/link/below/more"])
def test_link_that_leads_nowhere_for_us_is_refused(
    tree: Tree, resolve_here: bool, target: str, path: str
) -> None:
    # In the system's own root, where /proc is.
    tree.link("/dir/link", target)
    with (
        Root("/", resolve_here=resolve_here) as root,
        pytest.raises(Misconfigured, match="cannot be measured"),
    ):
        root.read(f"{tree.path}{path}", limit=100)


@pytest.mark.parametrize("target", MAGIC)
def test_directory_behind_a_magic_link_is_refused(
    tree: Tree, resolve_here: bool, target: str
) -> None:
    tree.link("/sites", target)
    with Root("/", resolve_here=resolve_here) as root:
        for ask in (root.names, root.is_directory, root.is_regular, root.canonical, root.digest):
            with pytest.raises(Misconfigured, match="cannot be measured"):
                ask(f"{tree.path}/sites")


def test_what_is_missing_behind_a_link_to_a_directory_is_absent(tree: Tree, root: Root) -> None:
    tree.put("/usr/lib/file", "x")
    tree.link("/lib", "usr/lib")
    assert root.digest("/lib/missing") is None
    assert root.digest("/lib/missing/below") is None
    assert root.canonical("/lib/missing") is None


def test_link_loop_is_refused(tree: Tree, root: Root) -> None:
    tree.link("/a", "b")
    tree.link("/b", "a")
    with pytest.raises(Misconfigured, match="in a circle"):
        root.read("/a", limit=10)


@pytest.mark.parametrize("kind", ["fifo", "socket"])
def test_what_holds_another_content_each_time_is_refused(tree: Tree, root: Root, kind: str) -> None:
    target = tree.path / "thing"
    if kind == "fifo":
        os.mkfifo(target)  # opening it for reading would wait for ever
    else:
        os.mknod(target, 0o140644)
    assert not root.is_regular("/thing")
    for ask in (root.open_regular, root.digest):
        with pytest.raises(Misconfigured, match="neither a file nor a directory"):
            ask("/thing")


def test_directory_holds_nothing(tree: Tree, root: Root) -> None:
    (tree.path / "thing").mkdir()
    assert root.open_regular("/thing") is None
    assert root.digest("/thing") is None
    assert not root.is_regular("/thing")


def test_null_device_holds_nothing() -> None:
    with Root("/") as root:
        assert root.digest("/dev/null") is None


def test_file_as_directory_is_absent(tree: Tree, root: Root) -> None:
    tree.put("/file", "x")
    assert root.read("/file/below", limit=10) is None
    assert root.read("/file/", limit=10) is None


def test_unreadable_file_is_an_error_and_not_absent(tree: Tree, root: Root) -> None:
    tree.put("/secret", "x", mode=0)
    tree.path.chmod(0o755)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(Misconfigured, match="/secret: permission denied"):
            root.digest("/secret")
    finally:
        os.seteuid(user)


def test_limit_is_kept(tree: Tree, root: Root) -> None:
    tree.put("/file", "12345")
    assert root.read("/file", limit=5) == b"12345"
    with pytest.raises(TooLarge, match="5 bytes"):
        root.read("/file", limit=4)


def test_digest_is_of_the_content(tree: Tree, root: Root) -> None:
    small, large = b"x" * 10, b"y" * 1_000_000
    tree.put("/small", small)
    tree.put("/large", large)
    found = root.digests(["/small", "/large", "/none", "/small"])
    assert {path: each and each.digest for path, each in found.items()} == {
        "/small": hashlib.sha256(small).digest(),
        "/large": hashlib.sha256(large).digest(),
        "/none": None,
    }


def test_changed_file_is_read_again(tree: Tree, root: Root) -> None:
    file = tree.put("/file", "one")
    first = root.digest("/file")
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    second = root.digest("/file")
    assert first is not None
    assert second is not None
    assert first.digest != second.digest
    assert first.identity != second.identity


def test_relative_name_is_no_file_of_the_root(tree: Tree, root: Root) -> None:
    tree.put("/libnss_x.so.2", "planted")
    assert root.digest("libnss_x.so.2") is None


def test_both_ways_of_resolving_agree_on_the_system() -> None:
    with Root("/") as kernel, Root("/", resolve_here=True) as here:
        for path in ("/bin/sh", "/lib64", "/etc/os-release", "/usr/bin/../bin/env", "/proc/self"):
            one, other = kernel.handle(path), here.handle(path)
            assert (one is None) == (other is None)
            if one is not None and other is not None:
                if path != "/proc/self":
                    assert os.path.sameopenfile(one, other)
                os.close(one)
                os.close(other)


def test_descriptors_are_closed(tree: Tree, root: Root) -> None:
    tree.put("/a/b/c", "x")
    tree.link("/l", "/a/../a/b/c")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        root.digest("/l")
        root.read("/a/b/none", limit=1)
        root.names("/a")
        root.canonical("/l")
        root.is_directory("/a/b")
    assert len(os.listdir("/proc/self/fd")) == before


def test_missing_root_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="nowhere"):
        Root(str(tmp_path / "nowhere"))


def test_files_below_the_root_lie_on_its_mount(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "file").write_text("")
    (tmp_path / "link").symlink_to("/etc/../etc/file")
    with Root(str(tmp_path)) as root:
        assert not root.leaves_mount("/etc/file")
        assert not root.leaves_mount("/link")
        assert not root.leaves_mount("/etc/nothing/there")
        assert not root.leaves_mount("libnss_nowhere.so.2")


def test_a_file_of_another_mount_leaves_the_roots() -> None:
    with Root("/") as root:
        assert root.leaves_mount("/proc/version")
        assert root.leaves_mount("/proc/nothing-there")


def test_a_link_through_another_mount_leaves_the_roots(tmp_path: Path) -> None:
    # Whoever owns that mount decides where the link leads next.
    (tmp_path / "link").symlink_to("/proc/self/root/etc/passwd")
    with Root("/") as root:
        assert root.leaves_mount(str(tmp_path / "link"))


def test_a_bind_mount_of_the_same_file_system_leaves_the_roots(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("")
    script = (
        "import sys; from crannog.measure.root import Root; root = Root(sys.argv[1]); "
        "print([root.leaves_mount(path) for path in ('/a/file', '/b/file', '/b/absent')])"
    )
    mount = 'mount --make-rprivate / && mount --bind "$2/a" "$2/b" && exec "$0" -c "$1" "$2"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, sys.executable, script, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0 and os.geteuid() != 0:
        pytest.skip("needs a mount namespace of its own")
    assert done.stdout == "[False, True, True]\n", done.stderr


def test_where_the_kernel_cannot_be_asked_everything_leaves_the_mount(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    with Root(str(tmp_path)) as root:
        monkeypatch.setattr(Root, "_openat2", lambda *_: (-1, errno.EPERM))
        assert root.leaves_mount("/file")
