"""What a session asks of a service's evidence, in the words of `crannog.evidence`."""

from __future__ import annotations

from collections.abc import Callable

from crannog.evidence.appraise import Requirements
from crannog.levels import Level
from crannog.session.document import Service, Session


def requirements(
    session: Session,
    service: Service,
    *,
    minimum: Level,
    launchers: frozenset[bytes] | None,
    own_key: Callable[[str], bool] | None = None,
    session_hash: str = "",
) -> Requirements:
    """What evidence for `service` has to say.

    Args:
        session: the version that applies.
        service: one of its services.
        minimum: the CAS's minimum level; the strictest of it, the session's and the service's
            holds (A).
        launchers: digests of the launcher releases that this CAS accepts; None where it lists
            none, so that any launcher's word is taken. The launcher is not in the MRENCLAVE.
        own_key: whether a program's pin of a CAS's key means this CAS.
        session_hash: the version's hash.
    """
    return Requirements(
        mrenclaves=tuple(bytes.fromhex(one) for one in service.mrenclaves),
        minimum_level=session.required_level(service, minimum),
        launchers=launchers,
        containers=tuple(one.pairs for one in service.claims),
        own_key=own_key,
        session_hash=session_hash,
    )
