"""Does an update widen access? Who may update a session may give its kept secrets to others.

An update amounts to reading the secrets that migrate (as in the reference), so it is audited as
what it is. Decides nothing: a widening update is allowed to whoever may update.
"""

from __future__ import annotations

from crannog.levels import Level
from crannog.session.document import AccessPolicy, InjectionFile, Keyword, Service, Session


def widened(old: Session, new: Session) -> tuple[str, ...]:
    """What `new` allows that `old` did not, a short text each; empty where nothing.

    Leaves aside what cannot be compared, such as what a command does with what it gets.
    """
    found: list[str] = []
    for name in ("read", "update", "create_sessions"):
        before, after = (_entries(session.access_policy, name) for session in (old, new))
        # ANY held everybody already; NONE holds nobody.
        if Keyword.ANY not in before and after - before - {Keyword.NONE}:
            found.append(f"access_policy.{name}")
    if old.creator != new.creator:
        found.append("creator")
    for service in new.services:
        found.extend(_service(old, new, old.service(service.name), service))
    for secret in new.secrets:
        before_secret = old.secret(secret.name)
        if secret.export_public and (before_secret is None or not before_secret.export_public):
            found.append(f"secret {secret.name} public")
    common = old.security.one_time_password_shared_secret
    if common is not None and common != new.security.one_time_password_shared_secret:
        found.append("one-time passwords")
    if old.security.service_access_token != new.security.service_access_token:
        found.append("service access token")
    return tuple(found)


def _service(old: Session, new: Session, before: Service | None, after: Service) -> list[str]:
    if before is None:
        return [f"service {after.name} new"]
    found: list[str] = []
    if set(after.mrenclaves) - set(before.mrenclaves):
        found.append(f"service {after.name} mrenclaves")
    if _rank(new, after) < _rank(old, before):
        found.append(f"service {after.name} minimum level")
    own = before.one_time_password_shared_secret
    if own is not None and own != after.one_time_password_shared_secret:
        found.append(f"service {after.name} one-time passwords")
    # Another container is one more that gets the secrets; no claims are all of them.
    if before.claims and (not after.claims or set(after.claims) - set(before.claims)):
        found.append(f"service {after.name} claims")
    if before.command != after.command or before.fspf != after.fspf:
        found.append(f"service {after.name} program")
    # What runs is decided by these as well (LD_PRELOAD, PYTHONPATH, a file over a module), and
    # they are how a secret comes to a service that had none.
    if before.environment != after.environment or before.pwd != after.pwd:
        found.append(f"service {after.name} environment")
    if _files(old, before) != _files(new, after):
        found.append(f"service {after.name} files")
    return found


def _files(session: Session, service: Service) -> tuple[InjectionFile, ...]:
    image = session.image_of(service)
    return () if image is None else image.injection_files


def _rank(session: Session, service: Service) -> int:
    return session.required_level(service, Level.SIMULATION).rank


def _entries(policy: AccessPolicy, name: str) -> set[object]:
    return set(getattr(policy, name))
