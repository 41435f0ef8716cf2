"""Stores, services, certificates and claims for tests."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from crannog.cas.keys import FileKey
from crannog.cas.service import CasService
from crannog.cas.store.opening import open_store
from crannog.cas.store.records import Event, Record, Version
from crannog.cas.store.store import Store
from crannog.evidence.claims import Claims
from crannog.levels import Level
from crannog.pki import issue, profiles
from crannog.pki.keys import generate_p256

NOW = datetime(2026, 5, 17, 12, 0, tzinfo=UTC)
MRENCLAVE = "ab" * 32
OTHER = "cd" * 32


def certificate(name: str = "client") -> bytes:
    """A self-signed client certificate, DER."""
    made = issue.issue(None, profiles.LEAF, name, generate_p256(), now=NOW, random=os.urandom)
    return made.public_bytes(Encoding.DER)


ALICE = certificate("alice")
BOB = certificate("bob")


def opened(
    directory: Path,
    *,
    level: Level | None = Level.SIMULATION,
    after_commit: Callable[[], None] | None = None,
) -> Store:
    """A store in that directory, new or existing."""
    return open_store(
        directory / "cas.db",
        keys=FileKey(directory / "master.key"),
        now=NOW,
        minimum_level=level,
        after_commit=after_commit,
    )


def service(
    directory: Path,
    *,
    level: Level | None = Level.SIMULATION,
    now: Callable[[], datetime] = lambda: NOW,
    las_keys: tuple[bytes, ...] = (),
    launchers: tuple[bytes, ...] | None = None,
) -> CasService:
    """A CAS in that directory, new or existing."""
    return CasService.open(
        directory / "cas.db",
        keys=FileKey(directory / "master.key"),
        minimum_level=level,
        las_keys=las_keys,
        launchers=launchers,
        now=now,
    )


def add(
    store: Store,
    name: str,
    *,
    predecessor: Version | None = None,
    document: bytes = b"document",
    secrets: bytes = b"secrets",
) -> Version:
    """Store a version; its hash is as good as random."""
    return store.add_version(
        name=name,
        session_hash=os.urandom(32).hex(),
        predecessor=predecessor,
        document=document,
        secrets=secrets,
        record=Record(NOW, Event.SESSION_CREATED, session=name),
    )


def session(
    name: str = "hello",
    *,
    version: str = "0.3",
    predecessor: str | None = None,
    environment: str = "GREETING: hello",
    mrenclave: str = MRENCLAVE,
    secrets: str = "",
    more: str = "",
) -> bytes:
    """A session with one service `application`."""
    before = f"predecessor: {predecessor}\n" if predecessor else ""
    return (
        f'name: {name}\nversion: "{version}"\n{before}services:\n'
        f"  - name: application\n    mrenclaves: [{mrenclave}]\n"
        f"    command: python3 /app/server.py\n    environment:\n      {environment}\n"
        f"{'secrets:' if secrets else ''}\n{secrets}\n{more}\n"
    ).encode()


def claims(
    config_id: str = "hello/application",
    *,
    mrenclave: str = MRENCLAVE,
    level: Level = Level.SIMULATION,
) -> Claims:
    """What authentic evidence of that measurement says."""
    return Claims(
        level=level,
        method="launcher",
        mrenclave=bytes.fromhex(mrenclave),
        report_data=bytes(64),
        launcher=b"l" * 32,
        config_id=config_id,
        cas="cas",
        signer=b"s" * 32,
        issued_at=0,
        reason="",
    )
