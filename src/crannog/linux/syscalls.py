"""Numbers of the system calls that the file shield looks at, for the two machines it knows.

Only calls that take a path, act on a directory's contents, change what a process may do, or would
get round the filter are named. Source: `arch/x86/entry/syscalls/syscall_64.tbl` and
`scripts/syscall.tbl` of Linux 6.18. From 424 on both machines use the same numbers.
"""

from __future__ import annotations

from typing import NamedTuple

from crannog.errors import Unsupported


class Machine(NamedTuple):
    """One processor architecture's system call interface.

    Attributes:
        name: as `uname -m` says it.
        audit_arch: `AUDIT_ARCH_*`, what a filter sees as the call's architecture.
        numbers: name of the call to its number; calls that the machine does not have are left out.
        end: the highest number in the table these were taken from. What lies beyond is unknown, so
            it might take a path.
    """

    name: str
    audit_arch: int
    numbers: dict[str, int]
    end: int


LAST_KNOWN = 469  # file_setattr, Linux 6.18

# name: (x86-64, arm64); -1 where the machine does not have it.
_TABLE: dict[str, tuple[int, int]] = {
    "mmap": (9, 222),
    "open": (2, -1),
    "stat": (4, -1),
    "lstat": (6, -1),
    "access": (21, -1),
    "clone": (56, 220),
    "execve": (59, 221),
    "truncate": (76, 45),
    "getdents": (78, -1),
    "getcwd": (79, 17),
    "chdir": (80, 49),
    "rename": (82, -1),
    "mkdir": (83, -1),
    "rmdir": (84, -1),
    "creat": (85, -1),
    "link": (86, -1),
    "unlink": (87, -1),
    "symlink": (88, -1),
    "readlink": (89, -1),
    "chmod": (90, -1),
    "fchmod": (91, 52),
    "chown": (92, -1),
    "fchown": (93, 55),
    "lchown": (94, -1),
    "setuid": (105, 146),
    "setgid": (106, 144),
    "setreuid": (113, 145),
    "setregid": (114, 143),
    "setgroups": (116, 159),
    "setresuid": (117, 147),
    "setresgid": (119, 149),
    "setfsuid": (122, 151),
    "setfsgid": (123, 152),
    "capset": (126, 91),
    "utime": (132, -1),
    "mknod": (133, -1),
    "uselib": (134, -1),
    "statfs": (137, 43),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "acct": (163, 89),
    "mount": (165, 40),
    "umount2": (166, 39),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "quotactl": (179, 60),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "getxattr": (191, 8),
    "lgetxattr": (192, 9),
    "listxattr": (194, 11),
    "llistxattr": (195, 12),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "getdents64": (217, 61),
    "utimes": (235, -1),
    "inotify_add_watch": (254, 27),
    "openat": (257, 56),
    "mkdirat": (258, 34),
    "mknodat": (259, 33),
    "fchownat": (260, 54),
    "futimesat": (261, -1),
    "newfstatat": (262, 79),
    "unlinkat": (263, 35),
    "renameat": (264, 38),
    "linkat": (265, 37),
    "symlinkat": (266, 36),
    "readlinkat": (267, 78),
    "fchmodat": (268, 53),
    "faccessat": (269, 48),
    "unshare": (272, 97),
    "utimensat": (280, 88),
    "fanotify_mark": (301, 263),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "setns": (308, 268),
    "renameat2": (316, 276),
    "execveat": (322, 281),
    "statx": (332, 291),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "clone3": (435, 435),
    "openat2": (437, 437),
    "faccessat2": (439, 439),
    "mount_setattr": (442, 442),
    "fchmodat2": (452, 452),
    "setxattrat": (463, 463),
    "getxattrat": (464, 464),
    "listxattrat": (465, 465),
    "removexattrat": (466, 466),
    "open_tree_attr": (467, 467),
    "file_getattr": (468, 468),
    "file_setattr": (469, 469),
}

# Calls that the launcher makes itself, or has a thread make; never notified.
_OWN: dict[str, tuple[int, int]] = {"seccomp": (317, 277), "fchdir": (81, 50), "close": (3, 57)}


def _machine(name: str, audit_arch: int, column: int) -> Machine:
    table = {**_TABLE, **_OWN}
    numbers = {call: pair[column] for call, pair in table.items() if pair[column] >= 0}
    return Machine(name, audit_arch, numbers, LAST_KNOWN)


X86_64 = _machine("x86_64", 0xC000003E, 0)
ARM64 = _machine("aarch64", 0xC00000B7, 1)


def machine_named(name: str) -> Machine:
    """The machine that `uname -m` calls `name`.

    Raises:
        Unsupported: the shield has no table for it.
    """
    for machine in (X86_64, ARM64):
        if machine.name == name:
            return machine
    raise Unsupported(
        f"file shield: processor architecture is {name}, expected x86_64 or aarch64",
        hint="run on x86-64 or arm64, or without protected and injected files",
    )
