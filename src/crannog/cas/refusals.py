"""Who is told how much about a refusal.

The check, what was found, what was expected and what would make it pass go to whoever may know it
(A): anyone where the minimum level is simulation, and programs whose evidence was authentic above
simulation. Everybody may sign a statement of level simulation with a key made up on the spot, so at
a CAS with a higher minimum that proves nothing, and its sender gets the check's name and a request
id. The audit log and the operator's log have the whole of it under that id.
"""

from __future__ import annotations

from typing import NamedTuple

from crannog.errors import Error, EvidenceUnverifiable, StorageFailed, Unavailable, chain, hints
from crannog.evidence.claims import Claims
from crannog.levels import Level

# Nobody's evidence changes these: a peer has to know them to go on at all.
_ALWAYS_TOLD = (Unavailable, EvidenceUnverifiable)


class Refusal(NamedTuple):
    """What leaves the CAS.

    Attributes:
        code: the error's stable code: the check's name.
        messages: outermost first.
        hint: what would make it pass; "" where nothing is known or may be said.
        retry: whether the same request may succeed later.
    """

    code: str
    messages: tuple[str, ...]
    hint: str
    retry: bool


def may_know(minimum: Level, claims: Claims | None) -> bool:
    """Whether a peer with these claims (None: nothing authentic) may hear details."""
    return minimum is Level.SIMULATION or (
        claims is not None and claims.level is not Level.SIMULATION
    )


def public_refusal(
    error: Error, *, minimum: Level, claims: Claims | None, request_id: str
) -> Refusal:
    """What to say to a program about `error`.

    Args:
        error: what happened.
        minimum: the CAS's minimum level.
        claims: of the program's evidence, where it was authentic; None before or otherwise.
        request_id: under which the operator finds the whole of it.
    """
    retry = isinstance(error, Unavailable | EvidenceUnverifiable | StorageFailed)
    if isinstance(error, StorageFailed):
        # Paths and the state of the disk are the operator's.
        return Refusal(error.code, ("the CAS cannot store anything now",), "try again later", retry)
    if may_know(minimum, claims) or isinstance(error, _ALWAYS_TOLD):
        return Refusal(error.code, chain(error), "; ".join(hints(error)), retry)
    return Refusal(
        error.code,
        (f"refused by check {error.code}, request id {request_id}",),
        "ask the session's owner or the CAS's operator, who find the details under the request id",
        retry,
    )
