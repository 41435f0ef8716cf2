"""Which handler answers which system call, and what the filter lets pass.

The meaning of every row is in docs/formats/system-calls.md.
"""

from __future__ import annotations

import errno

from crannog.linux.seccomp import (
    NOTIFY,
    Condition,
    Rule,
    any_bit,
    is_not,
    is_value,
    refuse,
)
from crannog.runtime.supervisor import changing, looking, opening, standing
from crannog.runtime.supervisor.call import Call
from crannog.runtime.supervisor.looking import AT_EMPTY_PATH, AT_SYMLINK_NOFOLLOW, virtual
from crannog.runtime.supervisor.loop import AT_FDCWD, Handler, Supervisor
from crannog.runtime.supervisor.resolve import Found

_CLONE_NEWTIME = 0x80
_CLONE_NAMESPACES = (
    0x00020000  # CLONE_NEWNS
    | 0x02000000  # CLONE_NEWCGROUP
    | 0x04000000  # CLONE_NEWUTS
    | 0x08000000  # CLONE_NEWIPC
    | 0x10000000  # CLONE_NEWUSER
    | 0x20000000  # CLONE_NEWPID
    | 0x40000000  # CLONE_NEWNET
)

# They would change what a path means under the supervisor's feet, or open without a path.
_NOT_PERMITTED = (
    "setns",
    "pivot_root",
    "mount",
    "umount2",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "mount_setattr",
    "open_by_handle_at",
    "acct",
    "swapon",
    "swapoff",
    "quotactl",
)
_NOT_THERE = ("io_uring_setup", "io_uring_enter", "io_uring_register", "clone3", "uselib")

_MAP_ANONYMOUS = 0x20
_MAP_TYPE = 0x0F
_MAP_PRIVATE = 2
_PROT_EXEC = 4


def filter_rules(supervisor: Supervisor) -> dict[str, tuple[Rule, ...]]:
    """The filter for the handlers that are registered; frequent calls with conditions first."""
    notify = (Rule(NOTIFY),)
    rules: dict[str, tuple[Rule, ...]] = {}
    if "mmap" in supervisor.handlers:
        file_backed = Condition(3, _MAP_ANONYMOUS, 0)
        rules["mmap"] = (
            Rule(NOTIFY, (file_backed, any_bit(2, _PROT_EXEC))),
            Rule(NOTIFY, (file_backed, Condition(3, _MAP_TYPE, _MAP_PRIVATE))),
        )
    # fstat of the C library. An empty path cannot be seen by a filter; a descriptor can.
    rules["newfstatat"] = _unless_descriptor(flags=3)
    rules["statx"] = _unless_descriptor(flags=2)
    for name in sorted(supervisor.handlers):
        rules.setdefault(name, notify)
    # The flags of clone are 64 bits in the kernel, but only these 32 make namespaces; the lowest
    # byte is the exit signal there, so CLONE_NEWTIME cannot be asked for with it.
    rules["clone"] = (Rule(refuse(errno.EPERM), (any_bit(0, _CLONE_NAMESPACES),)),)
    unshared = _CLONE_NAMESPACES | _CLONE_NEWTIME
    rules["unshare"] = (Rule(refuse(errno.EPERM), (any_bit(0, unshared),)),)
    rules.update((name, (Rule(refuse(errno.EPERM)),)) for name in _NOT_PERMITTED)
    rules.update((name, (Rule(refuse(errno.ENOSYS)),)) for name in _NOT_THERE)
    return rules


def _unless_descriptor(*, flags: int) -> tuple[Rule, ...]:
    return (
        Rule(NOTIFY, (is_value(0, AT_FDCWD),)),
        Rule(NOTIFY, (Condition(flags, AT_EMPTY_PATH, 0), is_not(0, AT_FDCWD))),
    )


def register_all(supervisor: Supervisor) -> None:
    """Register the handlers of this package; `execute`, `listing`, `dlopen` add their own."""
    for name, handler in _HANDLERS.items():
        supervisor.register(name, handler)


