"""Where an issuer's keys come from, and how old they may be: a file, or a document by HTTPS.

Fails closed: keys that could not be fetched again are not used. What is enrolled already does not
need them. Strangers cannot make the CAS fetch more than once in `AGAIN_SECONDS`.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

from crannog.cas.enrolment.key_set import MAX_BYTES, IssuerKey, KeySet, parse_key_set
from crannog.errors import Denied, Error, EvidenceUnverifiable, FormatError, Misconfigured, TooLarge
from crannog.transport.https_document import Location, fetch
from crannog.transport.stream import Deadline

FRESH_SECONDS = 300.0
"""How long fetched keys are used. One that the issuer takes back counts for no longer."""

AGAIN_SECONDS = 30.0
"""At least so long between two fetches for keys that are not known, or that failed."""

FETCH_SECONDS = 10.0
_MAX_FILE = 1024 * 1024
_MAX_BEARER = 16 * 1024
_ACCEPT = "application/jwk-set+json, application/json"


def _since_start() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class IssuerKeys(Protocol):
    """Finds the key that a token names."""

    def find(self, kid: str) -> IssuerKey:
        """The issuer's key of that name.

        Raises:
            Denied: the issuer does not publish it, or it signs no token that is taken.
            EvidenceUnverifiable: the issuer's keys are not to be had now.
        """


class KeysInFile:
    """Keys in a file, read for each token."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def find(self, kid: str) -> IssuerKey:
        """As `IssuerKeys.find`."""
        try:
            keys = parse_key_set(read_file(self._path, MAX_BYTES), f"key file {self._path}")
        except Error as error:
            raise _not_to_be_had(error) from None
        return _pick(keys, kid)


class Source(NamedTuple):
    """Where keys are fetched.

    Attributes:
        where: the key set's URL.
        authorities: a file with the certificates that the server's has to chain to.
        bearer: a file with a token to show, or None.
    """

    where: Location
    authorities: Path
    bearer: Path | None

    def load(self) -> KeySet:
        """The keys as they are now; both files are read anew, since clusters replace them.

        Raises:
            Error: they are not to be had.
        """
        data = fetch(
            self.where,
            accept=_ACCEPT,
            authorities=read_file(self.authorities, _MAX_FILE),
            bearer=None if self.bearer is None else read_token(self.bearer),
            limit=MAX_BYTES,
            deadline=Deadline.after(FETCH_SECONDS),
        )
        return parse_key_set(data, f"key set {self.where}")


class FetchedKeys:
    """Keys by HTTPS, kept for a while. May be called from any thread; one of them fetches.

    Args:
        load: fetches them.
        clock: seconds since the machine's start, also those in which it was suspended.
    """

    def __init__(
        self, load: Callable[[], KeySet], *, clock: Callable[[], float] = _since_start
    ) -> None:
        self._load = load
        self._clock = clock
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._fetched = self._tried = float("-inf")
        self._failure: Error | None = None

    def find(self, kid: str) -> IssuerKey:
        """As `IssuerKeys.find`."""
        # Whoever waits here waits for a fetch, which has a deadline of its own.
        with self._lock:
            keys = self._current(kid)
        return _pick(keys, kid)

    def _current(self, kid: str) -> KeySet:
        now = self._clock()
        keys = self._keys if now - self._fetched < FRESH_SECONDS else None
        lately = now - self._tried < AGAIN_SECONDS
        if keys is not None and kid in keys.keys:
            return keys
        if lately and self._failure is not None:
            raise _not_to_be_had(self._failure)
        if lately and keys is not None:
            return keys
        self._tried = now
        try:
            self._keys, self._failure = self._load(), None
        except Error as error:
            self._failure = error
            raise _not_to_be_had(error) from None
        self._fetched = self._tried = self._clock()
        return self._keys


def _pick(keys: KeySet, kid: str) -> IssuerKey:
    found = keys.keys.get(kid)
    if found is not None:
        return found
    reason = keys.unused.get(kid)
    if reason is not None:
        raise Denied(f"the issuer's key {kid[:64]!r} signs no token that is taken: {reason}")
    raise Denied(
        f"the issuer publishes no key {kid[:64]!r}",
        hint="is the token of another cluster than the keys that the CAS was given?",
    )


def _not_to_be_had(error: Error) -> EvidenceUnverifiable:
    # Paths and addresses are the operator's: `internal` is logged and not sent, and it is no cause,
    # which would be.
    return EvidenceUnverifiable(
        "the token's issuer cannot be asked for its keys now",
        internal="; ".join(filter(None, (error.message, error.hint))),
    )


def read_file(path: Path, limit: int) -> bytes:
    """The bytes of a regular file; links are followed, as in volumes that a cluster projects.

    Raises:
        Misconfigured: it is not there, cannot be read or is no regular file.
        TooLarge: over `limit` bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise Misconfigured(f"{path} is not a regular file")
            data = file.read(limit + 1)
    except OSError as error:
        raise Misconfigured(f"{path} cannot be read: {(error.strerror or '').lower()}") from error
    if len(data) > limit:
        raise TooLarge(f"{path} has more than {limit} bytes")
    return data


def read_token(path: Path) -> str:
    """The token in a file, without the line end.

    Raises:
        Misconfigured, TooLarge: as `read_file`.
        FormatError: it holds no token.
    """
    text = read_file(path, _MAX_BEARER).strip().decode("ascii", "replace")
    if not text or not text.isascii() or not text.isprintable() or " " in text:
        raise FormatError(f"{path} does not hold a token")
    return text
