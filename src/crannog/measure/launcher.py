"""The launcher's own digest: a claim beside the MRENCLAVE, so that upgrading it breaks no session.

Decides which of our files are the launcher. Source of trust is the reader's: a launcher that lies
about itself is what the levels of trust are about (design section 5).
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys

from crannog.errors import Misconfigured

PACKAGES = ("evidence", "exchange", "linux", "measure", "pki", "runtime", "shield", "transport")
MODULES = ("__init__", "__main__", "errors", "keyhash", "levels", "wire")
LABEL = b"crannog launcher v1\n"
DIGEST = "digest"

_HEX = frozenset(b"0123456789abcdef")


def own_directory() -> str | None:
    """The launcher directory whose Python this process runs; None where it is another Python.

    Python found its prefix from its own path, and was told to heed neither environment nor site
    (`-I -S`), which only the directories' entries do: PYTHONHOME or another variable does not lead
    here.
    """
    if not (sys.flags.isolated and sys.flags.no_site):
        return None
    return sys.prefix if os.path.isfile(os.path.join(sys.prefix, DIGEST)) else None


def own_digest() -> bytes:
    """What the launcher that this code is claims to be.

    The digest of its launcher directory where it lies in one, else that of its package.

    Raises:
        Misconfigured: our own files cannot be read.
    """
    directory = own_directory()
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if directory is not None and package == os.path.join(directory, "site", "crannog"):
        return claimed_digest(directory)
    return launcher_digest(package)


def claimed_digest(directory: str) -> bytes:
    """The digest that a launcher directory holds about itself; nothing is recomputed.

    Raises:
        Misconfigured: its file `digest` is not there or is not one.
    """
    path = os.path.join(directory, DIGEST)
    try:
        with open(path, "rb") as file:
            text = file.read(66)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {error.strerror}") from error
    if len(text) != 65 or not text.endswith(b"\n") or not set(text[:64]) <= _HEX:
        raise Misconfigured(f"{path} holds no digest, expected 64 lower-case hex digits")
    return bytes.fromhex(text[:64].decode("ascii"))


def launcher_digest(package: str) -> bytes:
    """SHA-256 over the launcher's Python files below `package`, the directory of crannog.

    Each counts with its path relative to `package`, in byte order, and its content.
    """
    names = [f"{name}.py" for name in MODULES]
    for part in PACKAGES:
        for directory, below, files in os.walk(os.path.join(package, part)):
            below.sort()
            relative = os.path.relpath(directory, package)
            names += [f"{relative}/{name}" for name in files if name.endswith(".py")]
    digest = hashlib.sha256(LABEL)
    for name in sorted(names):
        try:
            with open(os.path.join(package, name), "rb") as file:
                content = file.read()
        except OSError as error:
            raise Misconfigured(
                f"the launcher's own file {name} cannot be read: {error.strerror}"
            ) from error
        encoded = name.encode("utf-8", "surrogateescape")
        digest.update(struct.pack(">I", len(encoded)) + encoded)
        digest.update(struct.pack(">Q", len(content)) + content)
    return digest.digest()
