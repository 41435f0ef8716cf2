"""The table of docs/formats/system-calls.md, row by row: a static program with four threads."""

from __future__ import annotations

import os
import platform
import struct
from pathlib import Path

import pytest

from crannog.linux.syscalls import machine_named
from tests.shield.harness import NOBODY, Result, Shield, compile_program

O_PATH = 0o10000000
O_TMPFILE = 0o20200000
EMPTY_PATH = 0x1000
NOFOLLOW = 0x100
HOW = struct.Struct("<QQQ")

Row = tuple[str, str, str]  # label, call with arguments, what comes out


def how(flags: int, resolve: int) -> str:
    return "x:" + HOW.pack(flags, 0, resolve).hex()


# {A} the region, {B} the directory above it, {I} an injected file in a directory {L} that is not
# on disk, {K} one inside the region, {D} a directory on disk.
READING: tuple[Row, ...] = (
    ("open-file", "openat n:-100 s:{A}/a.txt n:0 n:0", "fd:alpha"),
    ("open-old", "open s:{A}/a.txt n:0 n:0", "fd:alpha"),
    ("open-dirfd", "openat f:{A} s:a.txt n:0 n:0", "fd:alpha"),
    ("open-dirfd-up", "openat f:{A}/sub s:../a.txt n:0 n:0", "fd:alpha"),
    ("open-slashes", "openat n:-100 s:{B}//./app/sub/..//a.txt n:0 n:0", "fd:alpha"),
    ("open-link", "openat n:-100 s:{A}/link n:0 n:0", "fd:alpha"),
    ("open-link-absolute", "openat n:-100 s:{A}/absolute n:0 n:0", "fd:beta"),
    ("open-link-outside", "openat n:-100 s:{D}/into n:0 n:0", "fd:alpha"),
    ("open-through", "openat n:-100 s:{A}/out n:0 n:0", "fd:plain"),
    ("open-proc-root", "openat n:-100 s:/proc/self/root{A}/a.txt n:0 n:0", "fd:alpha"),
    ("open-injected", "openat n:-100 s:{I} n:0 n:0", "fd:certificate"),
    ("open-injected-in-region", "openat n:-100 s:{K} n:0 n:0", "fd:key"),
    ("open-disk", "openat n:-100 s:{D}/plain n:0 n:0", "fd:plain"),
    ("open-path", f"openat n:-100 s:{{A}}/a.txt n:{O_PATH} n:0", "fd:alpha"),
    ("open-directory", "openat n:-100 s:{A} n:0o200000 n:0", "fd:EISDIR"),
    ("open-empty-file", "openat n:-100 s:{A}/empty n:0 n:0", "fd:"),
    ("open2-file", "openat2 n:-100 s:{A}/a.txt " + how(0, 0) + " n:24", "fd:alpha"),
    ("open2-no-links", "openat2 n:-100 s:{A}/a.txt " + how(0, 4) + " n:24", "fd:alpha"),
    ("open2-beneath", "openat2 f:{A} s:sub/b.txt " + how(0, 8) + " n:24", "fd:beta"),
    ("access", "access s:{A}/a.txt n:4", "0"),
    ("faccessat", "faccessat n:-100 s:{A}/a.txt n:4", "0"),
    ("faccessat2", "faccessat2 n:-100 s:{A}/sub n:5 n:0x200", "0"),
    ("access-injected", "access s:{I} n:4", "0"),
    ("text-readlink", "readlink s:{A}/link b:64 n:64", "a.txt"),
    ("text-readlinkat", "readlinkat f:{A} s:absolute b:200 n:200", "{A}/sub/b.txt"),
    ("readlink-cut", "readlink s:{A}/link b:3 n:3", "3"),
    ("stat", "stat s:{A}/a.txt b:144", "0"),
    ("lstat", "lstat s:{A}/link b:144", "0"),
    ("newfstatat", "newfstatat n:-100 s:{A}/a.txt b:144 n:0", "0"),
    ("statx", "statx n:-100 s:{A}/a.txt n:0 n:0xfff b:256", "0"),
    ("fstat-empty", f"newfstatat f:{{A}}/a.txt e: b:144 n:{EMPTY_PATH}", "0"),
    ("statfs", "statfs s:{A} b:128", "0"),
    ("listxattr", "listxattr s:{A}/a.txt b:8 n:8", "0"),
    ("llistxattr", "llistxattr s:{A}/link b:8 n:8", "0"),
)

