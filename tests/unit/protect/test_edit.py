"""What the commands do to the disk: complete or not at all, and what is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
from pathlib import Path

import pytest

from crannog.errors import (
    Conflict,
    Error,
    FormatError,
    IntegrityError,
    Misconfigured,
    NotFound,
    StorageFailed,
    Unavailable,
    Unsupported,
)
from crannog.protect import contents, edit, staging
from crannog.protect.edit import Sealed
from crannog.shield.chunks import read_file
from crannog.shield.fspf import Fspf, open_fspf
from crannog.shield.model import DirectoryEntry, FileEntry, LinkEntry, Protection


class Tree:
    """A source directory, an fspf with regions / and /app, and an output directory."""

    def __init__(self, path: Path, protection: Protection = Protection.ENCRYPTED) -> None:
        self.path = path
        self.source = path / "src"
        self.output = path / "image" / "app"
        self.source.mkdir()
        self.fspf = os.fsencode(path / "fspf.pb")
        edit.create(self.fspf)
        edit.add_region(self.fspf, b"/", Protection.NOT_PROTECTED, b"/")
        edit.add_region(self.fspf, b"/app", protection, b"/app", 4096)

    def write(self, name: str, content: bytes, mode: int = 0o644) -> Path:
        path = self.source / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        return path

    def add(self, **more: object) -> edit.Added:
        arguments: dict[str, object] = {"output": os.fsencode(self.output)} | more
        return edit.add_files(self.fspf, b"/app", os.fsencode(self.source), **arguments)  # type: ignore[arg-type]

    def seal(self) -> tuple[Fspf, Sealed]:
        sealed = edit.encrypt(self.fspf, announce=lambda sealed: None)
        data = Path(os.fsdecode(self.fspf)).read_bytes()
        return open_fspf(data, key=sealed.key, tag=sealed.tag), sealed

    def state(self) -> dict[str, bytes]:
        """What the command may change: everything outside of the source."""
        return {
            str(path.relative_to(self.path)): path.read_bytes()
            for path in sorted(self.path.rglob("*"))
            if path.is_file() and not path.is_relative_to(self.source)
        }


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def content(tree: Tree, fspf: Fspf, name: str) -> bytes:
    entry = fspf.lookup(b"/app/" + name.encode())
    assert isinstance(entry, FileEntry)
    return read_file(entry, (tree.output / name).read_bytes())


def test_everything_is_recorded_and_readable_again(tree: Tree) -> None:
    tree.write("server.py", b"x" * 10_000, 0o750)
    tree.write("deep/er/empty", b"", 0o600)
    (tree.source / "none").mkdir(mode=0o700)
    (tree.source / "link").symlink_to("/etc/passwd")
    os.utime(tree.source / "server.py", ns=(5, 1_234_567_890_123_456_789))
    added = tree.add()
    assert (added.files, added.directories, added.links, added.size) == (2, 4, 1, 10_000)
    fspf, _ = tree.seal()
    assert content(tree, fspf, "server.py") == b"x" * 10_000
    assert content(tree, fspf, "deep/er/empty") == b""
    server = fspf.lookup(b"/app/server.py")
    assert isinstance(server, FileEntry)
    assert (server.mode, server.mtime_ns) == (0o750, 1_234_567_890_123_456_789)
    assert (server.uid, server.gid) == (os.getuid(), (tree.source / "server.py").stat().st_gid)
    none = fspf.lookup(b"/app/none")
    assert isinstance(none, DirectoryEntry)
    assert none.mode == 0o700
    link = fspf.lookup(b"/app/link")
    assert isinstance(link, LinkEntry)
    assert link.target == b"/etc/passwd"
    assert fspf.names(b"/app/deep") == ((b"er", 2),)


def test_nothing_of_the_plaintext_is_in_output_or_sealed_fspf(tree: Tree) -> None:
    tree.write("secret.py", b"the secret greeting" * 100)
    tree.add()
    tree.seal()
    assert all(b"secret greeting" not in found for found in tree.state().values())


def test_output_is_readable_for_whoever_runs_the_image(tree: Tree) -> None:
    tree.write("private/key.pem", b"k", 0o600)
    (tree.source / "private").chmod(0o700)
    old = os.umask(0o077)
    try:
        tree.add()
    finally:
        os.umask(old)
    assert stat.S_IMODE((tree.output / "private/key.pem").stat().st_mode) == 0o644
    for directory in (tree.output / "private", tree.output, tree.output.parent):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755


def test_fspf_is_private_while_it_holds_keys_and_public_when_sealed(tree: Tree) -> None:
    path = Path(os.fsdecode(tree.fspf))
    tree.add()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    tree.seal()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("size", [4096, 128 * 1024 + 1, 5 << 20, 9 << 20])
def test_sizes_on_each_path_through_the_workers(tree: Tree, size: int) -> None:
    data = os.urandom(size)
    tree.write("f", data)
    tree.write("g", data[::-1])
    progress: list[tuple[int, int]] = []
    tree.add(workers=3, progress=lambda done, files: progress.append((done, files)))
    fspf, _ = tree.seal()
    assert content(tree, fspf, "f") == data
    assert content(tree, fspf, "g") == data[::-1]
    assert [sum(column) for column in zip(*progress, strict=True)] == [2 * size, 2]


def test_names_need_not_be_text(tree: Tree) -> None:
    name = b"\xff\n\x1b[31m x"
    (tree.source / os.fsdecode(name)).write_bytes(b"1")
    tree.add()
    fspf, _ = tree.seal()
    assert fspf.names(b"/app") == ((name, 1),)


def test_adding_again_encrypts_with_fresh_keys(tree: Tree) -> None:
    tree.write("f", b"same" * 1000)
    tree.add()
    before = (tree.output / "f").read_bytes()
    tree.add()
    after = (tree.output / "f").read_bytes()
    assert before != after
    fspf, _ = tree.seal()
    assert content(tree, fspf, "f") == b"same" * 1000


def test_entries_of_earlier_runs_are_kept_and_counted(tree: Tree) -> None:
    old = tree.write("old", b"1")
    tree.add()
    old.unlink()
    tree.write("new", b"2")
    assert tree.add().kept == 1
    fspf, _ = tree.seal()
    assert content(tree, fspf, "old") == b"1"
    assert content(tree, fspf, "new") == b"2"


def test_directory_that_became_a_link_takes_its_entries_along(tree: Tree) -> None:
    inside = tree.write("d/f", b"1")
    tree.add(output=os.fsencode(tree.path / "one"))
    inside.unlink()
    (tree.source / "d").rmdir()
    (tree.source / "d").symlink_to("e")
    tree.add(output=os.fsencode(tree.path / "two"))
    fspf, _ = tree.seal()
    assert isinstance(fspf.lookup(b"/app/d"), LinkEntry)
    assert fspf.lookup(b"/app/d/f") is None


def test_below_a_region(tree: Tree) -> None:
    tree.write("f", b"1")
    source, output = os.fsencode(tree.source), os.fsencode(tree.output / "a/b")
    edit.add_files(tree.fspf, b"/app/a/b", source, output)
    fspf, _ = tree.seal()
    assert fspf.names(b"/app") == ((b"a", 2),)
    assert content(tree, fspf, "a/b/f") == b"1"


def test_owner_can_be_given(tree: Tree) -> None:
    tree.write("f", b"1")
    tree.add(owner=(7, 8))
    fspf, _ = tree.seal()
    entry = fspf.lookup(b"/app/f")
    assert isinstance(entry, FileEntry)
    assert (entry.uid, entry.gid) == (7, 8)


def test_authenticated_files_stay_where_they_are(tmp_path: Path) -> None:
    tree = Tree(tmp_path, Protection.AUTHENTICATED)
    tree.write("f", b"public")
    before = (tree.source / "f").stat()
    tree.add(output=None)
    assert (tree.source / "f").stat().st_ctime_ns == before.st_ctime_ns
    fspf, _ = tree.seal()
    entry = fspf.lookup(b"/app/f")
    assert isinstance(entry, FileEntry)
    assert read_file(entry, b"public") == b"public"
    with pytest.raises(IntegrityError):
        read_file(entry, b"publiC")


def test_authenticated_files_are_copied_with_mode_and_time(tmp_path: Path) -> None:
    tree = Tree(tmp_path, Protection.AUTHENTICATED)
    tree.write("d/f", b"public", 0o640)
    (tree.source / "d").chmod(0o500)
    os.utime(tree.source / "d/f", ns=(5, 6_000_000_007))
    tree.add()
    copy = tree.output / "d/f"
    assert copy.read_bytes() == b"public"
    assert (stat.S_IMODE(copy.stat().st_mode), copy.stat().st_mtime_ns) == (0o640, 6_000_000_007)
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o500
    for directory in (tree.source / "d", copy.parent):
        directory.chmod(0o700)


def test_printed_keys_among_the_files_are_noticed(tree: Tree) -> None:
    line = f"Encrypted file system protection file x AES-GCM tag: {'0' * 32} key: {'f' * 64}\n"
    tree.write("keytag", line.encode())
    tree.write("other", b"key: value")
    assert tree.add().keytags == (b"/app/keytag",)


def test_files_of_the_output_that_the_fspf_does_not_know_are_noticed(tree: Tree) -> None:
    tree.write("d/f", b"1")
    tree.add()
    (tree.output / "d/leftover.py").write_bytes(b"plain")
    assert tree.add().strangers == (b"d/leftover.py",)
    assert (tree.output / "d/leftover.py").read_bytes() == b"plain"


def test_interruption_waits_until_everything_is_in_place(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.write("f", b"1")
    move = staging.Staging.move

    def interrupted(self: staging.Staging, *rest: object, **more: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        move(self, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(staging.Staging, "move", interrupted)
    tree.add()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    fspf, _ = tree.seal()
    assert content(tree, fspf, "f") == b"1"


# What is refused: nothing may have changed then.


def refused(tree: Tree, error: type[Error], match: str, **more: object) -> Error:
    before = tree.state()
    with pytest.raises(error, match=match) as caught:
        tree.add(**more)
    assert tree.state() == before
    left = [path.name for path in tree.path.rglob(".crannog-addf-*")]
    assert not left
    return caught.value


def test_socket_is_refused_by_name(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree.source)  # the path of a socket may not be long
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind("control")
        refused(tree, Misconfigured, r"control \(a socket\)")


def test_fifo_is_refused_by_name(tree: Tree) -> None:
    os.mkfifo(tree.source / "pipe")
    refused(tree, Misconfigured, r"pipe \(a FIFO\)")


def test_unreadable_file_is_refused_by_name(tree: Tree) -> None:
    path = tree.write("locked", b"1", 0o000)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads everything")
    refused(tree, StorageFailed, "locked")


def test_missing_source_is_refused(tree: Tree) -> None:
    tree.source.rmdir()
    refused(tree, NotFound, "src")


def test_source_that_is_a_file_is_refused(tree: Tree) -> None:
    tree.source.rmdir()
    tree.source.write_bytes(b"")
    refused(tree, Misconfigured, "not a directory")


def test_output_inside_the_source_is_refused(tree: Tree) -> None:
    refused(tree, Misconfigured, "overlap", output=os.fsencode(tree.source / "out"))


def test_output_that_is_the_source_is_refused(tree: Tree) -> None:
    refused(tree, Misconfigured, "overlap", output=os.fsencode(tree.source))


def test_output_that_is_a_link_to_the_source_is_refused(tree: Tree) -> None:
    (tree.path / "alias").symlink_to("src")
    refused(tree, Misconfigured, "overlap", output=os.fsencode(tree.path / "alias"))


def test_source_inside_the_output_is_refused(tree: Tree) -> None:
    refused(tree, Misconfigured, "overlap", output=os.fsencode(tree.path))


def test_fspf_inside_the_source_is_refused(tree: Tree) -> None:
    Path(os.fsdecode(tree.fspf)).rename(tree.source / "fspf.pb")
    tree.fspf = os.fsencode(tree.source / "fspf.pb")
    refused(tree, Misconfigured, "fspf lies in SOURCE_DIR")


def test_encrypted_region_without_output_is_refused(tree: Tree) -> None:
    refused(tree, Misconfigured, "no OUTPUT_DIR", output=None)


def test_directory_where_a_file_has_to_go_is_refused(tree: Tree) -> None:
    tree.write("f", b"1")
    (tree.output / "f").mkdir(parents=True)
    refused(tree, Misconfigured, "is a directory")


def test_link_where_a_directory_has_to_go_is_not_followed(tree: Tree) -> None:
    tree.write("d/f", b"1")
    tree.output.mkdir(parents=True)
    (tree.path / "elsewhere").mkdir()
    (tree.output / "d").symlink_to(tree.path / "elsewhere")
    refused(tree, Misconfigured, "not a directory")
    assert not list((tree.path / "elsewhere").iterdir())


def test_link_where_a_file_has_to_go_is_replaced_and_not_followed(tree: Tree) -> None:
    tree.write("f", b"1")
    tree.output.mkdir(parents=True)
    victim = tree.path / "victim"
    victim.write_bytes(b"untouched")
    (tree.output / "f").symlink_to(victim)
    tree.add()
    assert victim.read_bytes() == b"untouched"
    assert not (tree.output / "f").is_symlink()


def test_unknown_region_is_refused_with_those_there_are(tmp_path: Path) -> None:
    fspf = os.fsencode(tmp_path / "f")
    edit.create(fspf)
    edit.add_region(fspf, b"/app", Protection.ENCRYPTED, b"/app")
    with pytest.raises(Misconfigured, match="expected one of: /app"):
        edit.add_files(fspf, b"/lib", b"/x", b"/y")


def test_unprotected_region_takes_no_files(tree: Tree) -> None:
    with pytest.raises(Misconfigured, match="not protected"):
        edit.add_files(tree.fspf, b"/lib", os.fsencode(tree.source), b"/y")


def test_file_of_another_region_is_refused(tmp_path: Path) -> None:
    fspf, source = os.fsencode(tmp_path / "f"), tmp_path / "src"
    edit.create(fspf)
    edit.add_region(fspf, b"/", Protection.AUTHENTICATED, b"/")
    edit.add_region(fspf, b"/app", Protection.ENCRYPTED, b"/app")
    (source / "app").mkdir(parents=True)
    edit.add_files(fspf, b"/", os.fsencode(source), None)  # an empty directory: a mount point
    (source / "app/f").write_bytes(b"1")
    with pytest.raises(Misconfigured, match="would be in region /app"):
        edit.add_files(fspf, b"/", os.fsencode(source), None)


def test_file_that_changes_while_it_is_read_is_refused(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tree.write("f", b"1" * 5000)
    read = contents._read_exactly

    def changing(descriptor: int, view: memoryview, offset: int, name: bytes) -> None:
        read(descriptor, view, offset, name)
        os.utime(path, ns=(1, 1))

    monkeypatch.setattr(contents, "_read_exactly", changing)
    refused(tree, Conflict, "changed while it was read")


def test_file_that_vanishes_is_refused(tree: Tree) -> None:
    path = tree.write("f", b"1")
    refused(tree, Conflict, "vanished", begin=lambda size, files: path.unlink())


def test_file_that_becomes_a_link_is_refused(tree: Tree) -> None:
    path = tree.write("f", b"1")

    def swap(size: int, files: int) -> None:
        path.unlink()
        path.symlink_to("/etc/passwd")

    refused(tree, Conflict, "changed while", begin=swap)


@pytest.mark.parametrize("size", [10, 6 << 20])
def test_full_disk_leaves_the_old_state(
    tree: Tree, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tree.write("f", b"old" * 100)
    tree.add()
    path.write_bytes(b"n" * size)

    def full(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    error = refused(tree, StorageFailed, "No space left")
    assert "make room" in error.hint


def test_interruption_leaves_the_old_state(tree: Tree) -> None:
    tree.write("f", b"1" * (9 << 20))
    before = tree.state()

    def interrupt(size: int, files: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tree.add(progress=interrupt)
    assert tree.state() == before
    assert not (tree.path / "image").exists()


def test_full_disk_for_the_fspf_comes_before_the_files_are_moved(
    tree: Tree, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree.write("f", b"1")
    tree.add()
    moved: list[object] = []
    monkeypatch.setattr(staging.Staging, "move", lambda *rest, **more: moved.append(rest))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(tree, StorageFailed, "No space left")
    assert not moved


def test_staging_of_a_killed_command_is_removed_and_a_live_one_is_not(tree: Tree) -> None:
    tree.output.mkdir(parents=True)
    stale, live = (tree.output / f".crannog-addf-{name}" for name in ("stale", "live"))
    stale.mkdir()
    live.mkdir()
    (stale / "0").write_bytes(b"1")
    descriptor = os.open(live, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        tree.add()
    finally:
        os.close(descriptor)
    assert not stale.exists()
    assert live.exists()


def test_second_command_on_the_same_fspf_is_refused(tree: Tree) -> None:
    descriptor = os.open(tree.fspf, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        with pytest.raises(Unavailable, match="another command"):
            tree.add()
    finally:
        os.close(descriptor)


def test_a_repr_does_not_hold_the_key(tree: Tree) -> None:
    _, sealed = tree.seal()
    assert repr(sealed) == f"Sealed(tag={sealed.tag.hex()})"


def test_encrypt_that_cannot_print_leaves_the_plain_fspf(tree: Tree) -> None:
    tree.write("f", b"1")
    tree.add()
    before = tree.state()

    def fail(sealed: Sealed) -> None:
        raise StorageFailed("cannot write the key")

    with pytest.raises(StorageFailed):
        edit.encrypt(tree.fspf, announce=fail)
    assert tree.state() == before


def test_encrypting_twice_is_refused(tree: Tree) -> None:
    tree.seal()
    with pytest.raises(FormatError, match="encrypted already"):
        tree.seal()


def test_nothing_is_added_to_a_sealed_fspf(tree: Tree) -> None:
    tree.seal()
    refused(tree, FormatError, "encrypted already")


def test_create_does_not_overwrite_another_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(Misconfigured, match="not an fspf"):
        edit.create(os.fsencode(path))
    assert path.read_text() == "mine"


def test_create_starts_again(tree: Tree) -> None:
    tree.seal()
    assert edit.create(tree.fspf)[1]
    assert edit.show(tree.fspf, None)[0].paths == []


def test_region_over_files_of_the_root_is_refused(tmp_path: Path) -> None:
    fspf, source = os.fsencode(tmp_path / "f"), tmp_path / "src"
    edit.create(fspf)
    edit.add_region(fspf, b"/", Protection.AUTHENTICATED, b"/")
    (source / "app").mkdir(parents=True)
    edit.add_files(fspf, b"/", os.fsencode(source), None)
    with pytest.raises(Misconfigured, match="added to region / already"):
        edit.add_region(fspf, b"/app", Protection.ENCRYPTED, b"/app")


def test_volume_is_not_supported_yet(tree: Tree) -> None:
    with pytest.raises(Unsupported, match="volumes"):
        edit.add_region(tree.fspf, b".", Protection.ENCRYPTED, b".")


def test_unprotected_region_elsewhere_is_not_supported_yet(tree: Tree) -> None:
    with pytest.raises(Unsupported, match="another kernel path"):
        edit.add_region(tree.fspf, b"/a", Protection.NOT_PROTECTED, b"/b")


@pytest.mark.parametrize("length", [0, 1, 4095, 4097, 1 << 25])
def test_bad_chunk_length_is_refused(tree: Tree, length: int) -> None:
    with pytest.raises(FormatError, match="chunk length"):
        edit.add_region(tree.fspf, b"/a", Protection.ENCRYPTED, b"/a", length)


def test_show_of_a_sealed_fspf_needs_its_key(tree: Tree) -> None:
    _, sealed = tree.seal()
    assert edit.show(tree.fspf, sealed.key)[1] == sealed.tag
    with pytest.raises(Misconfigured, match="no key"):
        edit.show(tree.fspf, None)
    with pytest.raises(IntegrityError):
        edit.show(tree.fspf, bytes(32))
