"""An image as its documents describe it: which layers, of which digests, and what its config says.

These are the values that `documents` makes out of bytes. A config stays the JSON object that it
was, with what this package does not know: Docker keeps more in it than the specification names.
Specification: OCI image format 1.1, `image-index.md`, `manifest.md`, `config.md`.
"""

from __future__ import annotations

from dataclasses import dataclass

from crannog.wire import Json

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"

REFERENCE = "org.opencontainers.image.ref.name"


@dataclass(frozen=True, slots=True)
class Platform:
    """What an image runs on, as `linux/arm64/v8`."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        """With slashes."""
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)

    def fits(self, wanted: Platform) -> bool:
        """Whether somebody who asks for `wanted` means this; no variant means any."""
        return (self.os, self.architecture) == (wanted.os, wanted.architecture) and (
            wanted.variant in ("", self.variant)
        )


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A reference to a blob.

    Attributes:
        media_type: as written.
        digest: `sha256:…`.
        size: bytes.
        platform: of an index's entry, where it says one.
        annotations: of an index's entry.
    """

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: tuple[tuple[str, str], ...] = ()

    def annotation(self, name: str) -> str | None:
        """Its value, or None."""
        return dict(self.annotations).get(name)


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer of an image.

    Attributes:
        blob: the name under which its bytes are found: a digest, or a member of an archive.
        digest: of the blob as it is; "" where no document says it (archives of `docker save`).
        size: bytes of the blob; -1 where no document says it.
        diff_id: digest of the tar archive in it.
    """

    blob: str
    digest: str
    size: int
    diff_id: str


@dataclass(frozen=True, slots=True)
class Image:
    """One image of one platform.

    Attributes:
        config: the config's JSON object.
        config_digest: what it was found by.
        layers: the lowest first.
        platform: from the config.
        names: references that the archive or layout gives it.
    """

    config: dict[str, Json]
    config_digest: str
    layers: tuple[Layer, ...]
    platform: Platform
    names: tuple[str, ...]
