"""(A) Does the record bend the rules: seccomp, hooks, annotations, another runtime?

Allow-lists throughout: what is not known to be harmless is refused. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from crannog.evidence.subject import MAX_HOOK, MAX_HOOKS
from crannog.las.oci import Oci, Seccomp
from crannog.las.record import Record

RUNTIMES = ("runc", "crun")

# Actions that let a call through, refuse it, or end who made it. SCMP_ACT_NOTIFY and TRACE hand it
# to somebody else, TRAP to a handler in the process: those decide what the launcher sees.
_ACTIONS = (
    "SCMP_ACT_ALLOW",
    "SCMP_ACT_LOG",
    "SCMP_ACT_ERRNO",
    "SCMP_ACT_KILL",
    "SCMP_ACT_KILL_THREAD",
    "SCMP_ACT_KILL_PROCESS",
)
_FLAGS = ("SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW")
# EPERM, EACCES, EINVAL, ENOSYS: "you may not", "there is no such call". Others tell of the file:
# with ENOENT under a condition one that is there was measured as absent.
_ERRORS = (1, 13, 22, 38)

# Refused, these would make the launcher's random numbers somebody else's, or leave it dumpable.
_NEEDED = ("getrandom", "prctl")

# Its containers have no profile unless somebody asks for one; with the other engines somebody has
# to ask that there be none.
_WITHOUT_PROFILE = ("containerd",)

# By engine: what it writes itself, and what it copies without meaning for a runtime.
_ANNOTATIONS = {
    "docker": (),
    "podman": (
        "io.container.manager",
        "io.kubernetes.cri-o.Created",
        "io.kubernetes.cri-o.TTY",
        "io.podman.annotations.autoremove",
        "io.podman.annotations.cid-file",
        "io.podman.annotations.init",
        "io.podman.annotations.privileged",
        "io.podman.annotations.publish-all",
        "io.podman.annotations.seccomp",
        "org.opencontainers.image.",
    ),
    "containerd": (
        "io.kubernetes.cri.container-name",
        "io.kubernetes.cri.container-type",
        "io.kubernetes.cri.image-name",
        "io.kubernetes.cri.sandbox-id",
        "io.kubernetes.cri.sandbox-name",
        "io.kubernetes.cri.sandbox-namespace",
        "io.kubernetes.cri.sandbox-uid",
    ),
}


def bends(record: Record) -> Iterator[str]:
    """The reasons of this module."""
    for name in record.oci.unknown[:5]:
        yield f"the record has the field {name[:120]}, which is not known here"
    if record.runtime not in RUNTIMES:
        yield f"the container's runtime is {record.runtime[:80]!r}, expected runc or crun"
    yield from record.bends
    for hook in record.oci.hooks:
        if hook.kind == "startContainer":
            yield f"the record has a startContainer hook: {hook.path[:100]!r}"
    yield from _annotations(record)
    if record.oci.seccomp is not None:
        yield from seccomp_bends(record.oci.seccomp)
    elif record.container.engine not in _WITHOUT_PROFILE:
        yield "the container has no seccomp profile"


def seccomp_bends(profile: Seccomp) -> Iterator[str]:
    """What is wrong with a seccomp profile."""
    if profile.listener:
        yield "the seccomp profile has a listener"
    for flag in profile.flags:
        if flag not in _FLAGS:
            yield f"the seccomp profile has the flag {flag[:60]!r}"
    yield from _action(profile.default, profile.default_error_number, "by default")
    for rule in profile.rules:
        yield from _action(rule.action, rule.error_number, f"for {', '.join(rule.names)[:60]}")
    for name in _NEEDED:
        actions = [
            (rule.action, rule.conditional) for rule in profile.rules if name in rule.names
        ] or [(profile.default, False)]
        if any(
            action not in ("SCMP_ACT_ALLOW", "SCMP_ACT_LOG") or conditional
            for action, conditional in actions
        ):
            yield f"the seccomp profile does not let {name} through"


def hooks_of(oci: Oci) -> tuple[str, ...]:
    """The hooks, as a statement lists them."""
    return tuple(f"{hook.kind} {hook.path}"[:MAX_HOOK] for hook in oci.hooks)[:MAX_HOOKS]


def _action(action: str, error_number: int | None, where: str) -> Iterator[str]:
    if action not in _ACTIONS:
        yield f"the seccomp profile has {action[:40]!r} {where}"
    # Without a number it is EPERM.
    elif action == "SCMP_ACT_ERRNO" and error_number is not None and error_number not in _ERRORS:
        yield (
            f"the seccomp profile answers {error_number} {where}, expected EPERM, EACCES, EINVAL or"
            " ENOSYS"
        )


def _annotations(record: Record) -> Iterator[str]:
    known = _ANNOTATIONS.get(record.container.engine, ())
    for name, value in record.oci.annotations:
        if not any(name == one or (one.endswith(".") and name.startswith(one)) for one in known):
            yield f"the record has the annotation {name[:100]!r}"
        elif name == "io.podman.annotations.privileged" and value != "FALSE":
            yield "the container is privileged"
        elif name == "io.kubernetes.cri.container-type" and value != "container":
            yield f"the record is of a {value[:40]!r}, expected a container"
