"""Makes a protected image out of an image: the whole of `image encrypt`, without the command line.

In order: everything that can be refused is refused while nothing is written; layers are made in a
directory of this process alone; the session's new text is put on the disk beside the old one; the
image is stored; the session's new text takes its place. So whatever stops this in between leaves
the tag and the session as they were, or (in the moment between the last two) the new image without
a session that could open it, which running the command again mends.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple, Protocol

from crannog.errors import Error, Misconfigured
from crannog.image.check import (
    LABEL_AUTHENTICATED,
    LABEL_ENCRYPTED,
    LABEL_FSPF,
    LABEL_TAG,
    LABEL_VERSION,
    check_plan,
    check_request,
    warnings,
)
from crannog.image.destination import Destination, tag_lock
from crannog.image.engine import Engine
from crannog.image.layers import Sealed, make_layers
from crannog.image.plan import make_plan
from crannog.image.request import Request
from crannog.image.search import KeySearch
from crannog.image.session_file import SessionFile, Target, Values, edit_session, fill, find_target
from crannog.image.source import Source, open_source
from crannog.image.traces import find_traces
from crannog.oci.assemble import Blob, Documents, changed_config, documents
from crannog.oci.blobs import Blobs
from crannog.oci.limits import DEFAULT, Limits
from crannog.oci.model import Image, Platform
from crannog.oci.scan import scan_image
from crannog.oci.source import open_image
from crannog.oci.streams import Source as Stream
from crannog.shield.paths import printable
from crannog.wire import encode_json

_UNKNOWN = Values("/", "0" * 64, "0" * 32)


class Told(Protocol):
    """Who hears how far it is."""

    def step(self, what: str, size: int) -> None:
        """A step begins, of `size` bytes."""
        ...

    def progress(self, size: int) -> None:
        """So many bytes since the last call."""
        ...


class SessionChoice(NamedTuple):
    """Which service of which session file is written to.

    Attributes:
        path: the file.
        service: its name; None for the only one.
        replace: whether an fspf that another command wrote there may be replaced.
    """

    path: Path
    service: str | None
    replace: bool


class Encrypted(NamedTuple):
    """What was done.

    Attributes:
        values: what the session needs; the key is a secret.
        image_id: digest of the new config.
        files: how many files are protected.
        size: bytes of them.
        target: the service that was written to, where there is a session.
        warnings: what the user should know; one line each.
    """

    values: Values
    image_id: str
    files: int
    size: int
    target: Target | None
    warnings: tuple[str, ...]


def encrypt_image(
    source: Source,
    request: Request,
    destination: Destination,
    *,
    engine: Engine | None,
    session: SessionChoice | None,
    platform: Platform | None,
    now: datetime,
    version: str,
    told: Told,
    announce: Callable[[Values], None],
    random: Callable[[int], bytes] = os.urandom,
    limits: Limits = DEFAULT,
) -> Encrypted:
    """Store a protected form of `source` at `destination`, under a fresh key.

    Args:
        source: the image.
        request: what is protected in it.
        destination: where the new one goes.
        engine: whose store `source` is in, where it is in one.
        session: the file that gets path, key and tag.
        platform: which of several images is meant.
        now: for the image's time.
        version: of this program, for a label.
        told: hears how far it is.
        announce: gets the values before the image is stored; when it raises, nothing is.
        random: where keys come from.
        limits: bounds.

    Raises:
        Error: one of ours, with a hint; nothing was stored then.
    """
    with (
        tag_lock(destination),
        _session(session) as edited,
        tempfile.TemporaryDirectory(prefix="crannog-image-") as directory,
    ):
        work = Path(directory)
        target = None
        if edited is not None and session is not None:
            target = find_target(edited.data, session.service)
            # Whether it can be written is asked now, with values of the right form.
            fill(
                edited.data,
                session.service,
                _UNKNOWN._replace(path=os.fsdecode(request.fspf)),
                replace=session.replace,
            )
        destination.check()
        told.step("reading the image", 0)
        with open_source(source, engine, work, limits) as blobs:
            image = open_image(blobs, reference=source.reference, platform=platform, limits=limits)
            made = _make(
                blobs,
                image,
                request,
                _command(target),
                work,
                told=told,
                random=random,
                limits=limits,
            )
            values = Values(os.fsdecode(request.fspf), made.sealed.key.hex(), made.sealed.tag.hex())
            result = _documents(image, made.sealed, request, destination, now, version)
            if edited is not None and session is not None:
                edited.prepare(fill(edited.data, session.service, values, replace=session.replace))
            announce(values)
            layers = made.sealed.layers
            told.step("storing the image", sum(layer.size for layer in layers))
            opener = _Opener(blobs, image, made.sealed)
            destination.store(result, layers, opener, work, told.progress)
        if edited is not None:
            try:
                edited.commit()
            except Error:
                # An image whose key nobody has is of no use to anybody.
                _take_away(destination)
                raise
    return Encrypted(
        values, result.config_digest, made.sealed.files, made.sealed.size, target, made.warnings
    )


class _Made(NamedTuple):
    sealed: Sealed
    warnings: tuple[str, ...]


def _make(
    blobs: Blobs,
    image: Image,
    request: Request,
    command: tuple[str, ...],
    work: Path,
    *,
    told: Told,
    random: Callable[[int], bytes],
    limits: Limits,
) -> _Made:
    search = KeySearch()
    sizes = sum(blobs_size(blobs, image))
    told.step("looking through the layers", 2 * sizes)  # verified, then read
    scan = scan_image(blobs, image, visit=search.visit, progress=told.progress, limits=limits)
    check_request(request, scan, search, image.config, command=command)
    plan = make_plan(scan, request)
    check_plan(request, plan)
    told.step("protecting the files", sizes)
    sealed = make_layers(
        blobs,
        image,
        scan,
        plan,
        request,
        work,
        random=random,
        progress=told.progress,
        limits=limits,
    )
    if not sealed.files:
        raise Misconfigured(
            "the protected paths hold no files", hint="is it the right path, and the right image?"
        )
    return _Made(sealed, warnings(request, scan, search))


def blobs_size(blobs: Blobs, image: Image) -> list[int]:
    """Bytes of each layer's blob, for progress."""
    sizes = []
    for layer in image.layers:
        source, size = blobs.open(layer.blob)
        source.close()
        sizes.append(size)
    return sizes


