"""Certificates for tests."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from cryptography import x509

from crannog.pki import issue, profiles
from crannog.pki.keys import generate_p256

NOW = datetime(2026, 5, 17, 12, 0, tzinfo=UTC)


def self_signed(name: str, *, now: datetime = NOW) -> x509.Certificate:
    """A client's certificate, as `openssl req -x509` makes one."""
    return issue.issue(None, profiles.LEAF, name, generate_p256(), now=now, random=os.urandom)
