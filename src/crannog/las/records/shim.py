"""A container in the directory of a containerd shim: what containerd and Docker have in common.

Files of a bundle: config.json, init.pid, options.json, runtime, shim-binary-path. With containerd 2
the containers of a pod share their sandbox's shim: they have `sandbox`, its id, instead.
Decides which program runs the container, by list; unknown is named, not guessed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from crannog.errors import Denied, FormatError
from crannog.las.documents import Document
from crannog.las.oci import LIMIT, Oci, parse_oci
from crannog.las.record import STATE_LIMIT, State, parse_crun_status, parse_runc_state
from crannog.las.tree import Tree
from crannog.wire import parse_object

_SHIMS = ("containerd-shim-runc-v2",)
_SMALL = 64 * 1024
_ID = re.compile(r"[0-9a-f]{64}")
_SANDBOX = "io.kubernetes.cri.sandbox-id"
# Options of io.containerd.runc.v2 that say where things are, and no more.
_OPTIONS = (
    "root",
    "systemd_cgroup",
    "shim_cgroup",
    "io_uid",
    "io_gid",
    "no_new_keyring",
    "task_api_address",
    "task_api_version",
)
_TRACES = ("checkpoint", "restore.log", "criu-dump.log", "dump.log")
_MOST_NAMES = 200


class Bundle(NamedTuple):
    """What the shim's directory says."""

    path: str
    pid: int
    runtime: str
    bends: tuple[str, ...]
    oci: Oci


def read_bundle(tree: Tree, path: str) -> Bundle | None:
    """The bundle at `path`, or None where there is none.

    Raises:
        Denied, FormatError, TooLarge: there is one that cannot be relied on.
    """
    config = tree.read(f"{path}/config.json", limit=LIMIT)
    if config is None:
        return None
    pid = parse_pid(required(tree, f"{path}/init.pid"))
    oci = parse_oci(config)
    bends: list[str] = []
    shim = _shim(tree, path, oci, bends)
    if shim.rpartition("/")[2] not in _SHIMS:
        bends.append(f"the container's shim is {shim[:200]!r}, expected {_SHIMS[0]}")
    # Missing where a runtime has none to give; then the shim takes runc.
    options = tree.read(f"{path}/options.json", limit=_SMALL)
    runtime, more = _options(options)
    return Bundle(path, pid, runtime, (*bends, *more, *traces(tree, path)), oci)


def read_state(tree: Tree, roots: tuple[str, ...], container: str) -> State:
    """The OCI runtime's own note about a container, from the first of `roots` that has one.

    Raises:
        Denied: there is none: the record is stale or the runtime another.
        FormatError, TooLarge: it is not of the known form.
    """
    for root in roots:
        data = tree.read(f"{root}/{container}/state.json", limit=STATE_LIMIT)
        if data is not None:
            return parse_runc_state(data)
        data = tree.read(f"{root}/{container}/status", limit=STATE_LIMIT)
        if data is not None:
            return parse_crun_status(data, container)
    raise Denied(
        f"runc or crun have no state of the container in {' or '.join(roots)}",
        hint="the record is stale, the runtime is another one, or the directory is not mounted",
    )


def traces(tree: Tree, path: str) -> tuple[str, ...]:
    """Whether a checkpoint was made or restored there, a phrase for each trace."""
    names = tree.names(path, limit=_MOST_NAMES) or ()
    return tuple(
        f"the container was restored or saved: {name}" for name in names if name in _TRACES
    )


def required(tree: Tree, path: str) -> bytes:
    """A small file that has to be there; `Denied`."""
    data = tree.read(path, limit=_SMALL)
    if data is None:
        raise Denied(f"{path} is missing in the record")
    return data


def parse_pid(data: bytes) -> int:
    """A process id in decimal; `FormatError`."""
    text = data.strip()
    if not text.isdigit() or len(text) > 10 or int(text) == 0:
        raise FormatError("the record's pid file does not hold a process id")
    return int(text)


def _shim(tree: Tree, path: str, oci: Oci, bends: list[str]) -> str:
    """The path of the program that the container's shim is."""
    data = tree.read(f"{path}/shim-binary-path", limit=_SMALL)
    if data is None:
        told = tree.read(f"{path}/sandbox", limit=_SMALL)
        if told is None:
            raise Denied(f"{path}/shim-binary-path is missing in the record")
        sandbox = told.decode("utf-8", "replace").strip()
        if _ID.fullmatch(sandbox) is None:
            raise FormatError("the record's sandbox is not a container's id")
        if dict(oci.annotations).get(_SANDBOX) != sandbox:
            bends.append("the container's shim is another sandbox's than the record names")
        data = required(tree, f"{path.rpartition('/')[0]}/{sandbox}/shim-binary-path")
    return data.decode("utf-8", "replace").strip()


def _options(data: bytes | None) -> tuple[str, tuple[str, ...]]:
    if data is None or not data.strip():
        return "runc", ()
    options = Document(parse_object(data, limit=_SMALL, what="options.json"), "options.json")
    # As runc's options spell it, and as containerd 2 and gVisor do.
    named = options.text("binary_name") or options.text("BinaryName")
    options.skip(*_OPTIONS)
    bends: list[str] = []
    if options.flag("no_pivot_root"):
        bends.append("the container's root was not pivoted to")
    for name in ("criu_path", "criu_image_path", "criu_work_path"):
        if options.text(name):
            bends.append(f"the container was restored or saved: {name}")
    bends += [
        f"the record has the field {name}, which is not known here" for name in options.left()
    ]
    return named.rpartition("/")[2] or "runc", tuple(bends)
