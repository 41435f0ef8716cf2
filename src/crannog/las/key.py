"""The LAS's own key: an Ed25519 seed in a file that only its owner can read.

Its public key (64 hex) is the platform's name, so it has to survive restarts: an unreadable or
damaged file is refused, never replaced.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog.errors import FormatError, Misconfigured, StorageFailed
from crannog.wire import parse_hex

KEY_FILE = "las.key"


def load_key(state_directory: Path) -> Ed25519PrivateKey:
    """The key in `state_directory`, made on first use.

    Raises:
        Misconfigured: others can read the file, or it does not hold a key.
        StorageFailed: the directory cannot be made or written.
    """
    path = state_directory / KEY_FILE
    try:
        state_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        seed = _read(path)
        if seed is None:
            _create(path, secrets.token_bytes(32))
            seed = _read(path)
    except OSError as error:
        raise StorageFailed(
            f"LAS key {path}: {(error.strerror or 'failed').lower()}",
            hint="the state directory has to be readable and writable for this user",
        ) from error
    if seed is None:
        raise StorageFailed(f"LAS key {path} vanished while it was made")
    return Ed25519PrivateKey.from_private_bytes(seed)


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise Misconfigured(
                f"LAS key {path} has mode {mode:04o}, expected a regular file with mode 0600",
                hint="others may have read it; remove it for a new key, and enrol that one",
            )
        text = file.read(200)
    try:
        return parse_hex(text.decode("ascii", "replace").strip(), 32, f"LAS key {path}")
    except FormatError as error:
        raise Misconfigured(
            f"LAS key {path} is damaged: {error.message}",
            hint="restore it, or remove it for a new key, which is another platform",
        ) from error


def _create(path: Path, seed: bytes) -> None:
    # Under another name first: no half key, and of two starting LASes one wins for both.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(seed.hex().encode() + b"\n")
            file.flush()
            os.fsync(descriptor)
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
