"""Are these claims acceptable to this session? Lists everything that is not, not the first only.

The texts of the measurement's mismatch are the reference's, since people search for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias

from crannog.errors import EvidenceRejected
from crannog.evidence.claims import Claims
from crannog.evidence.subject import Container
from crannog.levels import Level

NONE_MET = "None of the required enclave properties are met by the enclave"
NOT_ALL_MET = "Not all of the required enclave properties are met by the enclave"

ContainerClaims: TypeAlias = tuple[tuple[str, str], ...]
"""What one container has to be: pairs of a name of `CONTAINER_FIELDS` and the exact text."""

CONTAINER_FIELDS = {
    "image": "image",
    "image_id": "image_id",
    "container": "name",
    "namespace": "namespace",
    "pod": "pod",
    "engine": "engine",
}
"""The session language's words, and the attribute of `subject.Container` each of them means."""


class Requirements(NamedTuple):
    """What a session and its CAS ask of a service's evidence.

    Attributes:
        mrenclaves: the accepted measurements, 32 bytes each; any one suffices. Empty accepts none.
        minimum_level: the weakest acceptable level: the stricter of the session's and the CAS's.
        launchers: accepted launcher digests, 32 bytes each; None where the CAS does not list any.
            Heeded at level node and above: below, the digest is the launcher's own word, and
            nobody who would lie about it is kept out.
        platforms: accepted signers (32 bytes each); None where the session does not list any.
        containers: accepted containers, of which any one suffices, all pairs of it. Empty asks for
            nothing. What is required is met by vouched claims only, so never below level node.
        own_key: whether a program's pin of a CAS's key means this CAS; None where no CAS asks.
        session_hash: the version that the program would get, 64 hex; "" where there is none.
    """

    mrenclaves: tuple[bytes, ...]
    minimum_level: Level
    launchers: frozenset[bytes] | None = None
    platforms: frozenset[bytes] | None = None
    containers: tuple[ContainerClaims, ...] = ()
    own_key: Callable[[str], bool] | None = None
    session_hash: str = ""


def appraise(claims: Claims, requirements: Requirements) -> None:
    """Return when every requirement is met.

    Raises:
        EvidenceRejected: with every mismatch, a line each, and hints that would make it pass.
    """
    found = _Mismatches()
    # (1) the measurement is one of the session's
    found.add(
        _measurement(claims, requirements),
        "compare with what SCONE_HASH=1 prints for this program with the same SCONE_HEAP, "
        "SCONE_STACK and SCONE_ALLOW_DLOPEN, and with the session's mrenclaves",
    )
    measured = not found.lines
    # (2) who vouches is strong enough
    found.add(_level(claims, requirements), _level_hint(requirements.minimum_level))
    # (3) the launcher that measured is a release this CAS accepts
    found.add(
        _launcher(claims, requirements),
        "add the launcher's digest at the CAS before nodes are upgraded: "
        "crannog cas launcher add DIGEST",
    )
    # (4) the platform is one the session names
    if requirements.platforms is not None and claims.signer not in requirements.platforms:
        line = (
            f"Unexpected platform {claims.signer.hex()} - "
            f"Expected one of {len(requirements.platforms)} in the session's platforms"
        )
        found.add((line,), "add the LAS's public key to the service's platforms")
    # (5) the container is one the session names
    found.add(
        _container(claims, requirements.containers),
        "compare the service's claims with how the container was started; texts are compared "
        "exactly, and the audit log has what the LAS found",
    )
    # (6) the program was started for this CAS, and for this version of the session
    found.add(
        _pins(claims, requirements),
        "is the container's CRANNOG_CAS_KEY or CRANNOG_SESSION_HASH out of date; is this the right "
        "CAS?",
    )
    if found.lines:
        raise EvidenceRejected(
            NOT_ALL_MET if measured else NONE_MET, found.lines, hint="; ".join(found.hints)
        )