REFUSED: tuple[Row, ...] = (
    ("write", "openat n:-100 s:{A}/a.txt n:1 n:0", "EROFS"),
    ("read-write", "openat n:-100 s:{A}/a.txt n:2 n:0", "EROFS"),
    ("truncate-open", "openat n:-100 s:{A}/a.txt n:0o1000 n:0", "EROFS"),
    ("create", "openat n:-100 s:{A}/new n:0o101 n:0o644", "EROFS"),
    ("create-existing-exclusive", "openat n:-100 s:{A}/a.txt n:0o301 n:0o644", "EEXIST"),
    ("create-link-exclusive", "openat n:-100 s:{A}/link n:0o301 n:0o644", "EEXIST"),
    ("creat", "creat s:{A}/new n:0o644", "EROFS"),
    ("tmpfile", f"openat n:-100 s:{{A}} n:{O_TMPFILE | 2} n:0o600", "EROFS"),
    ("missing", "openat n:-100 s:{A}/missing n:0 n:0", "ENOENT"),
    ("planted", "openat n:-100 s:{A}/planted n:0 n:0", "ENOENT"),
    ("planted-stat", "stat s:{A}/planted b:144", "ENOENT"),
    ("planted-access", "access s:{A}/planted n:0", "ENOENT"),
    ("planted-exec", "execve s:{A}/planted 0: 0:", "ENOENT"),
    ("missing-parent", "openat n:-100 s:{A}/missing/x n:0o101 n:0o644", "ENOENT"),
    ("not-a-directory", "openat n:-100 s:{A}/a.txt/x n:0 n:0", "ENOTDIR"),
    ("trailing-slash", "openat n:-100 s:{A}/a.txt/ n:0 n:0", "ENOTDIR"),
    ("o-directory", "openat n:-100 s:{A}/a.txt n:0o200000 n:0", "ENOTDIR"),
    ("o-nofollow", "openat n:-100 s:{A}/link n:0o400000 n:0", "ELOOP"),
    ("o-path-nofollow", f"openat n:-100 s:{{A}}/link n:{O_PATH | 0o400000} n:0", "ELOOP"),
    ("loop", "openat n:-100 s:{A}/loop n:0 n:0", "ELOOP"),
    ("dangling", "openat n:-100 s:{A}/dangling n:0 n:0", "ENOENT"),
    ("directory-for-writing", "openat n:-100 s:{A}/sub n:1 n:0", "EISDIR"),
    ("directory-create", "openat n:-100 s:{A}/sub n:0o100 n:0", "EISDIR"),
    ("empty-path", "openat n:-100 e: n:0 n:0", "ENOENT"),
    ("null", "openat n:-100 0: n:0 n:0", "EFAULT"),
    ("long-name", "openat n:-100 s:{A}/" + "x" * 256 + " n:0 n:0", "ENAMETOOLONG"),
    ("long-path", "openat n:-100 s:" + "/x" * 2100 + " n:0 n:0", "ENAMETOOLONG"),
    ("bad-descriptor", "openat n:77 s:a.txt n:0 n:0", "EBADF"),
    ("file-as-descriptor", "openat f:{A}/a.txt s:a.txt n:0 n:0", "ENOTDIR"),
    ("open2-xdev", "openat2 n:-100 s:{A}/a.txt " + how(0, 1) + " n:24", "EXDEV"),
    ("open2-in-root", "openat2 f:{B} s:app/a.txt " + how(0, 16) + " n:24", "EXDEV"),
    ("open2-beneath-out", "openat2 f:{A}/sub s:../a.txt " + how(0, 8) + " n:24", "EXDEV"),
    ("open2-no-links", "openat2 n:-100 s:{A}/link " + how(0, 4) + " n:24", "ELOOP"),
    ("open2-no-magic", "openat2 n:-100 s:/proc/self/root{A}/a.txt " + how(0, 2) + " n:24", "ELOOP"),
    ("open2-unknown-resolve", "openat2 n:-100 s:{A}/a.txt " + how(0, 1 << 40) + " n:24", "EINVAL"),
    ("open2-unknown-flag", "openat2 n:-100 s:{A}/a.txt " + how(1 << 40, 0) + " n:24", "EINVAL"),
    ("open2-longer", "openat2 n:-100 s:{A}/a.txt " + how(0, 0) + "01" * 8 + " n:32", "E2BIG"),
    ("open2-cached", "openat2 n:-100 s:{A}/a.txt " + how(0, 32) + " n:24", "EAGAIN"),
    ("open2-small", "openat2 n:-100 s:{A}/a.txt " + how(0, 0) + " n:8", "EINVAL"),
    ("open2-write", "openat2 n:-100 s:{A}/a.txt " + how(1, 0) + " n:24", "EROFS"),
    ("readlink-file", "readlink s:{A}/a.txt b:64 n:64", "EINVAL"),
    ("readlink-directory", "readlinkat n:-100 s:{A}/sub b:64 n:64", "EINVAL"),
    ("readlink-missing", "readlink s:{A}/missing b:64 n:64", "ENOENT"),
    ("access-write", "access s:{A}/a.txt n:2", "EROFS"),
    ("access-bits", "access s:{A}/a.txt n:64", "EINVAL"),
    ("stat-fault", "stat s:{A}/a.txt n:8", "EFAULT"),
    ("truncate", "truncate s:{A}/a.txt n:0", "EROFS"),
    ("truncate-missing", "truncate s:{A}/missing n:0", "ENOENT"),
    ("mkdir", "mkdir s:{A}/new n:0o755", "EROFS"),
    ("mkdir-existing", "mkdirat n:-100 s:{A}/sub n:0o755", "EEXIST"),
    ("mkdir-missing-parent", "mkdir s:{A}/missing/x n:0o755", "ENOENT"),
    ("mkdir-leading", "mkdir s:{L} n:0o755", "EEXIST"),
    ("mknod", "mknod s:{A}/new n:0o100644 n:0", "EROFS"),
    ("mknodat", "mknodat f:{A} s:new n:0o010644 n:0", "EROFS"),
    ("symlink", "symlink s:x s:{A}/new", "EROFS"),
    ("symlinkat", "symlinkat s:x f:{A} s:a.txt", "EEXIST"),
    ("unlink", "unlink s:{A}/a.txt", "EROFS"),
    ("unlinkat", "unlinkat f:{A} s:sub n:0x200", "EROFS"),
    ("rmdir-region", "rmdir s:{A}", "EBUSY"),
    ("rmdir-ancestor", "rmdir s:{B}", "EBUSY"),
    ("unlink-injected", "unlink s:{I}", "EBUSY"),
    ("rmdir-injected", "rmdir s:{I}", "ENOTDIR"),
    ("rename", "rename s:{A}/a.txt s:{A}/c.txt", "EROFS"),
    ("rename-out", "rename s:{A}/a.txt s:{D}/c.txt", "EXDEV"),
    ("rename-in", "renameat n:-100 s:{D}/plain n:-100 s:{A}/new", "EXDEV"),
    ("rename-region", "rename s:{A} s:{B}/other", "EBUSY"),
    ("rename-ancestor", "rename s:{B} s:{B}.moved", "EBUSY"),
    ("rename-ancestor-2", "renameat2 n:-100 s:{B} n:-100 s:{D} n:2", "EBUSY"),
    ("rename-onto-ancestor", "rename s:{D} s:{B}", "EBUSY"),
    ("rename-injected", "rename s:{I} s:{D}/x", "EBUSY"),
    ("rename-onto-injected", "rename s:{D}/plain s:{I}", "EBUSY"),
    ("link", "link s:{A}/a.txt s:{A}/hard", "EROFS"),
    ("link-out", "link s:{A}/a.txt s:{D}/hard", "EXDEV"),
    ("link-in", "linkat n:-100 s:{D}/plain n:-100 s:{A}/hard n:0", "EXDEV"),
    ("link-injected", "link s:{I} s:{D}/hard", "EXDEV"),
    ("link-descriptor", f"linkat f:{{A}}/a.txt e: n:-100 s:{{D}}/hard n:{EMPTY_PATH}", "EXDEV"),
    ("chmod", "chmod s:{A}/a.txt n:0o777", "EROFS"),
    ("fchmod", "fchmod f:{A}/a.txt n:0o777", "EROFS"),
    ("fchmod-directory", "fchmod f:{A} n:0o777", "EROFS"),
    ("fchmodat", "fchmodat n:-100 s:{A}/sub n:0o777", "EROFS"),
    ("fchmodat2", f"fchmodat2 f:{{A}}/a.txt e: n:0o777 n:{EMPTY_PATH}", "EROFS"),
    ("chown", "chown s:{A}/a.txt n:0 n:0", "EROFS"),
    ("lchown", "lchown s:{A}/link n:0 n:0", "EROFS"),
    ("fchown", "fchown f:{A}/a.txt n:0 n:0", "EROFS"),
    ("fchownat", "fchownat n:-100 s:{A}/a.txt n:0 n:0 n:0", "EROFS"),
    ("utime", "utime s:{A}/a.txt 0:", "EROFS"),
    ("utimes", "utimes s:{A}/a.txt 0:", "EROFS"),
    ("futimesat", "futimesat n:-100 s:{A}/a.txt 0:", "EROFS"),
    ("utimensat", "utimensat n:-100 s:{A}/a.txt 0: n:0", "EROFS"),
    ("utimensat-descriptor", "utimensat f:{A}/a.txt 0: 0: n:0", "EROFS"),
    ("setxattr", "setxattr s:{A}/a.txt s:user.x s:y n:1 n:0", "EROFS"),
    ("lsetxattr", "lsetxattr s:{A}/link s:user.x s:y n:1 n:0", "EROFS"),
    ("fsetxattr", "fsetxattr f:{A}/a.txt s:user.x s:y n:1 n:0", "EROFS"),
    ("removexattr", "removexattr s:{A}/a.txt s:user.x", "EROFS"),
    ("lremovexattr", "lremovexattr s:{A}/link s:user.x", "EROFS"),
    ("fremovexattr", "fremovexattr f:{A}/a.txt s:user.x", "EROFS"),
    ("setxattrat", "setxattrat n:-100 s:{A}/a.txt n:0 s:user.x b:16 n:16", "EROFS"),
    ("removexattrat", "removexattrat n:-100 s:{A}/a.txt n:0 s:user.x", "EROFS"),
    ("file-setattr", "file_setattr n:-100 s:{A}/a.txt b:24 n:24 n:0", "EROFS"),
    ("getxattr", "getxattr s:{A}/a.txt s:user.x b:8 n:8", "ENODATA"),
    ("lgetxattr", "lgetxattr s:{A}/link s:user.x b:8 n:8", "ENODATA"),
    ("getxattrat", "getxattrat n:-100 s:{A}/a.txt n:0 s:user.x b:16 n:16", "ENODATA"),
    ("getxattr-missing", "getxattr s:{A}/missing s:user.x b:8 n:8", "ENOENT"),
    ("file-getattr", "file_getattr n:-100 s:{A}/a.txt b:24 n:24 n:0", "EOPNOTSUPP"),
    ("handle", "name_to_handle_at n:-100 s:{A}/a.txt b:136 b:4 n:0", "EOPNOTSUPP"),
    ("inotify", "inotify_add_watch n:0 s:{A} n:2", "EACCES"),
    ("fanotify", "fanotify_mark n:0 n:1 n:2 n:-100 s:{A}", "EACCES"),
    ("list-path-only", "getdents64 p:{B} b:1024 n:1024", "EBADF"),
    ("chdir-file", "chdir s:{A}/a.txt", "ENOTDIR"),
    ("chdir-missing", "chdir s:{A}/missing", "ENOENT"),
    ("chroot", "chroot s:{A}", "EPERM"),
    ("exec-directory", "execve s:{A}/sub 0: 0:", "EACCES"),
    ("exec-data", "execve s:{A}/a.txt 0: 0:", "EACCES"),
    ("mount", "mount s:none s:{A} s:tmpfs n:0 0:", "EPERM"),
    ("umount", "umount2 s:{A} n:0", "EPERM"),
    ("pivot-root", "pivot_root s:{A} s:{A}", "EPERM"),
    ("open-tree", "open_tree n:-100 s:{A} n:0", "EPERM"),
    ("move-mount", "move_mount n:-100 s:{A} n:-100 s:{D} n:0", "EPERM"),
    ("setns", "setns n:0 n:0", "EPERM"),
    ("unshare-mounts", "unshare n:0x20000", "EPERM"),
    ("unshare-user", "unshare n:0x10000000", "EPERM"),
    ("clone-user", "clone n:0x10000011 n:0 n:0 n:0 n:0", "EPERM"),
    ("handle-open", "open_by_handle_at n:-100 b:136 n:0", "EPERM"),
    ("clone3", "clone3 b:88 n:88", "ENOSYS"),
    ("io-uring", "io_uring_setup n:8 b:120", "ENOSYS"),
)
BEYOND: tuple[Row, ...] = (
    ("beyond-the-table", "470", "ENOSYS"),
    ("x32", "1073741826 s:{A}/a.txt n:0 n:0", "ENOSYS"),
)
AT_EMPTY: tuple[Row, ...] = (
    # The flag with a path must not be a way round: with AT_FDCWD it is answered by us.
    ("hex-stat", f"newfstatat n:-100 s:{{A}}/a.txt b:144 n:{EMPTY_PATH}", ""),
    ("hex-statx", f"statx n:-100 s:{{A}}/a.txt n:{EMPTY_PATH} n:0xfff b:256", ""),
    ("planted", f"newfstatat n:-100 s:{{A}}/planted b:144 n:{EMPTY_PATH}", "ENOENT"),
    ("planted-x", f"statx n:-100 s:{{A}}/planted n:{EMPTY_PATH} n:0xfff b:256", "ENOENT"),
)
INJECTED: tuple[Row, ...] = (
    ("chmod", "chmod s:{K} n:0o600", "0"),
    ("utimensat", "utimensat n:-100 s:{K} 0: n:0", "0"),
    ("truncate", "truncate s:{K} n:2", "0"),
    ("open-after", "openat n:-100 s:{K} n:0 n:0", "fd:ke"),
    ("setxattr", "setxattr s:{K} s:user.x s:y n:1 n:0", "EOPNOTSUPP"),
    ("exclusive", "openat n:-100 s:{K} n:0o302 n:0o600", "EEXIST"),
    ("open-write", "openat n:-100 s:{K} n:1 n:0", "fd:EBADF"),
    ("open-both", "openat n:-100 s:{K} n:2 n:0", "fd:ke"),
)

