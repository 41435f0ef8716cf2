"""Docker's containers: a containerd shim's directory, runc's state, config.v2.json for names."""

from __future__ import annotations

from crannog.evidence.subject import MAX_TEXT, Container
from crannog.las.bends import hooks_of
from crannog.las.documents import Document
from crannog.las.record import Record
from crannog.las.records.places import Places
from crannog.las.records.shim import read_bundle, read_state
from crannog.las.tree import Tree
from crannog.wire import parse_object

ENGINE = "docker"
_NAMESPACE = "moby"
_TASKS = "io.containerd.runtime.v2.task"
_LIMIT = 4 << 20


def directories(places: Places) -> tuple[str, ...]:
    """Where bundles lie: dockerd's own containerd, or the system's."""
    return (
        f"{places.docker_state}/containerd/daemon/{_TASKS}/{_NAMESPACE}",
        f"{places.containerd_state}/{_TASKS}/{_NAMESPACE}",
    )


def read(tree: Tree, places: Places, container: str) -> Record | None:
    """The record of a container of Docker; None where Docker has none of that id.

    Raises:
        Denied, FormatError, TooLarge: there is one that cannot be relied on.
    """
    for directory in directories(places):
        bundle = read_bundle(tree, f"{directory}/{container}")
        if bundle is not None:
            break
    else:
        return None
    roots = (f"{places.docker_state}/runtime-runc/{_NAMESPACE}",)
    state = read_state(tree, roots, container)
    return Record(
        bundle=bundle.path,
        pid=bundle.pid,
        runtime=bundle.runtime,
        bends=bundle.bends,
        oci=bundle.oci,
        state=state,
        container=_claims(tree, places, container)._replace(hooks=hooks_of(bundle.oci)),
    )


def _claims(tree: Tree, places: Places, container: str) -> Container:
    path = f"{places.docker_root}/containers/{container}/config.v2.json"
    data = tree.read(path, limit=_LIMIT)
    if data is None:
        # Then there is a container, and no claim about it that a session may require.
        return Container(ENGINE, container)
    whole = Document(parse_object(data, limit=_LIMIT, what="config.v2.json"), "config.v2.json")
    if whole.text("ID") != container:
        return Container(ENGINE, container)
    return Container(
        ENGINE,
        container,
        name=whole.text("Name").removeprefix("/")[:MAX_TEXT],
        image=whole.object("Config").text("Image")[:MAX_TEXT],
        image_id=whole.text("Image")[:MAX_TEXT],
    )
