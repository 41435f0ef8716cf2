"""Where an image is taken from: an engine's store, a layout, an archive.

The prefixes are those of skopeo and podman: `oci:DIR[:REFERENCE]`, `oci-archive:FILE[:REFERENCE]`,
`docker-archive:FILE[:REFERENCE]`. Anything else is a name that an engine knows.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from crannog.errors import Misconfigured
from crannog.image.engine import Engine, check_source
from crannog.oci.blobs import Archive, Blobs, Directory
from crannog.oci.limits import DEFAULT, Limits

_DIRECTORY = "oci"
_ARCHIVES = ("oci-archive", "docker-archive")
_NAMES = ("docker-daemon", "containers-storage")
_OTHERS = ("docker", "dir", "docker://", "ostree", "sif", "tarball")


class Source(NamedTuple):
    """What SOURCE means.

    Attributes:
        kind: `engine`, `oci` or `archive`.
        name: of the image, or the path.
        reference: the image in a layout or archive; None where it is the only one.
    """

    kind: str
    name: str
    reference: str | None


def parse_source(text: str) -> Source:
    """SOURCE as the user wrote it.

    Raises:
        Misconfigured: a prefix that is not read here.
        FormatError: a malformed name.
    """
    prefix, colon, rest = text.partition(":")
    if colon and prefix == _DIRECTORY:
        return Source("oci", *_split(rest))
    if colon and prefix in _ARCHIVES:
        return Source("archive", *_split(rest))
    if colon and prefix in _NAMES:
        return Source("engine", check_source(rest), None)
    if colon and prefix in _OTHERS and (prefix != "docker" or rest.startswith("//")):
        raise Misconfigured(
            f"SOURCE is {text[:200]!r}: that is not read here",
            hint="pull the image and give its name, or copy it by"
            f" skopeo copy {prefix}:… oci:DIRECTORY",
        )
    if text.startswith(("/", "./", "../")):
        path = Path(text)
        hint = f"oci:{text}" if path.is_dir() else f"docker-archive:{text}"
        raise Misconfigured(f"SOURCE {text[:200]!r} says not what it is", hint=f"write {hint}")
    return Source("engine", check_source(text), None)


@contextlib.contextmanager
def open_source(
    source: Source, engine: Engine | None, work: Path, limits: Limits = DEFAULT
) -> Iterator[Blobs]:
    """The blobs of a source; an engine's image is saved into `work` first.

    Raises:
        NotFound, StorageFailed, Unavailable, FormatError, TooLarge, Unsupported: as the parts.
    """
    blobs: Blobs
    if source.kind == "engine":
        assert engine is not None
        engine.diff_ids(source.name)
        saved = work / "source"
        engine.save(source.name, saved)
        blobs = Archive(saved, limits)
    elif source.kind == "oci":
        blobs = Directory(Path(source.name))
    else:
        blobs = Archive(Path(source.name), limits)
    try:
        yield blobs
    finally:
        blobs.close()


def _split(text: str) -> tuple[str, str | None]:
    """PATH[:REFERENCE]; a reference may have colons itself, a path that exists wins."""
    if Path(text).exists():
        return text, None
    path, colon, reference = text.partition(":")
    return (path, reference) if colon and reference else (text, None)