def _documents(
    image: Image,
    sealed: Sealed,
    request: Request,
    destination: Destination,
    now: datetime,
    version: str,
) -> Documents:
    labels = {
        LABEL_VERSION: version,
        LABEL_FSPF: printable(request.fspf),
        LABEL_TAG: sealed.tag.hex(),
        LABEL_ENCRYPTED: _list(request.encrypt),
        LABEL_AUTHENTICATED: _list(request.authenticate),
    }
    created = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    config = changed_config(
        image.config,
        sealed.layers,
        labels=labels,
        created=created,
        created_by=f"crannog image encrypt ({version})",
        redact=find_traces(image.config, sealed.contents),
    )
    return documents(config, sealed.layers, name=destination.tag, platform=image.platform)


class _Opener:
    """Gives each blob of the new image: what was made, or the old layer's."""

    def __init__(self, blobs: Blobs, image: Image, sealed: Sealed) -> None:
        self._blobs = blobs
        self._staged = sealed.staged
        self._old = {
            blob.digest: layer.blob
            for blob, layer in zip(sealed.layers, image.layers, strict=False)
        }

    def __call__(self, blob: Blob) -> Stream:
        """Its bytes from the start."""
        staged = self._staged.get(blob.digest)
        if staged is not None:
            return staged.open("rb", buffering=0)
        return self._blobs.open(self._old[blob.digest])[0]


@contextlib.contextmanager
def _session(choice: SessionChoice | None) -> Iterator[SessionFile | None]:
    if choice is None:
        yield None
        return
    with edit_session(choice.path) as edited:
        yield edited


def _take_away(destination: Destination) -> None:
    if destination.engine is not None:
        destination.engine.remove(destination.tag)


def _command(target: Target | None) -> tuple[str, ...]:
    """The service's program, as far as a template says one."""
    if target is None:
        return ()
    try:
        words = shlex.split(target.command)
    except ValueError:
        return ()
    return () if not words or words[0].startswith("$") else (words[0],)


def _list(paths: tuple[bytes, ...]) -> str:
    return encode_json([printable(path) for path in paths]).decode()
