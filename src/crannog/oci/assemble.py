"""A changed image's documents: config, manifest, index, and what `docker load` reads.

Pure: from an image and what became of its layers to bytes. A config keeps all that this package
does not know; only layers, history, labels and the time are changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from crannog.errors import FormatError
from crannog.oci.model import (
    CONFIG,
    INDEX,
    LAYER,
    LAYER_GZIP,
    MANIFEST,
    REFERENCE,
    Platform,
)
from crannog.oci.streams import digest_of
from crannog.wire import Json, encode_json


class Blob(NamedTuple):
    """A layer of the new image.

    Attributes:
        digest: of the blob.
        size: bytes of it.
        diff_id: of the archive in it.
        gzip: whether it is compressed.
    """

    digest: str
    size: int
    diff_id: str
    gzip: bool


class Documents(NamedTuple):
    """The new image's documents, by name in a layout.

    Attributes:
        config: bytes; its digest is the image's id.
        manifest: bytes.
        layout_index: bytes of `index.json`.
        archive_manifest: bytes of `manifest.json`, for `docker load`.
    """

    config: bytes
    manifest: bytes
    layout_index: bytes
    archive_manifest: bytes

    @property
    def config_digest(self) -> str:
        """What engines call the image's id."""
        return digest_of(self.config)

    @property
    def manifest_digest(self) -> str:
        """What registries call the image."""
        return digest_of(self.manifest)


def changed_config(
    config: Mapping[str, Json],
    layers: tuple[Blob, ...],
    *,
    labels: Mapping[str, str],
    created: str,
    created_by: str,
    redact: Mapping[int, str],
) -> dict[str, Json]:
    """A config for `layers`, the last of which is new.

    Args:
        config: the old one.
        layers: all of the new image.
        labels: added, or put in the place of old ones.
        created: time, RFC 3339.
        created_by: what made the last layer, for the history.
        redact: entries of the history, by number, with what they say instead.

    Raises:
        FormatError: labels or history are malformed.
    """
    # Docker's record of the container that the last step was built in: of no use to anybody, and
    # the place where that step's command stands once more.
    result = {
        key: value for key, value in config.items() if key not in ("container", "container_config")
    }
    settings = result.get("config")
    settings = dict(settings) if isinstance(settings, dict) else {}
    old = settings.get("Labels")
    if not isinstance(old, dict | None):
        raise FormatError("the image's labels are malformed")
    settings["Labels"] = {**(old or {}), **labels}
    result["config"] = settings
    result["created"] = created
    ids: list[Json] = [layer.diff_id for layer in layers]
    result["rootfs"] = {"type": "layers", "diff_ids": ids}
    history = result.get("history")
    if isinstance(history, list):
        entries: list[Json] = []
        for number, entry in enumerate(history):
            if not isinstance(entry, dict):
                raise FormatError(f"the image's history, entry {number}, is malformed")
            entries.append({**entry, "created_by": redact[number]} if number in redact else entry)
        entries.append({"created": created, "created_by": created_by})
        result["history"] = entries
    return result


def documents(
    config: Mapping[str, Json], layers: tuple[Blob, ...], *, name: str, platform: Platform
) -> Documents:
    """All documents of one image, under one name."""
    config_data = encode_json(dict(config))
    entries: list[Json] = [
        {
            "mediaType": LAYER_GZIP if layer.gzip else LAYER,
            "digest": layer.digest,
            "size": layer.size,
        }
        for layer in layers
    ]
    manifest = encode_json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": CONFIG,
                "digest": digest_of(config_data),
                "size": len(config_data),
            },
            "layers": entries,
        }
    )
    runs_on: dict[str, Json] = {"os": platform.os, "architecture": platform.architecture}
    if platform.variant:
        runs_on["variant"] = platform.variant
    index = encode_json(
        {
            "schemaVersion": 2,
            "mediaType": INDEX,
            "manifests": [
                {
                    "mediaType": MANIFEST,
                    "digest": digest_of(manifest),
                    "size": len(manifest),
                    "platform": runs_on,
                    "annotations": {REFERENCE: name, "io.containerd.image.name": name},
                }
            ],
        }
    )
    archive = encode_json(
        [
            {
                "Config": blob_path(digest_of(config_data)),
                "RepoTags": [name],
                "Layers": [blob_path(layer.digest) for layer in layers],
            }
        ]
    )
    return Documents(config_data, manifest, index, archive)


def blob_path(digest: str) -> str:
    """Where a blob lies in a layout."""
    return "blobs/" + digest.replace(":", "/")
