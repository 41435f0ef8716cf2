"""From a layout or archive to one image of it: index, manifest and config, each by its digest.

Decides which image is meant (by reference, by platform) and refuses to guess. Layers are not read
here (`layers`).
"""

from __future__ import annotations

from crannog.errors import FormatError, Misconfigured, NotFound, TooLarge
from crannog.oci.blobs import Blobs
from crannog.oci.documents import (
    parse_archive_manifest,
    parse_config,
    parse_index,
    parse_manifest,
)
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.model import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    INDEX,
    MANIFEST,
    REFERENCE,
    Descriptor,
    Image,
    Layer,
    Platform,
)
from crannog.oci.streams import check_same, digest_of
from crannog.shield.paths import printable
from crannog.wire import parse_object

_NESTING = 3


def open_image(
    blobs: Blobs,
    *,
    reference: str | None = None,
    platform: Platform | None = None,
    limits: Limits = DEFAULT,
) -> Image:
    """The image in `blobs` that `reference` and `platform` mean.

    Args:
        blobs: a layout, or an archive of a layout or of `docker save`.
        reference: its name there; needed where there are several.
        platform: needed where there are images for several.
        limits: bounds.

    Raises:
        Misconfigured: several would fit, or none.
        FormatError, IntegrityError, NotFound, TooLarge, Unsupported: malformed, changed,
            incomplete, too large, beyond what is read here.
    """
    # An archive of a new `docker save` is both; its layout has the blobs' digests.
    if blobs.has("oci-layout") and blobs.has("index.json"):
        image = _from_layout(blobs, reference, platform, limits)
    elif blobs.has("manifest.json"):
        image = _from_archive(blobs, reference, limits)
    else:
        raise FormatError(
            f"{blobs.what} is no image: it has neither index.json nor manifest.json",
            hint="give an OCI image layout, or what 'docker save' or 'podman save' wrote",
        )
    if platform is not None and not image.platform.fits(platform):
        raise Misconfigured(
            f"the image in {blobs.what} is for {image.platform}, expected {platform}"
        )
    if image.platform.os != "linux":
        raise Misconfigured(
            f"the image in {blobs.what} is for {image.platform}, expected one for linux"
        )
    return image


def read_document(blobs: Blobs, name: str, limits: Limits) -> bytes:
    """A whole file of at most `limits.document` bytes."""
    source, size = blobs.open(name)
    try:
        if size > limits.document:
            raise TooLarge(
                f"{blobs.what}: {name} has {size} bytes, expected at most {limits.document}"
            )
        data = b""
        while piece := source.read(limits.document + 1 - len(data)):
            data += piece
            if len(data) > limits.document:
                raise TooLarge(f"{blobs.what}: {name} grew while it was read")
        return data
    finally:
        source.close()


def _from_layout(
    blobs: Blobs, reference: str | None, platform: Platform | None, limits: Limits
) -> Image:
    layout = parse_object(
        read_document(blobs, "oci-layout", limits), limit=limits.document, what="oci-layout"
    )
    version = layout.get("imageLayoutVersion")
    if not isinstance(version, str) or not version.startswith("1."):
        raise FormatError(f"{blobs.what} is no image layout of version 1")
    entries = parse_index(read_document(blobs, "index.json", limits), "index.json", limits)
    if reference is not None:
        known = sorted({entry.annotation(REFERENCE) or "" for entry in entries} - {""})
        entries = tuple(entry for entry in entries if entry.annotation(REFERENCE) == reference)
        if not entries:
            raise NotFound(
                f"{blobs.what} has no image {_quoted(reference)}",
                hint=f"it has: {', '.join(map(_quoted, known[:10]))}" if known else "it names none",
            )
    found = _choose(
        _manifests(blobs, entries, limits, _NESTING), platform, blobs.what, named=reference
    )
    data = _blob(blobs, found, limits)
    what = f"manifest {found.digest}"
    config, layers = parse_manifest(data, what, limits)
    raw = _blob(blobs, config, limits)
    content, ids, runs_on = parse_config(raw, f"config {config.digest}", limits)
    if len(ids) != len(layers):
        raise FormatError(f"{what} has {len(layers)} layers, and its config {len(ids)}")
    name = found.annotation(REFERENCE)
    return Image(
        content,
        config.digest,
        tuple(
            Layer(_path(layer.digest), layer.digest, layer.size, diff)
            for layer, diff in zip(layers, ids, strict=True)
        ),
        runs_on,
        () if name is None else (name,),
    )


