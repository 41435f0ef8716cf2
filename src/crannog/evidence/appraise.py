"""Are these claims acceptable to this session? Lists everything that is not, not the first only.

The texts of the measurement's mismatch are the reference's, since people search for them.
"""

from __future__ import annotations

from typing import NamedTuple

from crannog.errors import EvidenceRejected
from crannog.evidence.claims import Claims
from crannog.levels import Level

NONE_MET = "None of the required enclave properties are met by the enclave"
NOT_ALL_MET = "Not all of the required enclave properties are met by the enclave"


class Requirements(NamedTuple):
    """What a session asks of a service's evidence.

    Attributes:
        mrenclaves: the accepted measurements, 32 bytes each; any one suffices. Empty accepts none.
        minimum_level: the weakest acceptable level: the stricter of the session's and the CAS's.
        launchers: accepted launcher digests, 32 bytes each; None where the CAS does not list any.
        platforms: accepted signers (32 bytes each); None where the session does not list any.
    """

    mrenclaves: tuple[bytes, ...]
    minimum_level: Level
    launchers: frozenset[bytes] | None = None
    platforms: frozenset[bytes] | None = None


def appraise(claims: Claims, requirements: Requirements) -> None:
    """Return when every requirement is met.

    Raises:
        EvidenceRejected: with every mismatch, a line each, and hints that would make it pass.
    """
    # (1) the measurement is one of the session's
    mismatches = list(_measurement(claims, requirements))
    measured = not mismatches
    hints: list[str] = []
    if not measured:
        hints.append(
            "compare with what SCONE_HASH=1 prints for this program with the same SCONE_HEAP, "
            "SCONE_STACK and SCONE_ALLOW_DLOPEN, and with the session's mrenclaves"
        )
    # (2) who vouches is strong enough
    if not claims.level.satisfies(requirements.minimum_level):
        because = f" ({claims.reason})" if claims.reason else ""
        mismatches.append(
            f"Trust level is {claims.level.value}{because} - "
            f"Expected at least {requirements.minimum_level.value}"
        )
        hints.append(_level_hint(requirements.minimum_level))
    # (3) the launcher that measured is a release this CAS accepts
    if requirements.launchers is not None and claims.launcher not in requirements.launchers:
        mismatches.append(
            f"Unexpected launcher {claims.launcher.hex()} - "
            f"Expected one of {len(requirements.launchers)} accepted releases"
        )
        hints.append("add the launcher's digest at the CAS before nodes are upgraded")
    # (4) the platform is one the session names
    if requirements.platforms is not None and claims.signer not in requirements.platforms:
        mismatches.append(
            f"Unexpected platform {claims.signer.hex()} - "
            f"Expected one of {len(requirements.platforms)} in the session's platforms"
        )
        hints.append("add the LAS's public key to the service's platforms")
    if mismatches:
        raise EvidenceRejected(
            NOT_ALL_MET if measured else NONE_MET, mismatches, hint="; ".join(hints)
        )


def _measurement(claims: Claims, requirements: Requirements) -> tuple[str, ...]:
    expected = requirements.mrenclaves
    if claims.mrenclave in expected:
        return ()
    if not expected:
        return ("No enclave measurement (MRENCLAVE) is accepted by the session",)
    lines = tuple(
        f"Unexpected enclave measurement (MRENCLAVE, {claims.mrenclave.hex()})"
        f" - Expected {one.hex()}"
        for one in expected
    )
    if len(lines) == 1:
        return lines
    return tuple(f"Error {number} of {len(lines)}: {line}" for number, line in enumerate(lines, 1))


def _level_hint(minimum: Level) -> str:
    if minimum is Level.NODE:
        return "run on a node whose LAS is enrolled at this CAS"
    return (
        "run on hardware with a TEE, or, for development only, use a CAS whose minimum level is "
        "simulation and a session that does not ask for more"
    )
