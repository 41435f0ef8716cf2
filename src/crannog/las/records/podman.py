"""Podman's containers of root: userdata/config.json, pid file, runc's state, containers.json."""

from __future__ import annotations

from crannog.evidence.subject import MAX_TEXT, Container
from crannog.las.bends import hooks_of
from crannog.las.documents import Document
from crannog.las.oci import LIMIT, parse_oci
from crannog.las.record import Record
from crannog.las.records.places import Places
from crannog.las.records.shim import parse_pid, read_state, required, traces
from crannog.las.tree import Tree
from crannog.wire import parse_json, parse_object

ENGINE = "podman"
_DRIVERS = ("overlay", "vfs", "btrfs", "zfs")
_LIMIT = 4 << 20


def directories(places: Places) -> tuple[str, ...]:
    """Where the containers' directories lie, one for each storage driver."""
    return tuple(f"{places.podman_root}/{driver}-containers" for driver in _DRIVERS)


def read(tree: Tree, places: Places, container: str) -> Record | None:
    """The record of a container of podman; None where it has none of that id.

    Raises:
        Denied, FormatError, TooLarge: there is one that cannot be relied on.
    """
    for directory in directories(places):
        path = f"{directory}/{container}/userdata"
        config = tree.read(f"{path}/config.json", limit=LIMIT)
        if config is not None:
            break
    else:
        return None
    run = f"{places.podman_state}/{directory.rpartition('/')[2]}/{container}/userdata"
    pid = parse_pid(required(tree, f"{run}/pidfile"))
    oci = parse_oci(config)
    # Each runtime has a directory of its own; what is found there names it.
    roots = tuple(f"{places.runtime_state}/{name}" for name in ("runc", "crun"))
    state = read_state(tree, roots, container)
    return Record(
        bundle=path,
        pid=pid,
        runtime="runc",
        bends=(*traces(tree, path), *traces(tree, run)),
        oci=oci,
        state=state,
        container=_claims(tree, directory, container)._replace(hooks=hooks_of(oci)),
    )


def _claims(tree: Tree, directory: str, container: str) -> Container:
    data = tree.read(f"{directory}/containers.json", limit=_LIMIT)
    value = [] if data is None else parse_json(data, limit=_LIMIT, what="containers.json")
    for item in value if isinstance(value, list) else []:
        entry = Document(item, "containers.json")
        if entry.text("id") != container:
            continue
        # What the libpod library notes is text in text.
        metadata = Document(
            parse_object(entry.text("metadata").encode(), limit=_LIMIT, what="metadata"),
            "metadata",
        )
        image_id = metadata.text("image-id") or entry.text("image")
        return Container(
            ENGINE,
            container,
            name=(metadata.text("name") or next(iter(entry.texts("names")), ""))[:MAX_TEXT],
            image=metadata.text("image-name")[:MAX_TEXT],
            image_id=f"sha256:{image_id}"[:MAX_TEXT] if image_id else "",
        )
    return Container(ENGINE, container)