def _manifests(
    blobs: Blobs, entries: tuple[Descriptor, ...], limits: Limits, depth: int
) -> list[Descriptor]:
    """The manifests of images in an index and the indexes below it."""
    found: dict[str, Descriptor] = {}
    for entry in entries:
        if entry.media_type in (INDEX, DOCKER_LIST):
            if depth == 0:
                raise FormatError(f"{blobs.what}: indexes are nested deeper than {_NESTING}")
            inner = parse_index(_blob(blobs, entry, limits), f"index {entry.digest}", limits)
            for manifest in _manifests(blobs, inner, limits, depth - 1):
                found.setdefault(manifest.digest, manifest)
        # Builders put what they know about an image beside it, for a platform of no kind.
        elif entry.media_type in (MANIFEST, DOCKER_MANIFEST) and (
            entry.platform is None or entry.platform.os != "unknown"
        ):
            found.setdefault(entry.digest, entry)
        if len(found) > limits.manifests:
            raise TooLarge(f"{blobs.what} has more than {limits.manifests} images")
    return list(found.values())


def _choose(
    found: list[Descriptor], platform: Platform | None, what: str, *, named: str | None
) -> Descriptor:
    if platform is not None and len(found) > 1:
        fitting = [m for m in found if m.platform is not None and m.platform.fits(platform)]
        if not fitting:
            raise Misconfigured(
                f"{what} has no image for {platform}", hint=f"it has: {_platforms(found)}"
            )
        found = fitting
    if len(found) == 1:
        return found[0]
    if not found:
        raise FormatError(f"{what} holds no image")
    names = sorted({m.annotation(REFERENCE) or "" for m in found} - {""})
    if named is None and len(names) > 1:
        raise Misconfigured(
            f"{what} holds {len(found)} images",
            hint=f"say which, after another colon: {', '.join(map(_quoted, names[:10]))}",
        )
    raise Misconfigured(
        f"{what} holds {len(found)} images for different platforms",
        hint=f"say which by --platform: {_platforms(found)}",
    )


def _from_archive(blobs: Blobs, reference: str | None, limits: Limits) -> Image:
    images = parse_archive_manifest(
        read_document(blobs, "manifest.json", limits), "manifest.json", limits
    )
    if reference is not None:
        known = sorted({name for image in images for name in image[2]})
        images = tuple(image for image in images if reference in image[2])
        if not images:
            raise NotFound(
                f"{blobs.what} has no image {_quoted(reference)}",
                hint=f"it has: {', '.join(map(_quoted, known[:10]))}" if known else "it names none",
            )
    if not images:
        raise FormatError(f"{blobs.what} holds no image")
    if len({image[0] for image in images}) > 1:
        names = [name for image in images for name in image[2]]
        raise Misconfigured(
            f"{blobs.what} holds {len(images)} images",
            hint=f"say which, after another colon: {', '.join(map(_quoted, names[:10]))}",
        )
    config_name, layers, names_of = images[0]
    data = read_document(blobs, config_name, limits)
    digest = digest_of(data)
    # The name is the only thing that says which config it is.
    told = config_name.rpartition("/")[2].removesuffix(".json")
    check_same(digest.partition(":")[2], told, f"config {_quoted(config_name)}")
    content, ids, runs_on = parse_config(data, f"config {digest}", limits)
    if len(ids) != len(layers):
        raise FormatError(f"manifest.json names {len(layers)} layers, and the config {len(ids)}")
    return Image(
        content,
        digest,
        tuple(Layer(name, "", -1, diff) for name, diff in zip(layers, ids, strict=True)),
        runs_on,
        names_of,
    )


def _blob(blobs: Blobs, descriptor: Descriptor, limits: Limits) -> bytes:
    """A document by its descriptor; its size and digest are right before anything parses it."""
    data = read_document(blobs, _path(descriptor.digest), limits)
    if len(data) != descriptor.size:
        raise FormatError(
            f"blob {descriptor.digest} has {len(data)} bytes, expected {descriptor.size}"
        )
    check_same(digest_of(data), descriptor.digest, f"blob {descriptor.digest}")
    return data


def _path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _platforms(found: list[Descriptor]) -> str:
    return ", ".join(sorted({str(m.platform) for m in found if m.platform is not None})[:20])


def _quoted(text: str) -> str:
    return printable(text[:200].encode("utf-8", "surrogateescape"))
