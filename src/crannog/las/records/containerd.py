"""The kubelet's containers: a containerd shim's directory, with the CRI's annotations for names.

Only containerd's namespace `k8s.io`, which is the kubelet's: who else writes there is root on the
node. Other namespaces (ctr, nerdctl) are not read.
"""

from __future__ import annotations

from crannog.evidence.subject import MAX_TEXT, Container
from crannog.las.bends import hooks_of
from crannog.las.record import Record
from crannog.las.records.places import Places
from crannog.las.records.shim import read_bundle, read_state
from crannog.las.tree import Tree

ENGINE = "containerd"
_NAMESPACE = "k8s.io"
_CRI = "io.kubernetes.cri."


def directories(places: Places) -> tuple[str, ...]:
    """Where bundles lie."""
    return (f"{places.containerd_state}/io.containerd.runtime.v2.task/{_NAMESPACE}",)


def read(tree: Tree, places: Places, container: str) -> Record | None:
    """The record of a pod's container; None where the kubelet's containerd has none of that id.

    Raises:
        Denied, FormatError, TooLarge: there is one that cannot be relied on.
    """
    (directory,) = directories(places)
    bundle = read_bundle(tree, f"{directory}/{container}")
    if bundle is None:
        return None
    roots = tuple(f"{places.containerd_state}/{name}/{_NAMESPACE}" for name in ("runc", "crun"))
    state = read_state(tree, roots, container)
    annotations = dict(bundle.oci.annotations)

    def said(name: str) -> str:
        return annotations.get(_CRI + name, "")[:MAX_TEXT]

    image = said("image-name")
    digest = image.partition("@")[2]
    return Record(
        bundle=bundle.path,
        pid=bundle.pid,
        runtime=bundle.runtime,
        bends=bundle.bends,
        oci=bundle.oci,
        state=state,
        container=Container(
            ENGINE,
            container,
            name=said("container-name"),
            image=image,
            # The CRI's image id is not in the record: a digest only where the pod gives one.
            image_id=digest if digest.startswith("sha256:") else "",
            namespace=said("sandbox-namespace"),
            pod=said("sandbox-name"),
            hooks=hooks_of(bundle.oci),
        ),
    )