ALL = (*READING, *REFUSED, *BEYOND)


class Table:
    def __init__(self, base: Path, user: int | None = None) -> None:
        owner = (user, user) if user is not None else None
        self.shield = shield = Shield(base)
        shield.user = user
        shield.protect(
            {"a.txt": b"alpha", "sub/b.txt": b"beta", "empty": b""},
            links={
                "link": "a.txt",
                "absolute": f"{base}/app/sub/b.txt",
                "loop": "loop",
                "dangling": "nothing",
                "out": f"{base}/disk/plain",
            },
            owner=owner,
        )
        (shield.app / "planted").write_text("#!/bin/sh\necho planted\n")
        (shield.app / "planted").chmod(0o755)
        disk = base / "disk"
        disk.mkdir()
        (disk / "plain").write_text("plain")
        (disk / "into").symlink_to(base / "app" / "link")
        shield.inject(base / "virtual" / "deep" / "cert.pem", b"certificate")
        shield.inject(shield.app / "key.pem", b"key")
        self.names = {
            "A": str(shield.app),
            "B": str(base),
            "D": str(disk),
            "I": str(base / "virtual" / "deep" / "cert.pem"),
            "K": str(shield.app / "key.pem"),
            "L": str(base / "virtual" / "deep"),
        }
        for path in (base, disk):
            path.chmod(0o755)
        if user is not None:
            os.chown(disk, user, user)

    def text(self, template: str) -> str:
        for name, value in self.names.items():
            template = template.replace("{" + name + "}", value)
        return template

    def run(self, program: Path, rows: tuple[Row, ...], threads: int = 4) -> dict[str, str]:
        numbers = machine_named(platform.machine()).numbers
        lines = []
        for index, (label, call, _) in enumerate(rows):
            name, _, rest = self.text(call).partition(" ")
            number = numbers.get(name, name if name.isdigit() else None)
            if number is not None:
                rest = rest.replace("n:0o", "n:0")
                lines.append(f"{label}#{index} {number} {rest}".rstrip())
        commands = self.shield.base / "commands"
        commands.write_text("\n".join(lines) + "\n")
        result: Result = self.shield.run([program, commands, str(threads)])
        assert "DIFFERS" not in result.stdout, result.stdout
        assert result.returncode == 0, result.stdout[-2000:] + result.stderr
        found = {}
        for line in result.stdout.splitlines():
            label, _, answer = line.partition(" ")
            found[label] = answer
        return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("programs")
    place.chmod(0o755)
    place.parent.chmod(0o755)
    return compile_program("calls", place)


