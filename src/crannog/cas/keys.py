"""Key providers: where the 32 bytes come from that open the store.

Everything the CAS stores is sealed or authenticated under keys derived from this master key
(docs/secrets.md). A provider finds it or says what to do; it never makes a second one beside a
database that another key has sealed, since what is sealed would be lost for good.

Here are a file and the environment. A TPM, a TEE's sealing key or a KMS are further providers.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from crannog.errors import FormatError, Misconfigured, StorageFailed
from crannog.wire import parse_hex

MASTER_KEY_SIZE = 32


class KeyProvider(Protocol):
    """Where a master key is kept."""

    def describe(self) -> str:
        """Where, in a few words for messages."""

    def load(self) -> bytes | None:
        """The 32 bytes, or None where there is none yet; `Misconfigured` where it is not usable."""

    def create(self, random: Callable[[int], bytes]) -> bytes:
        """Make a master key for a new database, keep it, and return it."""


class FileKey:
    """A master key in a file of 64 hex digits, readable by its owner only.

    The file is made with mode 0600, under another name first, so that there is never half a key
    and never an existing key overwritten.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def describe(self) -> str:
        """The file's name."""
        return f"key file {self._path}"

    def load(self) -> bytes | None:
        """The key of the file, or None where there is no such file.

        Raises:
            Misconfigured: group or others may read it, it belongs to somebody else, it is not a
                regular file or does not hold 64 hex digits.
        """
        try:
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Misconfigured(
                f"{self.describe()} cannot be opened: {error.strerror}",
                hint=f"make it readable for the user that runs the CAS (uid {os.geteuid()})",
            ) from error
        try:
            # The descriptor's own state, not the path's: the file may be swapped in between.
            self._check(os.fstat(descriptor))
            data = os.read(descriptor, 4 * MASTER_KEY_SIZE)
        except OSError as error:
            raise Misconfigured(f"{self.describe()} cannot be read: {error.strerror}") from error
        finally:
            os.close(descriptor)
        return _parse(data, self.describe())

    def _check(self, status: os.stat_result) -> None:
        if not stat.S_ISREG(status.st_mode):
            raise Misconfigured(f"{self.describe()} is not a regular file")
        mode = stat.S_IMODE(status.st_mode)
        if mode & 0o077:
            raise Misconfigured(
                f"{self.describe()} has mode {mode:04o}, expected 0600: others could read it",
                hint=f"chmod 600 {self._path}, and treat the key as known if others had access",
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise Misconfigured(
                f"{self.describe()} belongs to uid {status.st_uid}, expected {os.geteuid()}",
                hint=f"chown {os.geteuid()} {self._path}",
            )

    def create(self, random: Callable[[int], bytes]) -> bytes:
        """Write a new key; whoever comes first wins where two do it at once.

        Raises:
            StorageFailed: the file cannot be written.
            Misconfigured: somebody else's file came first and is not usable.
        """
        key = random(MASTER_KEY_SIZE)
        temporary = self._path.with_name(f".{self._path.name}.{random(8).hex()}")
        try:
            descriptor = os.open(
                temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
            )
            try:
                with open(descriptor, "wb") as file:
                    file.write(key.hex().encode() + b"\n")
                    file.flush()
                    os.fsync(descriptor)
                # A link, not a rename: it never replaces a key that is there.
                os.link(temporary, self._path)
            finally:
                temporary.unlink()
            sync_directory(self._path.parent)
        except FileExistsError as error:
            found = self.load()
            if found is None:
                raise StorageFailed(f"{self.describe()} came and went") from error
            return found
        except OSError as error:
            raise StorageFailed(
                f"{self.describe()} cannot be written: {error.strerror}",
                hint=f"user {os.geteuid()}, who runs the CAS, needs it writable",
            ) from error
        return key


class EnvironmentKey:
    """A master key in an environment variable, 64 hex digits: for containers and their secrets."""

    def __init__(self, variable: str, environment: Mapping[str, str]) -> None:
        self._variable = variable
        self._environment = environment

    def describe(self) -> str:
        """The variable's name."""
        return f"variable {self._variable}"

    def load(self) -> bytes | None:
        """The key of the variable, or None where it is not set."""
        text = self._environment.get(self._variable)
        return None if text is None else _parse(text.encode("utf-8", "replace"), self.describe())

    def create(self, random: Callable[[int], bytes]) -> bytes:
        """Refuse: a key that is made here would be gone at the next start."""
        del random
        raise Misconfigured(
            f"{self.describe()} is not set, expected the CAS's master key in 64 hex digits",
            hint="make one with: openssl rand -hex 32",
        )


def key_provider(text: str, state_directory: Path, environment: Mapping[str, str]) -> KeyProvider:
    """The provider that a setting names.

    Args:
        text: `file` for `master.key` in the state directory, `file:PATH`, or `env:NAME`.
        state_directory: where the database is.
        environment: where variables are looked up.

    Raises:
        Misconfigured: another text.
    """
    kind, _, rest = text.partition(":")
    if text == "file":
        return FileKey(state_directory / "master.key")
    if kind == "file" and rest:
        return FileKey(Path(rest))
    if kind == "env" and rest:
        return EnvironmentKey(rest, environment)
    raise Misconfigured(
        f"key provider is {text[:40]!r}, expected file, file:PATH or env:NAME",
        hint="keep the key on another disk than the database where you can",
    )


def sync_directory(path: Path) -> None:
    """Make a new name in that directory durable; file systems without it are let be."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parse(data: bytes, what: str) -> bytes:
    try:
        text = data.decode("ascii")
        return parse_hex(text.removesuffix("\n"), MASTER_KEY_SIZE, what)
    except (FormatError, UnicodeDecodeError) as error:
        raise Misconfigured(
            f"{what} does not hold 64 lower-case hex digits",
            hint="restore it from where it was kept; what another key sealed stays closed",
        ) from error
