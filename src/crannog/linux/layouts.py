"""Packing the structures that stat calls fill in. Pure.

`struct stat` differs between machines; `struct statx` and `struct statfs` do not. Sources:
`arch/x86/include/uapi/asm/stat.h`, `include/uapi/asm-generic/stat.h`,
`include/uapi/linux/stat.h`, `include/uapi/asm-generic/statfs.h`.
"""

from __future__ import annotations

import os
import struct

from crannog.errors import Unsupported

_NANO = 1_000_000_000
_BLOCK = 4096
_STATX_BASIC_STATS = 0x7FF

_STAT_X86_64 = struct.Struct("<QQQIIIIQqqqqQqQqQ24x")
_STAT_ARM64 = struct.Struct("<QQIIIIQ8xqi4xqqQqQqQ8x")
_STATX = struct.Struct("<IIQIIIH2xQQQQqI4x16xqI4xqI4xIIII112x")
_STATFS = struct.Struct("<qqQQQQQiiqqq32x")

_TMPFS_MAGIC = 0x01021994


def pack_stat(status: os.stat_result, machine: str) -> bytes:
    """`struct stat` of 64-bit calls on `machine` (as `uname -m` says it)."""
    times: list[int] = []
    for stamp in (status.st_atime_ns, status.st_mtime_ns, status.st_ctime_ns):
        times += divmod(stamp, _NANO)
    if machine == "x86_64":
        return _STAT_X86_64.pack(
            status.st_dev,
            status.st_ino,
            status.st_nlink,
            status.st_mode,
            status.st_uid,
            status.st_gid,
            0,
            status.st_rdev,
            status.st_size,
            _BLOCK,
            status.st_blocks,
            *times,
        )
    if machine != "aarch64":
        raise Unsupported(f"no layout of struct stat for {machine}")
    return _STAT_ARM64.pack(
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_rdev,
        status.st_size,
        _BLOCK,
        status.st_blocks,
        *times,
    )


def pack_statx(status: os.stat_result) -> bytes:
    """`struct statx` with the basic fields; the time of birth is left out."""
    return _STATX.pack(
        _STATX_BASIC_STATS,
        _BLOCK,
        0,
        status.st_nlink,
        status.st_uid,
        status.st_gid,
        status.st_mode,
        status.st_ino,
        status.st_size,
        status.st_blocks,
        0,
        *divmod(status.st_atime_ns, _NANO),
        *divmod(status.st_ctime_ns, _NANO),
        *divmod(status.st_mtime_ns, _NANO),
        os.major(status.st_rdev),
        os.minor(status.st_rdev),
        os.major(status.st_dev),
        os.minor(status.st_dev),
    )


def pack_statfs() -> bytes:
    """`struct statfs` of a virtual file: what fstatfs says of one, a tmpfs without bounds."""
    return _STATFS.pack(_TMPFS_MAGIC, _BLOCK, 0, 0, 0, 0, 0, 0, 0, 255, _BLOCK, 0)
