"""Indexes, manifests and configs, out of bytes whose digest was checked before.

Strict where this package relies on it: digests, sizes, media types, the number of layers. Unknown
fields are allowed, as the specification demands, and a config keeps them.
"""

from __future__ import annotations

import re

from crannog.errors import FormatError, TooLarge, Unsupported
from crannog.oci.limits import Limits
from crannog.oci.model import (
    CONFIG,
    DOCKER_CONFIG,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    LAYER,
    LAYER_GZIP,
    Descriptor,
    Platform,
)
from crannog.oci.streams import check_digest
from crannog.wire import Json, parse_json, parse_object

_LAYER_TYPES = (LAYER, LAYER_GZIP, DOCKER_LAYER, DOCKER_LAYER_GZIP)
_PLATFORM_PART = re.compile(r"[a-z0-9._-]{1,64}\Z")


def parse_platform(text: str) -> Platform:
    """`linux/amd64` or `linux/arm64/v8`.

    Raises:
        FormatError: anything else.
    """
    parts = text.split("/")
    if not 2 <= len(parts) <= 3 or not all(_PLATFORM_PART.match(part) for part in parts):
        raise FormatError(
            f"platform is {text[:80]!r}, expected OS/ARCHITECTURE, for example linux/amd64"
        )
    return Platform(*parts)


def parse_index(data: bytes, what: str, limits: Limits) -> tuple[Descriptor, ...]:
    """The entries of an index."""
    index = parse_object(data, limit=limits.document, what=what)
    entries = _list(index, "manifests", what, limits.manifests)
    return tuple(_descriptor(entry, f"{what}: manifest {n}") for n, entry in enumerate(entries))


def parse_manifest(
    data: bytes, what: str, limits: Limits
) -> tuple[Descriptor, tuple[Descriptor, ...]]:
    """The config's descriptor and those of the layers, the lowest first.

    Raises:
        Unsupported: an artifact that is no image, layers that are fetched from elsewhere.
        FormatError, TooLarge: malformed.
    """
    manifest = parse_object(data, limit=limits.document, what=what)
    if manifest.get("schemaVersion") != 2:
        raise FormatError(f"{what} is not of schema version 2")
    config = _descriptor(manifest.get("config"), f"{what}: config")
    if config.media_type not in (CONFIG, DOCKER_CONFIG):
        raise Unsupported(
            f"{what} is no image: its config is of type {config.media_type[:100]!r}",
        )
    layers = []
    for number, entry in enumerate(_list(manifest, "layers", what, limits.layers)):
        layer = _descriptor(entry, f"{what}: layer {number}")
        if layer.media_type not in _LAYER_TYPES:
            hint = ""
            if "zstd" in layer.media_type:
                hint = (
                    "write the image anew with gzip, for example:"
                    " skopeo copy --dest-compress-format gzip oci:FROM oci:TO"
                )
            raise Unsupported(
                f"{what}: layer {number} is of type {layer.media_type[:100]!r},"
                " expected a tar archive, compressed by gzip or not at all",
                hint=hint,
            )
        layers.append(layer)
    return config, tuple(layers)


def parse_config(
    data: bytes, what: str, limits: Limits
) -> tuple[dict[str, Json], tuple[str, ...], Platform]:
    """A config, its diff ids, and its platform."""
    config = parse_object(data, limit=limits.document, what=what)
    rootfs = config.get("rootfs")
    if not isinstance(rootfs, dict) or rootfs.get("type") != "layers":
        raise FormatError(f"{what} has no rootfs of type layers")
    # Docker writes null for an image without layers.
    ids = _list(rootfs, "diff_ids", what, limits.layers) if rootfs.get("diff_ids") else []
    found = tuple(
        check_digest(_string(item, f"{what}: diff id {n}"), f"{what}: diff id {n}")
        for n, item in enumerate(ids)
    )
    platform = Platform(
        _string(config.get("os"), f"{what}: os"),
        _string(config.get("architecture"), f"{what}: architecture"),
        _string(config.get("variant") or "", f"{what}: variant"),
    )
    for key, kind in (("config", dict), ("history", list)):
        if not isinstance(config.get(key), kind | None):
            raise FormatError(f"{what}: {key} is malformed")
    return config, found, platform


def parse_archive_manifest(
    data: bytes, what: str, limits: Limits
) -> tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]:
    """`manifest.json` of an archive of `docker save`: config, layers and names of each image."""
    entries = parse_json(data, limit=limits.document, what=what)
    if not isinstance(entries, list) or len(entries) > limits.manifests:
        raise FormatError(f"{what} is not a list of images")
    images = []
    for number, entry in enumerate(entries):
        place = f"{what}: image {number}"
        if not isinstance(entry, dict):
            raise FormatError(f"{place} is malformed")
        layers = tuple(
            _string(item, f"{place}: layer")
            for item in _list(entry, "Layers", place, limits.layers)
        )
        names: list[Json] = []
        if entry.get("RepoTags"):
            names = _list(entry, "RepoTags", place, limits.manifests)
        images.append(
            (
                _string(entry.get("Config"), f"{place}: Config"),
                layers,
                tuple(_string(name, f"{place}: name") for name in names),
            )
        )
    return tuple(images)


def _descriptor(value: Json, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise FormatError(f"{what} is no descriptor")
    size = value.get("size")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 2**63:
        raise FormatError(f"{what} has no size")
    if value.get("urls"):
        raise Unsupported(f"{what} is to be fetched from elsewhere: that is not supported")
    platform = value.get("platform")
    found: Platform | None = None
    if isinstance(platform, dict):
        found = Platform(
            _string(platform.get("os"), f"{what}: os"),
            _string(platform.get("architecture"), f"{what}: architecture"),
            _string(platform.get("variant") or "", f"{what}: variant"),
        )
    annotations = value.get("annotations") or {}
    if not isinstance(annotations, dict):
        raise FormatError(f"{what}: annotations are malformed")
    return Descriptor(
        _string(value.get("mediaType"), f"{what}: media type"),
        check_digest(_string(value.get("digest"), f"{what}: digest"), what),
        size,
        found,
        tuple(sorted((key, text) for key, text in annotations.items() if isinstance(text, str))),
    )


def _list(value: dict[str, Json], key: str, what: str, limit: int) -> list[Json]:
    found = value.get(key)
    if not isinstance(found, list):
        raise FormatError(f"{what}: {key} is not a list")
    if len(found) > limit:
        raise TooLarge(f"{what}: {key} has {len(found)} entries, expected at most {limit}")
    return found


def _string(value: Json, what: str) -> str:
    if not isinstance(value, str) or len(value) > 4096:
        raise FormatError(f"{what} is not a text of at most 4096 characters")
    return value
