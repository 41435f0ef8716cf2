"""(A) Can somebody reach into the process, or the container into the node?

Capabilities, devices, writable kernel settings, a tracer. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator

from crannog.las.facts import Facts
from crannog.las.oci import DeviceRule, Oci

# linux/capability.h. What Docker grants by default, and less.
ALLOWED_CAPABILITIES = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_FOWNER": 3,
    "CAP_FSETID": 4,
    "CAP_KILL": 5,
    "CAP_SETGID": 6,
    "CAP_SETUID": 7,
    "CAP_SETPCAP": 8,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_RAW": 13,
    "CAP_SYS_CHROOT": 18,
    "CAP_MKNOD": 27,
    "CAP_AUDIT_WRITE": 29,
    "CAP_SETFCAP": 31,
}
_ALLOWED_BITS = sum(1 << bit for bit in ALLOWED_CAPABILITIES.values())

# null, zero, full, random, urandom; tty, console, ptmx; tun
_ALLOWED_DEVICES = frozenset(
    {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1), (5, 2), (10, 200)}
)
_PTS = 136

# What a device plugin gives a container for SGX: an enclave's memory is of who opens the device.
# Their minor numbers are the kernel's choice at each start of the node (ADR 1044).
_MISC = 10
_ENCLAVE_DEVICES = ("sgx_enclave", "sgx_provision", "isgx")

_SYSCTL = ("net.", "kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")


def enclave_devices(misc: tuple[tuple[int, str], ...]) -> frozenset[tuple[int, int]]:
    """Major and minor numbers of SGX's devices, of the kernel's list of minor numbers and names."""
    return frozenset((_MISC, minor) for minor, name in misc if name in _ENCLAVE_DEVICES)


def powers(oci: Oci, facts: Facts, enclaves: frozenset[tuple[int, int]]) -> Iterator[str]:
    """The reasons of this module; `enclaves` are the node's devices of SGX."""
    yield from _capabilities(oci, facts)
    # The rules begin with the refusal of everything: without it the runtime refuses nothing.
    first = oci.devices[0] if oci.devices else None
    if first is None or first.allow or first.kind != "a" or set(first.access) != set("rwm"):
        yield "the container may use every device"
    for rule in oci.devices:
        if rule.allow and not _harmless(rule, enclaves):
            numbers = f"{rule.kind} {_number(rule.major)}:{_number(rule.minor)}"
            yield f"the container may use device {numbers}"
    # A privileged container has neither.
    if "/proc/sys" not in oci.read_only or "/proc/sysrq-trigger" not in oci.read_only:
        yield "the container may write kernel settings below /proc"
    if "/proc/kcore" not in oci.masked:
        yield "the container may read the kernel's memory at /proc/kcore"
    for mount in oci.mounts:
        if mount.destination.rstrip("/") == "/sys" or mount.kind == "sysfs":
            options = set(mount.options)
            if mount.kind != "sysfs" or "ro" not in options or options & {"rw", "bind", "rbind"}:
                yield "the container may write kernel settings below /sys"
    for name in oci.sysctl:
        if not name.replace("/", ".").startswith(_SYSCTL):
            yield f"the record sets the kernel parameter {name[:80]!r}"
    if oci.propagation not in ("", "private", "rprivate", "slave", "rslave"):
        yield f"the container's root has propagation {oci.propagation[:40]!r}"
    if facts.status.tracer:
        yield "the process is traced"
    if facts.status.user != 0 and facts.owner != 0:
        yield "the process is dumpable: others of its user may trace it"


def _capabilities(oci: Oci, facts: Facts) -> Iterator[str]:
    for name in sorted(oci.capabilities - ALLOWED_CAPABILITIES.keys()):
        yield f"the record grants {name[:40]}"
    more = facts.status.capabilities & ~_ALLOWED_BITS
    if more:
        bits = ", ".join(str(bit) for bit in range(64) if more >> bit & 1)
        yield f"the process has capabilities that are not allowed: {bits}"


def _harmless(rule: DeviceRule, enclaves: frozenset[tuple[int, int]]) -> bool:
    # To make a device file is not to use it.
    if not set(rule.access) - {"m"}:
        return True
    if rule.kind != "c":
        return False
    return rule.major == _PTS or (rule.major, rule.minor) in _ALLOWED_DEVICES | enclaves


def _number(value: int) -> str:
    return "*" if value < 0 else str(value)
