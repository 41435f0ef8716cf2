"""Both ends of an exchange joined without sockets, and what they say in the tests."""

from __future__ import annotations

from crannog.evidence.envelope import Envelope
from crannog.exchange.attestation import Evidence
from crannog.exchange.configuration import Configuration, File, FspfReference
from crannog.exchange.las import QuoteRequest
from crannog.exchange.refusal import Refusal
from crannog.levels import Level

NONCE = bytes(range(32))
ENVELOPE = Envelope("application/vnd.crannog.las-statement+json", b'{"a":1}')
EVIDENCE = Evidence((ENVELOPE,), b"L" * 32, None, None)
CONFIGURATION = Configuration(
    argv=("python3", "/app/server.py"),
    environment=(("GREETING", "hello from Crannog"), ("EMPTY", "")),
    pwd="/app",
    files=(File("/etc/server.key", b"\0secret\xff", 0o600), File("/empty", b"", 0o644)),
    fspf=FspfReference("/app/fspf.pb", b"k" * 32, b"t" * 16),
    session_hash="ab" * 32,
    level=Level.SIMULATION,
    mrenclave=b"m" * 32,
)
REFUSAL = Refusal("evidence-rejected", ("outermost", "innermost"), "a hint", "0123", retry=False)
REQUEST = QuoteRequest(b"r" * 64, b"m" * 32, b"L" * 32, "session/service", "cas:18765")
