"""Files beside the libraries that change what glibc, musl and OpenSSL load into a program.

Decides which paths those are, from what is compiled into the measured libraries themselves. Each of
them ran foreign code in a trial with every library unchanged, hence their place in the measurement.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from crannog.errors import TooLarge
from crannog.measure.root import Root

PRELOAD = "/etc/ld.so.preload"
CACHE = "/etc/ld.so.cache"
NSSWITCH = "/etc/nsswitch.conf"

_LIBRARY_LIMIT = 256 << 20
_TEXT_LIMIT = 1 << 20
_MAX_INCLUDES = 64
_GCONV = b"/gconv\0"
_LOCALES = b"/locale-archive\0"
_OPENSSL = b'OPENSSLDIR: "'
_INCLUDE = rb"(?m)^[ \t]*\.include[ \t]*=?[ \t]*(\S[^\r\n]*?)[ \t]*\r?$"


def compiled_in(data: bytes, tail: bytes) -> tuple[str, ...]:
    """The absolute paths in a library's bytes that end with `tail`, its final NUL included."""
    found: list[str] = []
    position = data.find(tail)
    while position >= 0:
        end = position + len(tail) - 1
        start = data.rfind(b"\0", max(0, position - 4096), position) + 1
        path = data[start:end]
        if path.startswith(b"/") and path.isascii():
            found.append(os.fsdecode(path))
        position = data.find(tail, end)
    return tuple(dict.fromkeys(found))


def openssl_directory(data: bytes) -> str | None:
    """OPENSSLDIR of a libcrypto's bytes; None where it is none."""
    start = data.find(_OPENSSL)
    if start < 0:
        return None
    start += len(_OPENSSL)
    end = data.find(b'"', start, start + 4096)
    path = data[start:end] if end >= 0 else b""
    return os.fsdecode(path) if path.startswith(b"/") else None


def library_bytes(root: Root, path: str) -> bytes:
    """A library's bytes, to look for compiled-in paths in them; empty where it is not there."""
    return root.read_digested(path, limit=_LIBRARY_LIMIT) or b""


def libc_files(root: Root, data: bytes) -> Iterator[str]:
    """The converter and locale files of the glibc (or static glibc program) with these bytes."""
    for directory in compiled_in(data, _GCONV):
        yield f"{directory}/gconv-modules"
        yield f"{directory}/gconv-modules.cache"
        for name in root.names(f"{directory}/gconv-modules.d"):
            yield f"{directory}/gconv-modules.d/{name}"
    yield from compiled_in(data, _LOCALES)


def nss_modules(root: Root) -> tuple[str, ...]:
    """The library names that nsswitch.conf leads to, sorted; files, dns and so on included."""
    text = root.read(NSSWITCH, limit=_TEXT_LIMIT) or b""
    services: set[str] = set()
    for line in text.splitlines():
        database, colon, words = line.partition(b"#")[0].partition(b":")
        if not colon or not database.strip():
            continue
        for word in re.sub(rb"\[[^\]]*\]", b" ", words).split():
            services.add(os.fsdecode(word))
    return tuple(sorted(f"libnss_{name}.so.2" for name in services if "/" not in name))


def openssl_files(root: Root, directory: str) -> tuple[str, ...]:
    """`openssl.cnf` and every file it includes, directly or through others."""
    found: list[str] = []
    queue = [f"{directory}/openssl.cnf"]
    while queue:
        path = queue.pop(0)
        if path in found:
            continue
        found.append(path)
        if len(found) > _MAX_INCLUDES:
            raise TooLarge(f"{directory}/openssl.cnf includes more than {_MAX_INCLUDES} files")
        for raw in re.findall(_INCLUDE, root.read(path, limit=_TEXT_LIMIT) or b""):
            target = os.fsdecode(raw.strip(b"\"'"))
            if root.is_directory(target):
                queue += [
                    f"{target.rstrip('/')}/{name}"
                    for name in root.names(target)
                    if name.endswith((".cnf", ".conf"))
                ]
            elif target.startswith("/"):
                queue.append(target)
    return tuple(found)