def _base(factory: pytest.TempPathFactory) -> Path:
    base = factory.mktemp("table")
    for path in (base, base.parent, base.parent.parent):
        path.chmod(0o755)
    return base


@pytest.fixture(scope="module", params=["launcher", "nobody"])
def answers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, program: Path
) -> tuple[Table, dict[str, str]]:
    user = None
    if request.param == "nobody":
        if os.getuid() != 0:
            pytest.skip("changing the user needs root")
        user = NOBODY
    table = Table(_base(tmp_path_factory), user)
    return table, table.run(program, ALL)


@pytest.mark.parametrize("index", range(len(ALL)), ids=[f"{row[0]}" for row in ALL])
def test_row(answers: tuple[Table, dict[str, str]], index: int) -> None:
    table, found = answers
    label, call, expected = ALL[index]
    answer = found.get(f"{label}#{index}")
    if answer is None:
        pytest.skip(f"{call.split()[0]} does not exist on {platform.machine()}")
    if label == "chroot" and answer == "EPERM":
        return
    assert answer == table.text(expected), call


def test_the_empty_path_flag_with_a_path_is_no_way_round(
    tmp_path_factory: pytest.TempPathFactory, program: Path
) -> None:
    table = Table(_base(tmp_path_factory))
    found = table.run(program, AT_EMPTY)
    assert found["planted#2"] == found["planted-x#3"] == "ENOENT"
    (on_disk := (table.shield.app / "a.txt")).touch()
    inode = struct.pack("<Q", on_disk.stat().st_ino).hex()
    assert inode not in found["hex-stat#0"]
    assert inode not in found["hex-statx#1"]


def test_injected_files_change_in_memory(
    tmp_path_factory: pytest.TempPathFactory, program: Path
) -> None:
    table = Table(_base(tmp_path_factory))
    found = table.run(program, INJECTED, threads=1)
    for index, (label, _, expected) in enumerate(INJECTED):
        assert found[f"{label}#{index}"] == expected, label
    assert not (table.shield.app / "key.pem").exists()
