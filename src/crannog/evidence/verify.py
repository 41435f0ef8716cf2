"""Is this evidence authentic? The only module that knows every kind of it.

`verify` decides who signed and what the signature is worth; whether the claims suit a session is
the question of `appraise.py`. A new kind of evidence is a media type and a function here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from hmac import compare_digest
from typing import NamedTuple, TypeAlias

from crannog.errors import FormatError, IntegrityError
from crannog.evidence.claims import Claims, Trust
from crannog.evidence.envelope import Envelope
from crannog.evidence.statement import MEDIA_TYPE, METHOD_WITNESS, Statement, open_statement
from crannog.evidence.subject import Pins
from crannog.levels import Level

Verifier: TypeAlias = Callable[[bytes, Trust, datetime], Claims]


class Expected(NamedTuple):
    """What evidence has to be about, from the verifier's own side of the connection."""

    report_data: bytes
    config_id: str
    launcher: bytes


def verify(envelope: Envelope, trust: Trust, now: datetime) -> Claims:
    """The claims of authentic evidence.

    Args:
        envelope: as it came.
        trust: whose signatures are worth more than simulation.
        now: for evidence that carries certificates.

    Raises:
        FormatError: unknown media type, or malformed.
        IntegrityError: the signature does not fit.
    """
    verifier = _VERIFIERS.get(envelope.media_type)
    if verifier is None:
        raise FormatError(
            f"evidence of type {envelope.media_type!r} is not known here",
            hint="known types: " + ", ".join(sorted(_VERIFIERS)),
        )
    return verifier(envelope.data, trust, now)


def verify_bound(
    envelopes: Sequence[Envelope], expected: Expected, *, trust: Trust, now: datetime
) -> Claims:
    """The claims of the strongest envelope, all of which have to be authentic and about `expected`.

    Raises:
        FormatError: none there, unknown or malformed.
        IntegrityError: a signature does not fit, or the evidence was made for another connection,
            nonce, configuration id or launcher, as a replayed one was.
    """
    if not envelopes:
        raise FormatError("the evidence is empty, expected at least one envelope")
    found: list[Claims] = []
    for envelope in envelopes:
        claims = verify(envelope, trust, now)
        # (1) made for this connection and this nonce
        if not compare_digest(claims.report_data, expected.report_data):
            raise IntegrityError(
                "the evidence was made for another connection",
                hint="evidence holds for one connection and one nonce; connect again",
            )
        # (2) for what was asked for on it
        if claims.config_id != expected.config_id:
            raise IntegrityError("the evidence was made for another configuration id")
        # (3) and by the launcher that the message names
        if not compare_digest(claims.launcher, expected.launcher):
            raise IntegrityError("the evidence names another launcher than the message")
        found.append(claims)
    # (4) one process: two envelopes about two programs are about neither
    if any(claims.mrenclave != found[0].mrenclave for claims in found):
        raise IntegrityError("the envelopes are about different programs")
    return max(found, key=lambda claims: claims.level.rank)


def _verify_statement(data: bytes, trust: Trust, now: datetime) -> Claims:
    del now  # a statement has no certificate and no end; the nonce makes it fresh
    statement, signer = open_statement(data)
    level, reason = _worth(statement, signer, trust)
    # (A) Below node nobody has looked: what the text says of a container is anybody's word, and
    # nothing that a session could require.
    looked = level is not Level.SIMULATION
    return Claims(
        level=level,
        method=_printable(statement.method),
        mrenclave=statement.mrenclave,
        report_data=statement.report_data,
        launcher=statement.launcher,
        config_id=statement.config_id,
        cas=statement.cas,
        signer=signer,
        issued_at=statement.issued_at,
        reason=reason,
        pins=statement.pins if looked else Pins(),
        container=statement.container if looked else None,
    )


def _worth(statement: Statement, signer: bytes, trust: Trust) -> tuple[Level, str]:
    """The level of that statement, and why it is not higher."""
    # (A) The level comes from the key that signed, never from the text alone.
    if signer not in trust.node_keys:
        return Level.SIMULATION, f"the key that signed, {signer.hex()}, is not enrolled at this CAS"
    # (A) Over TCP, and wherever nobody looked at how the process was started, it is simulation.
    if statement.level is Level.SIMULATION or statement.method != METHOD_WITNESS:
        said = _printable(statement.reason) or f"its method is {_printable(statement.method)}"
        return Level.SIMULATION, f"the LAS: {said}"
    if statement.level is Level.HARDWARE:
        # A statement is software's word; hardware has media types of its own.
        return Level.NODE, "a statement is worth level node at most"
    return Level.NODE, ""


def _printable(text: str) -> str:
    """Text of another machine as it may stand in a line."""
    return "".join(character if character.isprintable() else "?" for character in text)


_VERIFIERS: dict[str, Verifier] = {MEDIA_TYPE: _verify_statement}
