"""The tutorial's text as it is run on a cluster, and the place where its blocks are typed."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from tests.cluster.rig import Cluster
from tests.containers.podman import SETTINGS, write_docker_shim
from tests.tutorial.seed import bash_blocks, block_with, seed_text

LAS = "172.17.0.1"


def text_for(cluster: Cluster, images: Mapping[str, str], cas: str) -> str:
    """The text with this cluster's addresses, and the images that it names pushed.

    Set are the registry's address before the images' names and the CAS's address, nothing else. A
    cluster whose nodes do not have the tutorial's 172.17.0.1 is told the LAS's address by
    CRANNOG_TEST_LAS.
    """
    text, named = re.subn(
        r"(?<=[ =])sconecuratedimages/", f"{cluster.registry}/sconecuratedimages/", seed_text()
    )
    text, addresses = re.subn(
        r"^export SCONE_CAS_ADDR=\S+$",
        f"export SCONE_CAS_ADDR={cas}",
        text,
        flags=re.MULTILINE,
    )
    assert (named, addresses) == (5, 1)
    las = os.environ.get("CRANNOG_TEST_LAS", LAS)
    text = re.sub(rf'(value: "?){re.escape(LAS)}', rf"\g<1>{las}", text)
    blocks = bash_blocks(text)
    for image, mark in (("python", "export BASE_IMAGE"), ("las", "kind: DaemonSet")):
        found = re.search(rf"{cluster.registry}/(\S+)", block_with(blocks, mark))
        assert found is not None
        cluster.push(images[image], found[1])
    return text


def terminal(cluster: Cluster, directory: Path) -> dict[str, str]:
    """The environment of a shell in which the blocks run, with `docker`; its files in `directory`.

    The replies are to be written to $REPLIES.
    """
    path = cluster.environment.get("PATH", os.environ["PATH"])
    if cluster.engine.name == "podman":
        programs = directory / "bin"
        programs.mkdir()
        write_docker_shim(programs)
        path = f"{programs}:{path}"
    kept = {name: os.environ[name] for name in (*SETTINGS, "KUBECONFIG") if name in os.environ}
    return {
        **kept,
        **cluster.environment,
        "PATH": path,
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "REPLIES": str(directory),
    }
