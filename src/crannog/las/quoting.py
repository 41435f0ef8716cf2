"""What the LAS signs about a peer, and what it says about itself.

Over TCP, and where the witness found a reason, the values are the peer's own words and the level is
simulation. At level node they are the record's and ours (A).
"""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from crannog import __version__
from crannog.evidence.envelope import Envelope
from crannog.evidence.statement import (
    MAX_REASON,
    METHOD_LAS_TCP,
    METHOD_LAS_UNIX,
    METHOD_WITNESS,
    Statement,
    sign_statement,
)
from crannog.evidence.subject import Container
from crannog.exchange.las import QuoteRequest, Status
from crannog.las.witness import Told
from crannog.levels import Level

OVER_TCP = (
    "over TCP the LAS cannot see which process asks; the measurement is the process's own word"
)
UNSEEN = "the process that asks cannot be seen: it is in no PID namespace below the LAS's own"


def lower(
    request: QuoteRequest, *, method: str, reason: str, key: Ed25519PrivateKey, now: int
) -> Envelope:
    """The statement of level simulation, with its reason; `now` is seconds since the epoch."""
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
            reason=printable(reason)[:MAX_REASON],
            pins=request.pins,
        ),
        key,
    )


def vouch(
    request: QuoteRequest,
    *,
    told: Told,
    container: Container,
    launcher: bytes,
    key: Ed25519PrivateKey,
    now: int,
) -> Envelope:
    """The statement of level node. Only where the witness has found no reason against it (A).

    Args:
        request: gives the measurement and what it was made for.
        told: configuration id, CAS and pins of the container's record.
        container: its claims.
        launcher: digest of the node's launcher.
        key: signs.
        now: seconds since the epoch.
    """
    return sign_statement(
        Statement(
            level=Level.NODE,
            method=METHOD_WITNESS,
            mrenclave=request.mrenclave,
            report_data=request.report_data,
            launcher=launcher,
            config_id=told.config_id,
            cas=told.cas,
            issued_at=now,
            pins=told.pins,
            container=container,
        ),
        key,
    )


def status(*, method: str, unready: str, key: Ed25519PrivateKey) -> Status:
    """What this LAS is, for somebody connected by `method`.

    Args:
        method: `las/tcp` or `las/unix`.
        unready: why it cannot vouch at level node for anybody; "" where it can.
        key: its own.
    """
    reason = OVER_TCP if method == METHOD_LAS_TCP else unready
    return Status(
        public_key=key.public_key().public_bytes_raw(),
        level=Level.SIMULATION if reason else Level.NODE,
        method=method if reason or method != METHOD_LAS_UNIX else METHOD_WITNESS,
        reason=reason,
        version=__version__,
    )


def printable(text: str) -> str:
    """`text` as it may stand in a log line and in a terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)
