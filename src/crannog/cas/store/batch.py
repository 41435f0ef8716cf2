"""What one transaction is going to hold: requests add to it, the writer commits it or drops it.

A batch looks ahead: the second request of a batch sees what the first one added, so that of two
updates of one version exactly one succeeds even when both wait for the same commit. Nothing of it
is visible to readers before the commit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

from crannog.cas.store import sealing
from crannog.cas.store.accepted import Accepted
from crannog.cas.store.records import (
    Record,
    State,
    Version,
    audit_mac,
)
from crannog.cas.store.sealing import Keys
from crannog.errors import AlreadyExists, Conflict, NotFound
from crannog.levels import Level

# The reference's texts, which its clients look for (reference, section 1.3).
SESSION_EXISTS = "Session already exists, please specify predecessor hash"
SESSION_NOT_FOUND = "Session not found"


Mark: TypeAlias = "tuple[tuple[Level, Accepted, int, bytes, int, bytes], tuple[int, int]]"


class NewVersion(NamedTuple):
    """A version of a session that is to be stored, sealed already.

    Attributes:
        name: the session's name.
        number: its place in the session's history, from 1.
        hash: 64 hex.
        predecessor: the hash it replaces, "" for the first.
        created: `records.timestamp`.
        document: sealed for this name, number and hash.
        secrets: likewise.
    """

    name: str
    number: int
    hash: str
    predecessor: str
    created: str
    document: bytes
    secrets: bytes


class Batch:
    """The changes of one transaction, on top of a committed state."""

    def __init__(self, keys: Keys, state: State, latest: Mapping[str, Version]) -> None:
        self._keys = keys
        self._latest = latest
        self._level = state.level
        self._accepted = state.accepted
        self._authority = state.authority
        self._versions, self._versions_mac = state.versions, state.versions_mac
        self._audit, self._audit_mac = state.audit, state.audit_mac
        self.added: dict[str, Version] = {}
        self.version_rows: list[Version] = []
        self.sealed_rows: list[tuple[int, bytes, bytes]] = []
        self.audit_rows: list[tuple[int, bytes, bytes]] = []

    @property
    def level(self) -> Level:
        """The minimum level as it will be."""
        return self._level

    @property
    def accepted(self) -> Accepted:
        """Enrolled LASes and accepted launchers as they will be."""
        return self._accepted

    def current(self, name: str) -> Version | None:
        """The newest version of that session, those of this batch included."""
        return self.added.get(name) or self._latest.get(name)

    def add_version(self, new: NewVersion) -> Version:
        """Add a version where its predecessor is the newest one; changes nothing otherwise.

        Raises:
            AlreadyExists: the name is taken and there is no predecessor.
            NotFound: there is a predecessor and no such session.
            Conflict: the predecessor is not the newest version.
        """
        current = self.current(new.name)
        if current is None and new.predecessor:
            raise NotFound(
                f"{SESSION_NOT_FOUND}: {new.name!r}",
                hint="leave predecessor out to create the session",
            )
        if current is not None and not new.predecessor:
            raise AlreadyExists(
                SESSION_EXISTS,
                hint="read the session's hash and write it as predecessor, or use another name",
            )
        if current is not None and (
            new.predecessor != current.hash or new.number != current.number + 1
        ):
            raise Conflict(
                f"predecessor {new.predecessor} is not the newest version of session {new.name!r}",
                hint="somebody has updated it: read it again, merge, and name the new hash",
            )
        if current is None and new.number != 1:
            raise ValueError(f"first version of {new.name!r} is numbered {new.number}")
        version = Version(
            self._versions + 1,
            *new[:5],
            document=sealing.digest(new.document),
            secrets=sealing.digest(new.secrets),
            mac=b"",
        )
        version = version._replace(mac=version.expected_mac(self._keys, self._versions_mac))
        self._versions, self._versions_mac = version.sequence, version.mac
        self.added[version.name] = version
        self.version_rows.append(version)
        self.sealed_rows.append((version.sequence, new.document, new.secrets))
        return version

    def add_record(self, record: Record) -> None:
        """Add a line to the audit log."""
        data = record.encode()
        self._audit += 1
        self._audit_mac = audit_mac(self._keys, self._audit_mac, self._audit, data)
        self.audit_rows.append((self._audit, data, self._audit_mac))

    def set_level(self, level: Level) -> None:
        """Change the minimum level; who calls this adds a record of it."""
        self._level = level

    def set_accepted(self, accepted: Accepted) -> None:
        """Change whom the CAS trusts; who calls this adds a record of it."""
        self._accepted = accepted

    def mark(self) -> Mark:
        """Where the batch is now, for `restore`."""
        return (
            (
                self._level,
                self._accepted,
                self._versions,
                self._versions_mac,
                self._audit,
                self._audit_mac,
            ),
            (len(self.version_rows), len(self.audit_rows)),
        )

    def restore(self, mark: Mark) -> None:
        """Take back what was added since `mark`: a request is in a batch whole or not at all."""
        values, rows = mark
        self._level, self._accepted, *_ = values
        _, _, self._versions, self._versions_mac, self._audit, self._audit_mac = values
        for version in self.version_rows[rows[0] :]:
            self.added.pop(version.name, None)
        for version in self.version_rows[: rows[0]]:
            self.added[version.name] = version
        del self.version_rows[rows[0] :]
        del self.sealed_rows[rows[0] :]
        del self.audit_rows[rows[1] :]

    def state(self) -> State:
        """The state row that goes with these changes."""
        state = State(
            self._level,
            self._authority,
            self._versions,
            self._versions_mac,
            self._audit,
            self._audit_mac,
            self._accepted,
        )
        return state.signed(self._keys)
