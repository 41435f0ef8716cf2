"""What the LAS says about a peer: today, at level simulation, what the peer says about itself.

The witness that would know better (design: the container runtime's own records) is a later part;
until it is there every statement says `simulation`, and why.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog import __version__
from crannog.evidence.envelope import Envelope
from crannog.evidence.statement import (
    METHOD_LAS_TCP,
    METHOD_LAS_UNIX,
    Statement,
    sign_statement,
)
from crannog.exchange.las import QuoteRequest, Status
from crannog.levels import Level

REASONS = {
    METHOD_LAS_TCP: "over TCP the LAS cannot see which process asks; "
    "the measurement is the process's own word",
    METHOD_LAS_UNIX: "this LAS does not check how the process was started; "
    "the measurement is the process's own word",
}


def quote(request: QuoteRequest, *, method: str, key: Ed25519PrivateKey, now: int) -> Envelope:
    """The signed statement for `request`; `now` is in seconds since the epoch."""
    return sign_statement(
        Statement(
            level=Level.SIMULATION,
            method=method,
            mrenclave=request.mrenclave,
            report_data=request.report_data,
            launcher=request.launcher,
            config_id=request.config_id,
            cas=request.cas,
            issued_at=now,
        ),
        key,
    )


def status(*, method: str, key: Ed25519PrivateKey) -> Status:
    """What this LAS is, for somebody connected by `method`."""
    return Status(
        public_key=key.public_key().public_bytes_raw(),
        level=Level.SIMULATION,
        method=method,
        reason=REASONS[method],
        version=__version__,
    )
