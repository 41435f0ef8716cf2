"""Does a service get its configuration? The recipe, and what of it the audit log keeps."""

from __future__ import annotations

from datetime import datetime

from crannog.cas.passwords import OneTimePasswords, Scope
from crannog.errors import Denied, EvidenceRejected, NotFound
from crannog.evidence.appraise import CONTAINER_FIELDS, Requirements, appraise
from crannog.evidence.claims import Claims
from crannog.session.access import one_time_secret, token_matches
from crannog.session.document import Service, Session

# The reference's texts, which people search for (reference, section 4.5).
NOT_TRUSTWORTHY = "The program enclave is not trustworthy"
NO_CONFIGURATION = "Failed to retrieve service attestation configuration"


def judge(
    session: Session,
    claims: Claims,
    required: Requirements,
    *,
    token: str | None,
) -> None:
    """Return when a program with these claims may have what the session holds for it.

    Args:
        session: the version that applies.
        claims: of authentic evidence.
        required: what the session and the CAS ask for.
        token: the service access token the program showed.

    Raises:
        EvidenceRejected: the claims do not suit the session, with every mismatch.
        Denied: the token is missing or wrong.
    """
    # (1) what the program is, and who says so
    try:
        appraise(claims, required)
    except EvidenceRejected as error:
        raise EvidenceRejected(NOT_TRUSTWORTHY) from error
    # (2) the second factor; never echoed. A one-time password comes after it (`spend_password`).
    if not token_matches(session, token):
        raise Denied(
            "the service access token is missing or wrong",
            hint="set SCONE_SERVICE_ACCESS_TOKEN to the session's service_access_token",
        )


def spend_password(
    session: Session,
    service: Service,
    passwords: OneTimePasswords,
    *,
    otp: str | None,
    now: datetime,
) -> tuple[tuple[str, str], ...]:
    """What the audit log keeps of the one-time password that `service` asks for; it is spent now.

    The last thing that is asked: who is refused for something else has spent none.

    Args:
        session: the version that applies.
        service: one of its services.
        passwords: what was spent before.
        otp: what the program showed. Never echoed.
        now: the present.

    Raises:
        Denied: none was shown, or it is not good; or one was shown and none is asked for.
    """
    asked = one_time_secret(session, service)
    if asked is None:
        if otp is not None:
            raise Denied(
                "this service asks for no one-time password, and one was given",
                hint="leave the part after @ out of the configuration id",
            )
        return ()
    place, secret = asked
    step = passwords.spend(Scope(session.name, place), secret, otp, now)
    return (("otp", place), ("otp_step", str(step)))


def evidence_notes(claims: Claims, peer: str, request_id: str) -> tuple[tuple[str, str], ...]:
    """What an audit record says of evidence.

    At most 15 notes, so that a refusal's reason still has its place in a record.
    """
    notes = [
        ("level", claims.level.value),
        ("method", claims.method),
        ("mrenclave", claims.mrenclave.hex()),
        ("launcher", claims.launcher.hex()),
        ("peer", peer),
        ("request", request_id),
    ]
    if claims.reason:
        notes.append(("level_reason", claims.reason))
    if claims.container is not None:
        container = claims.container
        vouched = [(name, getattr(container, field)) for name, field in CONTAINER_FIELDS.items()]
        vouched += [("container_id", container.id), ("hooks", ", ".join(container.hooks))]
        notes += [(name, text) for name, text in vouched if text]
    return tuple(notes)


def no_configuration(cause: NotFound) -> NotFound:
    """The error of a session or service that is not there, with `cause` under it."""
    error = NotFound(NO_CONFIGURATION)
    error.__cause__ = cause
    return error
