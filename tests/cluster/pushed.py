"""The images of this checkout, built once in a run and pushed to a cluster's registry."""

from __future__ import annotations

from images.build import build_images

from tests.cluster.rig import Cluster
from tests.containers import artifacts as made
from tests.containers import base
from tests.containers.rig import RUN


def pushed_images(cluster: Cluster) -> dict[str, str]:
    """Every image: `launcher`, `python`, `cas`, … and the full name."""
    if base.is_image():
        base_name = base.chosen()
    else:
        base_name = made.import_base(cluster.engine, f"{cluster.registry}/{RUN}/base:bookworm")
    prefix = f"{cluster.registry}/{RUN}/"
    built = build_images(
        cluster.engine.name, base=base_name, artifacts=made.artifacts(), prefix=prefix
    )
    for image in built:
        cluster.push_tagged(image.name)
    return {image.name.removeprefix(prefix): image.name for image in built}


def pushed_base(cluster: Cluster) -> str:
    """The base image's full name: Debian with Python, and nothing of ours."""
    name = f"{cluster.registry}/{RUN}/plain:1"
    made.import_base(cluster.engine, name)
    cluster.push_tagged(name)
    return name
