"""The launcher's own digest: a claim beside the MRENCLAVE, so that upgrading it breaks no session.

Decides which of our files are the launcher. Source of trust is the reader's: a launcher that lies
about itself is what the levels of trust are about (design section 5).
"""

from __future__ import annotations

import hashlib
import os
import struct

from crannog.errors import Misconfigured

PACKAGES = ("evidence", "exchange", "linux", "measure", "pki", "runtime", "shield", "transport")
MODULES = ("__init__", "__main__", "errors", "keyhash", "levels", "wire")
LABEL = b"crannog launcher v1\n"


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