class _Mismatches:
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.hints: list[str] = []

    def add(self, lines: Iterable[str], hint: str) -> None:
        before = len(self.lines)
        self.lines.extend(lines)
        if len(self.lines) > before:
            self.hints.append(hint)


def _numbered(lines: tuple[str, ...]) -> tuple[str, ...]:
    if len(lines) == 1:
        return lines
    return tuple(f"Error {number} of {len(lines)}: {line}" for number, line in enumerate(lines, 1))


def _measurement(claims: Claims, requirements: Requirements) -> tuple[str, ...]:
    expected = requirements.mrenclaves
    if claims.mrenclave in expected:
        return ()
    if not expected:
        return ("No enclave measurement (MRENCLAVE) is accepted by the session",)
    return _numbered(
        tuple(
            f"Unexpected enclave measurement (MRENCLAVE, {claims.mrenclave.hex()})"
            f" - Expected {one.hex()}"
            for one in expected
        )
    )


def _level(claims: Claims, requirements: Requirements) -> tuple[str, ...]:
    if claims.level.satisfies(requirements.minimum_level):
        return ()
    because = f" ({claims.reason})" if claims.reason else ""
    minimum = requirements.minimum_level.value
    return (f"Trust level is {claims.level.value}{because} - Expected at least {minimum}",)


def _level_hint(minimum: Level) -> str:
    if minimum is Level.NODE:
        return (
            "run on a node whose LAS is enrolled at this CAS (crannog cas las add KEY), with the "
            "node's own launcher"
        )
    return (
        "run on hardware with a TEE, or, for development only, use a CAS whose minimum level is "
        "simulation and a session that does not ask for more"
    )


def _launcher(claims: Claims, requirements: Requirements) -> tuple[str, ...]:
    accepted = requirements.launchers
    if accepted is None or claims.level is Level.SIMULATION or claims.launcher in accepted:
        return ()
    found = claims.launcher.hex()
    return (f"Unexpected launcher {found} - Expected one of {len(accepted)} accepted releases",)


def _container(claims: Claims, accepted: tuple[ContainerClaims, ...]) -> tuple[str, ...]:
    if not accepted:
        return ()
    container = claims.container
    if container is None:
        level = claims.level.value
        return (f"No container is vouched for at level {level} - Expected one of the session's",)
    if any(not _differing(container, one) for one in accepted):
        return ()
    if len(accepted) == 1:
        return tuple(
            f"Unexpected container: {_named(container, ((name, text),))} - Expected {text!r}"
            for name, text in _differing(container, accepted[0])
        )
    return _numbered(
        tuple(
            f"Unexpected container: {_named(container, one)} - Expected "
            + ", ".join(f"{name} {text!r}" for name, text in one)
            for one in accepted
        )
    )


def _differing(container: Container, claims: ContainerClaims) -> ContainerClaims:
    return tuple((name, text) for name, text in claims if _value(container, name) != text)


def _named(container: Container, claims: ContainerClaims) -> str:
    return ", ".join(
        f"{name} {_value(container, name)!r}" if _value(container, name) else f"{name} is not known"
        for name, _ in claims
    )


def _value(container: Container, name: str) -> str:
    value = getattr(container, CONTAINER_FIELDS[name])
    assert isinstance(value, str)
    return value


def _pins(claims: Claims, requirements: Requirements) -> tuple[str, ...]:
    lines: list[str] = []
    if claims.level is Level.SIMULATION:
        return ()  # the process's own word; its launcher keeps to it without us
    key, wanted = claims.pins
    if key and requirements.own_key is not None and not requirements.own_key(key):
        lines.append(f"The program insists on the CAS of key {_short(key)} - Expected this one")
    version = requirements.session_hash
    if wanted and version and wanted.strip().lower() != version:
        lines.append(
            f"The program insists on session version {_short(wanted)} - Expected {version}"
        )
    return tuple(lines)


def _short(text: str) -> str:
    return repr(text if len(text) <= 100 else f"{text[:99]}…")