def _answering(
    answer: looking.Answer, *, directory: int | None, path: int, follow: bool, flags: int = -1
) -> Handler:
    """A handler that answers for virtual objects and leaves the rest to the kernel.

    Args:
        answer: for a virtual object.
        directory: which argument the path is relative to, None for the working directory.
        path: which argument is the path.
        follow: whether a link at the end is followed, where no flags say it.
        flags: which argument holds `AT_*` flags, -1 for none.
    """

    def handle(call: Call) -> None:
        arguments = call.arguments
        at = AT_FDCWD if directory is None else arguments[directory]
        bits = 0 if flags < 0 else arguments[flags]
        follows = follow if flags < 0 else not bits & AT_SYMLINK_NOFOLLOW
        empty = flags < 0 or bool(bits & AT_EMPTY_PATH)
        found: Found | None = virtual(call, at, arguments[path], follow=follows, empty=empty)
        if found is None:
            call.proceed()
        else:
            answer(call, found)

    return handle


_read_attribute = looking.no_such_attribute
_list_attributes = looking.empty_list

_HANDLERS: dict[str, Handler] = {
    "open": opening.handle_open,
    "creat": opening.handle_creat,
    "openat": opening.handle_openat,
    "openat2": opening.handle_openat2,
    "stat": looking.handle_stat,
    "lstat": looking.handle_lstat,
    "newfstatat": looking.handle_newfstatat,
    "statx": looking.handle_statx,
    "statfs": looking.handle_statfs,
    "access": looking.handle_access,
    "faccessat": looking.handle_faccessat,
    "faccessat2": looking.handle_faccessat2,
    "readlink": looking.handle_readlink,
    "readlinkat": looking.handle_readlinkat,
    "getcwd": looking.handle_getcwd,
    "getxattr": _answering(_read_attribute, directory=None, path=0, follow=True),
    "lgetxattr": _answering(_read_attribute, directory=None, path=0, follow=False),
    "getxattrat": _answering(_read_attribute, directory=0, path=1, follow=True, flags=2),
    "listxattr": _answering(_list_attributes, directory=None, path=0, follow=True),
    "llistxattr": _answering(_list_attributes, directory=None, path=0, follow=False),
    "listxattrat": _answering(_list_attributes, directory=0, path=1, follow=True, flags=2),
    "file_getattr": _answering(looking.not_supported, directory=0, path=1, follow=True, flags=4),
    "name_to_handle_at": _answering(looking.not_supported, directory=0, path=1, follow=False),
    "inotify_add_watch": _answering(looking.not_permitted, directory=None, path=1, follow=True),
    "fanotify_mark": _answering(looking.not_permitted, directory=3, path=4, follow=True),
    "chdir": standing.handle_chdir,
    "chroot": standing.handle_chroot,
    "mkdir": changing.handle_mkdir,
    "mkdirat": changing.handle_mkdirat,
    "mknod": changing.handle_mkdir,
    "mknodat": changing.handle_mkdirat,
    "symlink": changing.handle_symlink,
    "symlinkat": changing.handle_symlinkat,
    "unlink": changing.handle_unlink,
    "rmdir": changing.handle_rmdir,
    "unlinkat": changing.handle_unlinkat,
    "rename": changing.handle_rename,
    "renameat": changing.handle_renameat,
    "renameat2": changing.handle_renameat,
    "link": changing.handle_link,
    "linkat": changing.handle_linkat,
    "chmod": changing.handle_chmod,
    "fchmod": changing.handle_fd_change,
    "fchmodat": changing.handle_fchmodat,
    "fchmodat2": changing.handle_fchmodat2,
    "chown": changing.handle_chown,
    "fchown": changing.handle_fd_change,
    "lchown": changing.handle_lchown,
    "fchownat": changing.handle_fchownat,
    "truncate": changing.handle_truncate,
    "utime": changing.handle_utime,
    "utimes": changing.handle_utimes,
    "futimesat": changing.handle_futimesat,
    "utimensat": changing.handle_utimensat,
    "setxattr": changing.attribute_change(at=False),
    "lsetxattr": changing.attribute_change(at=False, follow=False),
    "fsetxattr": changing.handle_fd_change,
    "setxattrat": changing.attribute_change(at=True),
    "removexattr": changing.attribute_change(at=False),
    "lremovexattr": changing.attribute_change(at=False, follow=False),
    "fremovexattr": changing.handle_fd_change,
    "removexattrat": changing.attribute_change(at=True),
    "file_setattr": changing.file_attributes,
    "setuid": standing.handle_identity,
    "setgid": standing.handle_identity,
    "setreuid": standing.handle_identity,
    "setregid": standing.handle_identity,
    "setresuid": standing.handle_identity,
    "setresgid": standing.handle_identity,
    "setfsuid": standing.handle_identity,
    "setfsgid": standing.handle_identity,
    "setgroups": standing.handle_identity,
    "capset": standing.handle_identity,
}
