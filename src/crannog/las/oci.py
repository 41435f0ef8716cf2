"""The OCI config.json of a container, as far as it is judged: a frozen record out of its bytes.

Source: OCI runtime specification 1.0 to 1.2, config.md and config-linux.md. Decides what each field
says and collects the fields that are not known here; leaves to `witness` whether any of it is
acceptable. Pure.
"""

from __future__ import annotations

from typing import NamedTuple

from crannog.errors import FormatError
from crannog.las.documents import Document
from crannog.wire import parse_object

LIMIT = 4 << 20
"""Bytes of a config.json. Docker's has about 10 KiB, a large pod's some 100."""

HOOK_KINDS = (
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
)


class Mount(NamedTuple):
    """An entry of `mounts`."""

    destination: str
    kind: str
    source: str
    options: tuple[str, ...]
    mapped: bool


class Hook(NamedTuple):
    """A program that the runtime runs for the container, `kind` says when and where."""

    kind: str
    path: str


class Namespace(NamedTuple):
    """An entry of `linux.namespaces`; with a path it is somebody else's."""

    kind: str
    path: str


class DeviceRule(NamedTuple):
    """An entry of `linux.resources.devices`; -1 stands for every number."""

    allow: bool
    kind: str
    major: int
    minor: int
    access: str


class SeccompRule(NamedTuple):
    """An entry of `linux.seccomp.syscalls`."""

    names: tuple[str, ...]
    action: str
    error_number: int | None
    conditional: bool


class Seccomp(NamedTuple):
    """`linux.seccomp`. `listener` is its listenerPath and listenerMetadata."""

    default: str
    default_error_number: int | None
    rules: tuple[SeccompRule, ...]
    flags: tuple[str, ...]
    listener: str


class Oci(NamedTuple):
    """What is judged of a container's config.json.

    Attributes:
        program: the first of process.args, "" where there is none.
        environment: process.env, NAME=VALUE each.
        capabilities: the names in any of the five sets.
        root: root.path, relative to the bundle or absolute.
        sysctl: the names of linux.sysctl.
        mapped: whether there are uid or gid mappings.
        unknown: full names of fields that are not known here.
    """

    program: str
    environment: tuple[str, ...]
    capabilities: frozenset[str]
    root: str
    mounts: tuple[Mount, ...]
    hooks: tuple[Hook, ...]
    annotations: tuple[tuple[str, str], ...]
    namespaces: tuple[Namespace, ...]
    cgroup: str
    seccomp: Seccomp | None
    devices: tuple[DeviceRule, ...]
    masked: tuple[str, ...]
    read_only: tuple[str, ...]
    propagation: str
    sysctl: tuple[str, ...]
    mapped: bool
    unknown: tuple[str, ...]


def parse_oci(data: bytes) -> Oci:
    """The record of a config.json.

    Raises:
        FormatError, TooLarge: not JSON, over `LIMIT`, or a field of another type.
    """
    unknown: list[str] = []
    whole = Document(parse_object(data, limit=LIMIT, what="config.json"), "config.json")
    whole.skip("ociVersion", "hostname", "domainname")
    process = whole.object("process")
    process.skip(
        "terminal",
        "consoleSize",
        "user",
        "cwd",
        "rlimits",
        "noNewPrivileges",
        "apparmorProfile",
        "selinuxLabel",
        "oomScoreAdj",
        "ioPriority",
        "scheduler",
        "execCPUAffinity",
    )
    sets = process.object("capabilities")
    capabilities = frozenset(
        name
        for kind in ("bounding", "effective", "inheritable", "permitted", "ambient")
        for name in sets.texts(kind)
    )
    root = whole.object("root")
    root.skip("readonly")
    hooks = whole.object("hooks")
    found_hooks = tuple(
        Hook(kind, entry.text("path")) for kind in HOOK_KINDS for entry in hooks.objects(kind)
    )
    linux = whole.object("linux")
    linux.skip("mountLabel", "intelRdt", "devices", "netDevices", "memoryPolicy")
    resources = linux.object("resources")
    record = Oci(
        program=next(iter(process.texts("args")), ""),
        environment=process.texts("env"),
        capabilities=capabilities,
        root=root.text("path"),
        mounts=tuple(_mount(entry, unknown) for entry in whole.objects("mounts")),
        hooks=found_hooks,
        annotations=whole.pairs("annotations"),
        namespaces=tuple(
            Namespace(entry.text("type"), entry.text("path"))
            for entry in linux.objects("namespaces")
        ),
        cgroup=linux.text("cgroupsPath"),
        seccomp=_seccomp(linux.object("seccomp"), unknown) if linux.has("seccomp") else None,
        devices=tuple(_device(entry) for entry in resources.objects("devices")),
        masked=linux.texts("maskedPaths"),
        read_only=linux.texts("readonlyPaths"),
        propagation=linux.text("rootfsPropagation"),
        sysctl=tuple(name for name, _ in linux.pairs("sysctl")),
        mapped=bool(linux.items("uidMappings") or linux.items("gidMappings")),
        unknown=(),
    )
    linux.skip("seccomp")
    for document in (sets, hooks, root, process, linux, whole):
        unknown += document.left()
    return record._replace(unknown=tuple(unknown))


def _mount(entry: Document, unknown: list[str]) -> Mount:
    found = Mount(
        entry.text("destination"),
        entry.text("type"),
        entry.text("source"),
        entry.texts("options"),
        bool(entry.items("uidMappings") or entry.items("gidMappings")),
    )
    unknown += entry.left()
    return found


def _device(entry: Document) -> DeviceRule:
    allow = entry.flag("allow")
    kind = entry.text("type") or "a"
    major, minor = entry.number("major"), entry.number("minor")
    access = entry.text("access") or "rwm"
    if entry.left():
        raise FormatError(f"unknown field of the record: {entry.left()[0]}")
    return DeviceRule(
        allow, kind, -1 if major is None else major, -1 if minor is None else minor, access
    )


def _seccomp(profile: Document, unknown: list[str]) -> Seccomp:
    profile.skip("architectures")
    rules: list[SeccompRule] = []
    for entry in profile.objects("syscalls"):
        rules.append(
            SeccompRule(
                entry.texts("names"),
                entry.text("action"),
                entry.number("errnoRet"),
                bool(entry.items("args")),
            )
        )
        unknown += entry.left()
    found = Seccomp(
        profile.text("defaultAction"),
        profile.number("defaultErrnoRet"),
        tuple(rules),
        profile.texts("flags"),
        profile.text("listenerPath") + profile.text("listenerMetadata"),
    )
    unknown += profile.left()
    return found
